"""Target mindir: MindSpore's graph mode in a file, the same bit for bit, here and in a process that only loads it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import onnx_file
from converters.delivery_note import read_delivery
from converters.load import LoadedModel, load_model
from converters.weights import digest
from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, ModelSpec
from evaluation.delivery import mindir
from evaluation.delivery.settings import Delivered, ExportSettings
from tests.mindir_scenes import changed, export, exported, net_of
from tests.running import command

SPEC = SPECS["db_mv3_paddle"]
ASKED = ExportSettings(target="mindir")
#: Neither MindSpore's export nor many a shell takes such a name.
NAME = "a+b é.mindir"


@pytest.fixture(scope="module", autouse=True)
def _mindspore() -> None:
    pytest.importorskip("mindspore")


def model_of(spec: ModelSpec, folder: Path, dtype: str = "float32") -> LoadedModel:
    """A file with seeded weights, read."""
    weights = seeded_weights(spec, 0, dtype)
    with (folder / "model.onnx").open("wb") as stream:
        onnx_file.write(stream, weights, spec, Record(spec, "mindocr", None).to_json(), form="archive")
    return load_model(folder / "model.onnx")


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory) -> LoadedModel:
    return model_of(SPEC, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", name="written")
def _written(model, tmp_path_factory) -> Delivered:
    return mindir.write(model, tmp_path_factory.mktemp("written") / NAME, ASKED)


@pytest.fixture(scope="module", name="logits")
def _logits(model, tmp_path_factory) -> Delivered:
    """Of one size, for two images, before the sigmoid."""
    asked = replace(ASKED, data_shape=(64, 128), batch=2, output="logits")
    return mindir.write(model, tmp_path_factory.mktemp("logits") / "x.mindir", asked)


@cache
def graph_mode(stage: str = "probability") -> Any:
    """The runner whose bits are wanted; each is compiled once."""
    from ms_models.runner import MindSporeRunner
    return MindSporeRunner(SPEC, seeded_weights(SPEC), "cpu", (stage,))


@cache
def of_file(path: Path, stage: str = "probability") -> Any:
    from ms_models.mindir import MindIRRunner
    return MindIRRunner(path, SPEC, "cpu", (stage,))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


# The file -------------------------------------------------------------------------------------------------------------


def test_it_is_graph_mode_bit_for_bit_at_every_size(written):
    for size in ((1, 128, 96), (2, 96, 160), (3, 32, 32)):
        images = seeded_images(*size, seed=5)
        expected = graph_mode().run(images)["probability"]
        assert np.array_equal(of_file(written.path).run(images)["probability"], expected)
    assert "bit for bit" in written.told[0]
    assert (written.input_name, written.input_shape, written.opset) == ("x", ("N", 3, "H", "W"), None)


def test_it_is_a_usual_file_under_its_own_name(written):
    assert written.files == (written.path,) and list(written.path.parent.iterdir()) == [written.path]
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    os.umask(current := os.umask(0))
    return current


def test_it_carries_the_record_and_reads_back(written, model, tmp_path):
    read = load_model(written.path)
    assert not read.bare and read.record.spec == model.record.spec and read.subset == "inference"
    assert read.record.sha256 and read.notes == [note for note in read.notes if "inference" in note]
    note = read_delivery(written.path)
    assert note is not None and (note.target, note.output, note.pixels) == ("mindir", "probability", SPEC.pixels)
    assert command("convert", written.path, tmp_path / "y.ckpt").returncode == 0
    back = load_model(tmp_path / "y.ckpt")
    assert back.record.sha256 == read.record.sha256
    assert all(np.array_equal(array, model.weights[name]) for name, array in back.weights.items())
    assert command("compare", written.path, tmp_path / "y.ckpt", "--weights").returncode == 0
    assert "digest matches" in command("inspect", written.path).stdout


def test_logits_at_a_fixed_size(logits):
    images = seeded_images(2, 64, 128, seed=7)
    expected = graph_mode("logits").run(images)["logits"]
    assert np.array_equal(of_file(logits.path, "logits").run(images)["logits"], expected)
    found = of_file(logits.path).run(images)["probability"]
    assert np.abs(found - sigmoid(expected)).max() < 1e-6  # a probability all the same
    assert (logits.input_shape, logits.output) == ((2, 3, 64, 128), "logits")
    assert logits.spec.pixels.size == (64, 128)
    read = load_model(logits.path)
    assert any("gives logits" in note for note in read.notes)
    assert any("2x3x64x128 only" in note for note in read.notes)


@pytest.mark.parametrize(("size", "told"), [((2, 96, 128), r"\(2, 3, 64, 128\) only, not \(2, 3, 96, 128\)"),
                                            ((1, 64, 128), "exactly 2 images at once")])
def test_another_size_is_told(size, told, logits):
    with pytest.raises(DbnetError, match=told):
        of_file(logits.path).run(seeded_images(*size))


def test_half_precision_weights_are_written_as_float32(tmp_path):
    model = model_of(SPEC, tmp_path, "float16")
    whole, stored = mindir.in_float32(model)
    assert stored == "float16" and {array.dtype.name for array in whole.weights.values()} == {"float32"}
    assert all(np.array_equal(array, model.weights[name]) for name, array in whole.weights.items())
    assert whole.record.sha256 == digest(whole.weights) and not any("thresh" in name for name in whole.weights)


PLAIN = """
import sys
import numpy as np
import mindspore as ms
ms.set_context(mode=ms.GRAPH_MODE)
graph = ms.nn.GraphCell(ms.load(sys.argv[1]))
np.save(sys.argv[3], graph(ms.Tensor(np.load(sys.argv[2]))).asnumpy())
"""


def test_a_process_that_only_loads_it_computes_the_same(written, tmp_path):
    """MindSpore alone, nothing of ours, under the limit of oneDNN that this process has."""
    from ms_models import compat
    images = seeded_images(1, 96, 128, seed=9)
    expected = graph_mode().run(images)["probability"]
    np.save(tmp_path / "in.npy", images)
    limit = compat.isa_limit()
    environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": limit} if limit else {}), "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", PLAIN, written.path, tmp_path / "in.npy", tmp_path / "out.npy"], check=True,
                   env=environment, cwd=tmp_path, timeout=300)
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)


# What goes wrong ------------------------------------------------------------------------------------------------------


class Off:
    """A file's runner whose map is one bit off in one pixel."""

    def __init__(self, true: Any):
        self._true = true

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        maps = {stage: array.copy() for stage, array in self._true.run(images).items()}
        for array in maps.values():
            array[0, 0, 7, 9] = np.nextafter(array[0, 0, 7, 9], np.float32(2))
        return maps


def test_one_bit_off_is_seen(written):
    size = (1, 32, 64)
    expected = {size: graph_mode().run(seeded_images(*size))["probability"]}
    assert "bit for bit" in mindir._compared(of_file(written.path), expected)
    with pytest.raises(DbnetError, match=r"another probability than graph mode, by [0-9.]+e-0[789] at 1x32x64"):
        mindir._compared(Off(of_file(written.path)), expected)


@pytest.mark.long
def test_a_file_that_computes_something_else_never_appears(model, tmp_path, monkeypatch):
    from ms_models import mindir as reader
    true = reader.MindIRRunner
    monkeypatch.setattr(reader, "MindIRRunner", lambda *given: Off(true(*given)))
    with pytest.raises(DbnetError, match="gives another probability than graph mode"):
        mindir.write(model, tmp_path / "x.mindir", replace(ASKED, data_shape=(32, 64)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_other_weights_never_appear(model, tmp_path, monkeypatch):
    from ms_models import mindir as writer
    true = writer.write

    def other(stream, runner, shape, user_info):
        import mindspore as ms
        bias = next(one for one in runner.net.get_parameters() if one.name == "head.segm.6.bias")
        bias.set_data(ms.Tensor(bias.asnumpy() + np.float32(1e-6)))
        true(stream, runner, shape, user_info)

    monkeypatch.setattr(writer, "write", other)
    with pytest.raises(DbnetError, match=r"head\.segm\.6\.bias"):
        mindir.write(model, tmp_path / "x.mindir", replace(ASKED, data_shape=(32, 64)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("change", "told"), [
    ({"precision": "fp16"}, "--target lite"),
    ({"keep_float32": ("head",)}, "--keep-float32"),
    ({"opset": 13}, "--opset is of an .onnx"),
    ({"deformable": "native"}, "--deformable is of an .onnx"),
    ({"buckets": ((736, 1280),)}, "--buckets is of targets lite and om"),
    ({"data_shape": (33, 64)}, "multiples of 32"),
    ({"batch": 0}, "at least 1 image"),
])
def test_settings_that_mean_nothing(change, told, model, tmp_path):
    with pytest.raises(DbnetError, match=told):
        mindir.write(model, tmp_path / "x.mindir", replace(ASKED, **change))
    assert list(tmp_path.iterdir()) == []


def test_it_must_be_called_so_and_nothing_is_replaced_unasked(model, tmp_path):
    with pytest.raises(DbnetError, match=r"not called \.mindir"):
        mindir.write(model, tmp_path / "x.bin", ASKED)
    (tmp_path / "x.mindir").write_bytes(b"mine")
    with pytest.raises(DbnetError, match="--force"):
        mindir.write(model, tmp_path / "x.mindir", ASKED)
    assert (tmp_path / "x.mindir").read_bytes() == b"mine"


# Anybody's .mindir ----------------------------------------------------------------------------------------------------


def plain(path: Path, content: bytes | None = None) -> Path:
    """What plain mindspore.export writes, fixed at 64x64 as MindOCR's are at 736x1280."""
    path.write_bytes(exported(SPEC) if content is None else content)
    return path


def test_one_of_plain_export_runs(tmp_path):
    runner = of_file(plain(tmp_path / "x.mindir"))
    images = seeded_images(2, 64, 64)  # one after the other, for it takes one: of two at once the bits may be others
    one_by_one = np.concatenate([graph_mode().run(image[None])["probability"] for image in images])
    assert np.array_equal(runner.run(images)["probability"], one_by_one)
    assert (runner.shape, runner.logits, runner.notes) == ((1, 3, 64, 64), False, [])
    told = runner.environment()
    assert told["framework"] == "mindspore" and told["graph"] == "mindir" and told["device"] == "cpu"
    with pytest.raises(DbnetError, match=r"resize=stretch,size=64x64"):
        runner.run(seeded_images(1, 64, 96))


def without_note(model) -> None:
    model.user_info.clear()


def test_logits_of_a_file_that_does_not_say_so_are_told(logits, tmp_path):
    """As another's export would be: nothing stands beside the graph."""
    (tmp_path / "x.mindir").write_bytes(changed(logits.path.read_bytes(), without_note))
    runner = of_file(tmp_path / "x.mindir")
    assert len(runner.notes) == 1 and "a sigmoid is applied" in runner.notes[0]
    images = seeded_images(2, 64, 128)
    assert np.array_equal(runner.run(images)["probability"], of_file(logits.path).run(images)["probability"])
    with pytest.raises(DbnetError, match=r"no sigmoid follows head\.segm\.6"):
        load_model(tmp_path / "x.mindir")


def no_image(model) -> None:
    model.graph.input[0].tensor[0].dims[1] = 4


def two_inputs(model) -> None:
    model.graph.input.add().CopyFrom(model.graph.input[0])


def odd_sides(model) -> None:
    model.graph.input[0].tensor[0].dims[2] = 50


def by_lite(model) -> None:
    for primitive in model.primitives:
        primitive.op_type = {"Conv2D": "Conv2DFusion"}.get(primitive.op_type, primitive.op_type)


def bad_note(model) -> None:
    model.user_info["dbnet.delivery"] = "{"


@pytest.mark.parametrize(("change", "told"), [
    (no_image, r"\(1, 4, 64, 64\), not one colour image"),
    (two_inputs, "one image and nothing else"),
    (odd_sides, "multiples of 32"),
    (by_lite, "--runner mindspore_lite"),
    (bad_note, "delivery note is damaged"),
])
def test_another_graph_is_refused(change, told, tmp_path):
    from ms_models.mindir import MindIRRunner
    with pytest.raises(DbnetError, match=told):
        MindIRRunner(plain(tmp_path / "x.mindir", changed(exported(SPEC), change)), SPEC, "cpu")


@pytest.mark.parametrize(("name", "content", "told"), [
    ("x.mindir", b"", "damaged or no MindIR"),
    ("x.mindir", b"\x0a\xff nonsense", "damaged or no MindIR"),
    ("x.mindir", b"\xd8\x5e\x3a\x7f" * 9, "is encrypted"),
    ("x.onnx", b"", r"not called \.mindir"),
    ("none.mindir", None, "cannot be read"),
])
def test_no_file_to_run(name, content, told, tmp_path):
    from ms_models.mindir import MindIRRunner
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DbnetError, match=told):
        MindIRRunner(tmp_path / name, SPEC, "cpu")


def test_stages_that_it_does_not_give(written):
    from ms_models.mindir import MindIRRunner
    for stages in (("c2",), ("logits",), ("probability", "logits")):
        with pytest.raises(DbnetError, match="gives the probability map by its own graph"):
            MindIRRunner(written.path, SPEC, "cpu", stages)


@pytest.mark.long
def test_several_maps_are_no_map(tmp_path):
    from ms_models.mindir import MindIRRunner
    from ms_models.runner import Stages
    several = export(Stages(net_of(SPEC), ("fused", "probability")).set_train(False), tmp_path / "x.mindir")
    with pytest.raises(DbnetError, match="not one probability map"):
        MindIRRunner(several, SPEC, "cpu")


# The seed's sizes, every network --------------------------------------------------------------------------------------

#: Bytes of memory that MindSpore takes for each pixel of the image, with deformable convolutions.
DEFORMABLE_BYTES = {"resnet18": 5_500, "resnet50": 12_500}
SIZES = (None, (736, 1280), (1152, 2048))

WRITE = """
import sys
from pathlib import Path
from converters.load import load_model
from evaluation.delivery import mindir
from evaluation.delivery.settings import ExportSettings
shape = tuple(map(int, sys.argv[3:])) or None
print(mindir.write(load_model(sys.argv[1]), Path(sys.argv[2]), ExportSettings(data_shape=shape)).told[0])
"""


def free_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_every_network_at_the_seeds_sizes(name, size, tmp_path, root):
    """In a process of its own, which gives its memory back."""
    spec = SPECS[name]
    if spec.deformable != "none" and size is not None:
        needed = DEFORMABLE_BYTES[spec.backbone] * size[0] * size[1]
        if free_memory() < needed:
            pytest.skip(f"MindSpore takes {needed / 1e9:.0f} GB of memory for it")
    model_of(spec, tmp_path)
    done = subprocess.run([sys.executable, "-c", WRITE, tmp_path / "model.onnx", tmp_path / "x.mindir",
                           *map(str, size or ())], cwd=root, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "bit for bit" in done.stdout
