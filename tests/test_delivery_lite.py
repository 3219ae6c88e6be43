"""Targets lite and om: sizes that match the resize rule, and everything up to the converters.

Neither converter_lite nor ATC were to be had. Where they are called, programs of a few lines stand in for them: they
show that they are called as their documentation says, and nothing else.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.load import LoadedModel, SourceOptions, load_model
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.preprocess import prepare, read_image
from dbnet.seeded import seeded_images
from dbnet.spec import MINDOCR_PIXELS, MMOCR_PIXELS, SPECS
from evaluation.delivery import converting, lite, om
from evaluation.delivery.buckets import choose, count, most_frequent
from evaluation.delivery.settings import ExportSettings
from evaluation.few_sizes import bucket_for, padded_run
from evaluation.lite_sidecar import read_sidecar
from tests.running import command
from tests.test_delivery_mindir import model_of

SPEC = SPECS["db_mv3_paddle"]
PADDLE = SPEC.pixels
LITE, OM = ExportSettings(target="lite"), ExportSettings(target="om")
TWO = ((736, 1280), (736, 992))
sides = st.integers(1, 12).map(lambda side: side * 32)
counts = st.dictionaries(st.tuples(sides, sides), st.integers(1, 9), min_size=1, max_size=12).map(Counter)


@pytest.fixture(scope="module", name="images")
def _images(tmp_path_factory) -> list[Path]:
    """Four of one size, one upright, one small."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for seed, size in enumerate([(360, 640)] * 4 + [(640, 360), (100, 90)]):
        paths.append(folder / f"{seed}.png")
        cv2.imwrite(str(paths[-1]), draw(seed, *size)[0])
    return paths


@pytest.fixture(scope="module", name="model")
def _model(root) -> LoadedModel:
    """Trained; images keep their size, for those of the comparison are small then."""
    return load_model(root / "dbnet/embedded/dbnet_mobilenetv3.safetensors", SourceOptions(pixels="resize=grid"))


# Buckets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [
    PADDLE, MINDOCR_PIXELS, MMOCR_PIXELS, replace(PADDLE, resize="short_side"), replace(PADDLE, resize="grid"),
    replace(MINDOCR_PIXELS, resize="keep_ratio"), replace(MINDOCR_PIXELS, resize="keep_ratio_pad"),
    replace(PADDLE, resize="limit_max", size=(256, 256)), replace(PADDLE, resize="limit_min"),
], ids=lambda pixels: pixels.resize)
def test_sizes_are_those_of_the_evaluation(pixels, images):
    true = Counter(prepare(read_image(path), pixels).tensor.shape[2:] for path in images)
    assert count(images, pixels) == true


def test_an_image_counts_as_it_is_shown(tmp_path):
    from PIL import Image
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (640, 360)).save(tmp_path / "x.jpg", exif=turned)
    grid = replace(PADDLE, resize="grid")
    assert count([tmp_path / "x.jpg"], grid) == {(640, 384): 1}
    assert count([tmp_path / "x.jpg"], replace(grid, ignore_orientation=True)) == {(384, 640): 1}


@given(counts, st.integers(1, 6))
def test_every_image_fits_somewhere(counts, most):
    sizes = most_frequent(counts, most)
    assert 1 <= len(sizes) <= most and len(set(sizes)) == len(sizes)
    assert all(bucket_for(size, sizes) for size in counts)
    if len(counts) <= most:
        assert set(sizes) == set(counts)
    elif len(sizes) > 1:
        assert sizes[0] in counts and counts[sizes[0]] == max(counts.values())


@given(st.tuples(sides, sides), st.lists(st.tuples(sides, sides), max_size=8))
def test_the_next_size_is_the_smallest_that_has_room(size, sizes):
    found = bucket_for(size, sizes)
    room = [one for one in sizes if one[0] >= size[0] and one[1] >= size[1]]
    assert (found is None) == (not room)
    if found:
        assert found in room and found[0] * found[1] == min(one[0] * one[1] for one in room)
        assert size not in sizes or found == size


def test_the_images_decide(images):
    chosen = choose(PADDLE, replace(LITE, images=tuple(images)))
    assert chosen.sizes == ((832, 736), (736, 1312), (1312, 736)) and chosen.pixels == PADDLE
    assert any("of 6 images 6 (100 %) have one of these sizes" in line for line in chosen.told)
    two = choose(PADDLE, replace(LITE, images=tuple(images), most_buckets=2))
    assert two.sizes == ((736, 1312), (1312, 736)) and any("1 (16.7 %) are padded" in line for line in two.told)
    said = choose(PADDLE, replace(LITE, images=tuple(images), buckets=((736, 1312), (736, 992))))
    assert any("4 (66.7 %) have one of these sizes" in line and "are refused" in line for line in said.told)


def test_a_rule_of_one_size_has_one_bucket():
    assert choose(MINDOCR_PIXELS, LITE).sizes == ((736, 1280),)
    other = choose(MINDOCR_PIXELS, replace(LITE, data_shape=(640, 640)))
    assert (other.sizes, other.pixels.size, other.pixels.resize) == (((640, 640),), (640, 640), "stretch")
    padded = choose(PADDLE, replace(LITE, data_shape=(736, 1280)))
    assert (padded.sizes, padded.pixels.resize) == (((736, 1280),), "keep_ratio_pad")
    assert "are padded to 736x1280" in padded.told[0]


@pytest.mark.parametrize(("pixels", "change", "told"), [
    (PADDLE, {}, r"--images DIR.*--buckets 736x1280.*--data-shape"),
    (PADDLE, {"buckets": ((736, 1281),)}, "multiples of 32"),
    (PADDLE, {"buckets": TWO, "data_shape": (736, 1280)}, "leave one of them out"),
    (PADDLE, {"buckets": tuple((32, 32 * i) for i in range(1, 102))}, "101 buckets are too many"),
    (PADDLE, {"buckets": TWO, "most_buckets": 0}, "1 to 100 sizes, not 0"),
    (MINDOCR_PIXELS, {"buckets": TWO}, "no use for 2 sizes"),
    (PADDLE, {"images": (Path("nowhere.png"),)}, "cannot be read"),
])
def test_buckets_that_cannot_be(pixels, change, told):
    with pytest.raises(DbnetError, match=told):
        choose(pixels, replace(LITE, **change))


def test_a_padded_image_keeps_its_boxes(model):
    """In a runtime that is here: a trained network's map moves at the edges, and no box appears or goes."""
    from dbnet.postprocess import boxes_from_map
    from evaluation.runners import OnnxRuntimeRunner, archive
    runner = OnnxRuntimeRunner(archive(model.record.spec, model.weights, False), model.record.spec)
    pixels = replace(model.record.spec.pixels, resize="grid")
    tensor = prepare(draw(1, 352, 640)[0], pixels).tensor

    def run(images: np.ndarray) -> np.ndarray:
        return runner.run(images)["probability"]

    def boxes(map_: np.ndarray) -> list[Any]:
        return [np.round(one.polygon / 8) for one in boxes_from_map(map_[0, 0], "mindocr")]

    whole = run(tensor)
    assert np.array_equal(padded_run(run, tensor, [(352, 640), (736, 1280)], "x"), whole)
    padded = padded_run(run, tensor, [(320, 1280), (384, 704), (736, 1280)], "x")
    assert padded.shape == whole.shape and not np.array_equal(padded, whole)
    assert len(boxes(whole)) == len(boxes(padded)) > 2


def test_an_image_too_large_for_every_size_is_refused():
    with pytest.raises(DbnetError, match=r"takes images of 32x64, 64x96, and one of 96x32 is larger than each"):
        padded_run(lambda images: images, seeded_images(1, 96, 32), [(64, 96), (32, 64)], "x.mindir")


# What the converters are given ----------------------------------------------------------------------------------------


def test_configurations():
    one = lite.configuration_of(((736, 1280),), 1, "float32").splitlines()
    assert one == ["[ascend_context]", "input_format=NCHW", "input_shape=x:[1,3,736,1280]",
                   "precision_mode=preferred_fp32"]
    several = lite.configuration_of(TWO, 2, "fp16").splitlines()
    assert several[2:] == ["input_shape=x:[2,3,-1,-1]", "dynamic_dims=[736,1280],[736,992]",
                           "precision_mode=enforce_fp16"]
    arguments = om.arguments_of(Path("/x/a.onnx"), TWO, 1, "fp16", Path("/x/a.keep_dtype.cfg"))
    assert set(arguments) == {"--framework=5", "--model=a.onnx", "--precision_mode=force_fp16", "--log=error",
                              "--keep_dtype=a.keep_dtype.cfg", "--input_format=ND", "--input_shape=image:1,3,-1,-1",
                              "--dynamic_dims=736,1280;736,992"}
    assert "--input_shape=image:1,3,736,1280" in om.arguments_of(Path("a.onnx"), TWO[:1], 1, "float32", None)


def program(folder: Path, name: str, text: str) -> None:
    """Something to find on the PATH, which stands in for a vendor's."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\nimport sys, time, pathlib, shutil\n"
                               f"given = dict(one.lstrip('-').split('=', 1) for one in sys.argv[1:] if '=' in one)\n"
                               f"{text}\n")
    (folder / name).chmod(0o755)


ATC = """
pathlib.Path('called.txt').write_text('\\n'.join(sys.argv[1:]))
shutil.copy(given['model'], given['output'] + '.om')
print('ATC run success, welcome to the next use.')
"""


@pytest.fixture(name="path")
def _path(tmp_path, monkeypatch) -> Path:
    """A folder that is first on the PATH; and no converter elsewhere."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_om_without_atc_keeps_everything_and_fails(root, tmp_path, path):
    source = root / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
    done = command("export", source, tmp_path / "x.om", "--buckets", "64x96,96x160", "--pixels", "resize=grid",
                   "--precision", "fp16", "--keep-float32", "head")
    assert done.returncode == 3 and not (tmp_path / "x.om").exists()
    assert "atc is not installed here" in done.stderr and "sh x.atc.sh CHIP" in done.stderr
    assert "same probability as the archive form in ONNX Runtime" in done.stdout
    kept = (tmp_path / "x.keep_dtype.cfg").read_text().split()
    assert kept[0] == "head.segm.0" and kept[-1] == "head.sigmoid"
    script = (tmp_path / "x.atc.sh").read_text()
    assert "--keep_dtype=x.keep_dtype.cfg" in script and "'--dynamic_dims=64,96;96,160'" in script
    graph = load_model(tmp_path / "x.onnx")
    assert {array.dtype.name for array in graph.weights.values()} == {"float32"}  # ATC makes it short


def test_the_script_works_where_its_folder_is_copied_to(tmp_path, path, model):
    """Also under a name that a shell would take apart; with a program in the place of ATC."""
    name = "it's $(touch gone) \n x.om"
    om.write(model, tmp_path / name, replace(OM, buckets=((64, 96),)))
    program(path, "atc", ATC)
    (moved := tmp_path / "else where").mkdir()
    for file in tmp_path.glob("it's*"):
        shutil.copy(file, moved)
    script = next(moved.glob("*.atc.sh"))
    without = subprocess.run(["sh", script], cwd="/", capture_output=True, text=True)
    assert without.returncode and "name the chip" in without.stderr
    subprocess.run(["sh", script, "Ascend310P3"], cwd="/", check=True, capture_output=True)
    assert (moved / name).is_file() and not list(tmp_path.rglob("gone"))
    assert "--soc_version=Ascend310P3" in (moved / "called.txt").read_text().splitlines()


def test_om_with_something_called_atc(root, tmp_path, path):
    """A program in its place: it gets what the script says, and the file has its name when it is whole."""
    source = root / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
    program(path, "atc", ATC.replace("'called.txt'", f"{str(tmp_path / 'called.txt')!r}"))
    program(path, "npu-smi", "print('NPU ID  Chip ID  Chip Logic ID  Chip Name\\n0  0  0  Ascend 910B4')")
    done = command("export", source, tmp_path / "x.om", "--data-shape", "64", "96")
    assert done.returncode == 0, done.stderr
    assert {one.name for one in tmp_path.glob("x.*")} == {"x.om", "x.onnx", "x.atc.sh"}
    called = (tmp_path / "called.txt").read_text().split("\n")
    assert {"--framework=5", "--model=x.onnx", "--input_shape=image:1,3,64,96", "--input_format=NCHW",
            "--soc_version=Ascend910B4", "--precision_mode=allow_fp32_to_fp16"} <= set(called)
    assert "not run: an .om runs on an NPU only" in done.stdout


@pytest.mark.parametrize(("text", "told"), [
    ("print('E10001: Value [Ascend1] for [--soc_version] is invalid.'); sys.exit(1)", r"exit code 1\): E10001"),
    ("print('ATC run failed, Please check the detail log'); sys.exit(1)", "ATC run failed"),
    ("print('fine')", r"exit code 0\): fine"),
    ("print('ATC run success')", r"^atc says 'ATC run success' of x\.onnx and has written no x\.om$"),
    ("pathlib.Path(given['output'] + '.om').touch(); print('half')", r"exit code 0\): half"),
    ("pathlib.Path(given['output'] + '.om').touch(); print('ATC run success'); sys.exit(1)", "exit code 1"),
    ("", "it says nothing"),
    ("time.sleep(60)", "did not end within 1 s"),
])
def test_a_converter_that_fails(text, told, tmp_path, path, monkeypatch):
    program(path, "atc", text)
    monkeypatch.setattr(converting, "PATIENCE", 1.0)
    (tmp_path / "x.onnx").write_bytes(b"graph")
    conversion = converting.Conversion(om.ATC, ("--model=x.onnx",), "--output=", tmp_path / "x.atc.sh",
                                       (tmp_path / "x.onnx",))
    undone = converting.convert(conversion, tmp_path / "x.om")
    assert undone is not None and converting.re.search(told, undone)
    assert {one.name for one in tmp_path.iterdir()} == {"x.onnx", "bin"}


@pytest.mark.parametrize(("table", "chip"), [
    ("0  0  0  Ascend 910B4\n0  1  -  Mcu", "Ascend910B4"), ("0 0 0 310P3\n1 0 1 310P3", "Ascend310P3"),
    ("0 0 0 Ascend310", "Ascend310"), ("0 0 0 Ascend910_9391", "Ascend910_9391"), ("no device", None), ("", None)])
def test_the_chip_in_a_table(table, chip):
    assert converting.chip_listed(f"NPU ID  Chip ID  Chip Logic ID  Chip Name\n{table}\n") == chip


@pytest.mark.parametrize(("out", "change", "told"), [
    ("x.om", {"opset": 19}, "opsets 9 to 18, not 19"),
    ("x.om", {"deformable": "native"}, "CANN lists none above 18"),
    ("x.om", {"keep_float32": ("head",)}, "choose --precision fp16"),
    ("x.om", {"precision": "fp16", "keep_float32": ("haed",)}, "no layer 'haed'"),
    ("x.om", {"soc": "310P3"}, "unknown chip '310P3'"),
    ("x.onnx", {}, r"called \.om"),
    ("x.om", {"batch": 0}, "at least 1 image"),
])
def test_om_refuses(out, change, told, model, tmp_path):
    with pytest.raises(DbnetError, match=told):
        om.write(model, tmp_path / out, replace(OM, **change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("out", "change", "told"), [
    ("x.mindir", {"keep_float32": ("head",), "precision": "fp16"}, "--target om has one"),
    ("x.mindir", {"opset": 13}, "--opset is of an .onnx"),
    ("x.mindir", {"soc": "Ascend310P3"}, "leave out --soc"),
    ("x.ms", {"buckets": TWO}, "need no --buckets"),
    ("x.ms", {"precision": "fp16"}, "need no --precision fp16"),
    ("x.om", {}, r"called \.mindir \(for Ascend\) or \.ms"),
])
def test_lite_refuses(out, change, told, model, tmp_path):
    with pytest.raises(DbnetError, match=told):
        lite.write(model, tmp_path / out, replace(LITE, **change))
    assert list(tmp_path.iterdir()) == []


def test_lite_prepared(tmp_path, path, monkeypatch):
    pytest.importorskip("mindspore")
    (tmp_path / "source").mkdir()
    source = model_of(SPEC, tmp_path / "source").path
    asked = ("export", source, tmp_path / "x.mindir", "--target", "lite", "--data-shape", "64", "96", "--prepare")
    done = command(*asked)
    assert done.returncode == 0 and "converter_lite was not run (--prepare)" in done.stdout, done.stderr
    made = {"x.graph.mindir", "x.lite.txt", "x.lite.sh", "x.lite.json"}
    assert {one.name for one in tmp_path.glob("x.*")} == made
    assert load_model(tmp_path / "x.graph.mindir").record.spec.name == SPEC.name
    sidecar = read_sidecar(tmp_path / "x.mindir")
    assert sidecar is not None and sidecar.sizes == ((64, 96),) and sidecar.spec.pixels.size == (64, 96)
    assert "--configFile=x.lite.txt" in (tmp_path / "x.lite.sh").read_text()
    (tmp_path / "x.graph.mindir").unlink()
    monkeypatch.delattr(lite, "write")  # it is refused before any work is done
    again = command(*asked)
    assert again.returncode == 3 and "x.lite.txt: exists already; add --force" in again.stderr
    assert {one.name for one in tmp_path.glob("x.*")} == made - {"x.graph.mindir"}
    (tmp_path / "x.mindir").write_bytes(b"of an earlier export")
    stale = command(*asked, "--force")
    assert stale.returncode == 3 and "x.mindir: is of an earlier export" in stale.stderr


def test_an_earlier_file_is_not_paired_with_what_is_new(root, tmp_path, path):
    """The converter fails: nothing is changed, whatever --force says."""
    source = root / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
    asked = ("export", source, tmp_path / "x.om", "--data-shape", "64", "96", "--soc", "Ascend310P3", "--force")
    program(path, "atc", "print('E10001: no'); sys.exit(1)")
    assert command(*asked).returncode == 3
    before = {one.name: one.read_bytes() for one in tmp_path.glob("x.*")}
    assert set(before) == {"x.onnx", "x.atc.sh"}
    (tmp_path / "x.om").write_bytes(b"of an earlier export")
    done = command(*asked, "--output", "logits")
    assert done.returncode == 3 and "x.om: is of an earlier export, and no new one is made" in done.stderr
    assert "exit code 1): E10001: no" in done.stderr
    assert {one.name: one.read_bytes() for one in tmp_path.glob("x.*")} == before | {"x.om": b"of an earlier export"}


LITE_PROGRAM = """
pathlib.Path(given['outputFile'] + '.mindir').write_bytes(b'converted')
assert pathlib.Path(given['configFile']).read_text().startswith('[ascend_context]')
print('CONVERT RESULT SUCCESS:0')
"""


@pytest.mark.long
def test_lite_with_and_without_something_called_converter_lite(root, tmp_path, path):
    pytest.importorskip("mindspore")
    source = root / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
    asked = ("export", source, tmp_path / "x.mindir", "--target", "lite", "--data-shape", "64", "96")
    done = command(*asked)
    assert done.returncode == 3 and "converter_lite is not installed here" in done.stderr
    assert "sh x.lite.sh" in done.stderr and not (tmp_path / "x.mindir").exists()
    program(path, "converter_lite", LITE_PROGRAM)
    subprocess.run(["sh", tmp_path / "x.lite.sh"], check=True, capture_output=True)
    assert (tmp_path / "x.mindir").read_bytes() == b"converted"
    tied = hashlib.sha256(b"converted").hexdigest()
    assert read_sidecar(tmp_path / "x.mindir").file == tied
    done = command(*asked, "--force")
    assert done.returncode == 0 and "not run: mindspore_lite is not installed here" in done.stdout, done.stderr
    assert (tmp_path / "x.mindir").read_bytes() == b"converted"
    assert read_sidecar(tmp_path / "x.mindir").file == tied
