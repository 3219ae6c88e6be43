"""Training files: whole or as before, whatever happens while they are written, and read back to the last bit."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converters.formats import codec
from converters.load import SourceOptions, load_model
from converters.training_file import ABOUT, read_training, write_training
from dbnet.errors import DbnetError
from dbnet.loss_settings import Losses
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from dbnet.train_settings import OptimizerSettings
from dbnet.training import Progress, TrainingState, learned, packed
from evaluation.training_curves import curves, nice_ticks
from evaluation.training_folder import Folder
from evaluation.training_journal import Journal, Row

SPEC = SPECS["dbnet_mobilenetv3"]


@functools.cache
def base() -> dict[str, np.ndarray]:
    return {name: np.float32(np.abs(array)) for name, array in seeded_weights(SPEC, 1).items()}


def state_of(number: float, optimizer: str = "adam", pending: bool = True) -> dict[str, np.ndarray]:
    """A state with everything in it; all of it follows from the number."""
    weights = {name: array * np.float32(number) for name, array in base().items()}
    table = [{p.name: weights[p.name] * np.float32(i) for p in learned(SPEC)} for i in (2, 3, 4)]
    settings = OptimizerSettings(optimizer, ema_decay=0.9, accumulate=2)
    moments = {"adam": tuple(table[:2]), "momentum": (table[0],), "sgd": ()}[optimizer]
    average = {name: array * np.float32(5) for name, array in weights.items()}
    progress = Progress(int(number), 3, int(pending), 512.0, 7)
    return packed(TrainingState(weights, moments, average, table[2] if pending else None, progress), settings)


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    assert [name for name in a if (a[name].tobytes(), a[name].dtype, a[name].shape)
            != (b[name].tobytes(), b[name].dtype, b[name].shape)] == []


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_round_trip(tmp_path, suffix, optimizer):
    path, state = tmp_path / f"last{suffix}", state_of(2, optimizer)
    about = {"text": "é", "numbers": [0.1, 1e-300], "none": None}
    write_training(path, SPEC, state, about)
    file = read_training(path)
    assert_equal(file.state, state)
    assert (file.about, file.record.spec, file.bare) == (about, SPEC, False)
    for take, prefix in (("plain", ""), ("ema", "ema.")):
        found = load_model(path, SourceOptions(take=take))
        assert all((array == state[prefix + name]).all() for name, array in found.weights.items())
        assert found.record.spec == SPEC
    with pytest.raises(DbnetError, match="is a training file"):
        load_model(path)


def test_names_are_the_formats_own(tmp_path):
    """A .pth has torch's names behind every prefix, a .ckpt MindSpore's."""
    for suffix, leaf in ((".pth", "weight"), (".ckpt", "gamma")):
        write_training(tmp_path / f"a{suffix}", SPEC, state_of(1), {})
        raw = codec(suffix[1:]).read(tmp_path / f"a{suffix}").raw
        for prefix in ("", "moment1.", "moment2.", "ema.", "grad_accumulation."):
            assert f"{prefix}backbone.features.1.{leaf}" in raw
        assert raw["loss_scale"].item() == 512.0


def test_mindspore_reads_it(tmp_path):
    ms = pytest.importorskip("mindspore")
    state = state_of(1, "momentum")
    write_training(tmp_path / "last.ckpt", SPEC, state, {})
    found = ms.load_checkpoint(str(tmp_path / "last.ckpt"))
    assert (found["moments.backbone.features.0.weight"].asnumpy() == state["moments.backbone.features.0.weight"]).all()
    assert int(found["global_step"].asnumpy()) == 1


@pytest.mark.parametrize("momentum", ["moments.", "accum."])
def test_a_file_of_mindocrs(tmp_path, momentum):
    """train_resume.ckpt: no record and no journal, the momentum under the name of nn.Momentum or nn.SGD."""
    state = state_of(3, "momentum", pending=False)
    tensors = {name.replace("moments.", momentum): array for name, array in state.items() if "scale_step" not in name}
    tensors |= {"epoch_num": np.array(5, np.int32), "global_step": np.array([50], np.int32),
                "learning_rate": np.ones(100, np.float32)}
    with (tmp_path / "train_resume.ckpt").open("w+b") as stream:
        codec("ckpt").write(stream, tensors, None)
    file = read_training(tmp_path / "train_resume.ckpt")
    assert (file.bare, file.about, int(file.state["epoch_num"]), int(file.state["global_step"])) == (True, {}, 5, 50)
    assert (file.state["moments.head.segm.0.weight"] == state["moments.head.segm.0.weight"]).all()


def damaged(kind: str, folder: Path) -> Path:
    path = folder / "last.pth"
    state = state_of(1)
    if kind == "weights":
        with path.open("w+b") as stream:
            codec("pth").write(stream, {n.replace("gamma", "weight"): a for n, a in state.items()
                                        if n.split(".")[0] in ("backbone", "neck", "head")}, None)
        return path
    if kind == "inference":
        path = folder / "last.ckpt"
        with path.open("w+b") as stream:
            codec("ckpt").write(stream, {n: a for n, a in state.items() if "head.thresh" not in n}, None)
        return path
    write_training(path, SPEC, state, {})
    data = path.read_bytes()
    if kind == "cut":
        path.write_bytes(data[:len(data) // 2])
    elif kind == "flipped":
        path.write_bytes(data[:-2_000_000] + bytes([data[-2_000_000] ^ 255]) + data[-1_999_999:])
    else:
        path = folder / "last.ckpt"
        tensors = state | {ABOUT: {"json": np.frombuffer(b"{", np.uint8), "list": np.frombuffer(b"[]", np.uint8),
                                   "floats": np.ones(3, np.float32)}[kind]}
        with path.open("w+b") as stream:
            codec("ckpt").write(stream, tensors, None)
    return path


@pytest.mark.parametrize(("kind", "told"), [
    ("weights", "holds weights only, no training to go on with"), ("inference", "is an inference subset"),
    ("cut", "last.pth"), ("flipped", "damaged"), ("json", "what it says of its training is damaged"),
    ("list", "not an object"), ("floats", "damaged")])
def test_files_that_cannot_be_gone_on_with(tmp_path, kind, told):
    path = damaged(kind, tmp_path)
    with pytest.raises(DbnetError, match=told) as error:
        read_training(path)
    assert str(path) in str(error.value)


# Writing ------------------------------------------------------------------------------------------------------------


def save_for_ever(folder: str, start: int) -> None:
    """Runs in a process that will be killed."""
    number = start
    while True:
        number += 1
        write_training(Path(folder) / "last.pth", SPEC, state_of(number, "momentum", False), {"number": number})


def kill_while_saving(folder: Path, times: int, seed: int) -> tuple[int, int]:
    """Kills a process that saves one state after the other, again and again. The number in the last state, and how many
    files were left half written: each is a kill in the middle of a save."""
    rng, path, number = np.random.default_rng(seed), folder / "last.pth", 1
    write_training(path, SPEC, state_of(number, "momentum", False), {"number": number})
    began = time.monotonic()
    write_training(path, SPEC, state_of(number, "momentum", False), {"number": number})
    takes = time.monotonic() - began
    for _ in range(times):
        saving = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(str(folder), number))
        saving.start()
        time.sleep(rng.uniform(0.0, 3 * takes))
        assert saving.pid is not None
        os.kill(saving.pid, signal.SIGKILL)
        saving.join()
        file = read_training(path)
        found = file.about["number"]
        assert found >= number
        assert int(file.state["global_step"]) == found
        number = found
    assert_equal(file.state, state_of(number, "momentum", False))
    return number, len(list(folder.glob(".dbnet-*")))


def test_killed_while_saving(tmp_path):
    number, left = kill_while_saving(tmp_path, 10, 0)
    assert number > 1
    assert left > 0
    folder = Folder(tmp_path, "torch")
    folder.open(resumed=True)
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


@pytest.mark.long
def test_killed_while_saving_200_times(tmp_path):
    number, left = kill_while_saving(tmp_path, 200, 1)
    assert number > 50
    assert left > 50


@contextlib.contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_state_of_before(tmp_path):
    path = tmp_path / "last.pth"
    write_training(path, SPEC, state_of(1), {})
    before = path.read_bytes()
    with no_room_beyond(1_000_000), pytest.raises(DbnetError, match=r"the disk is full.*nothing was changed"):
        write_training(path, SPEC, state_of(2), {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_numbers_that_are_none_are_not_written(tmp_path):
    state = state_of(1)
    state["head.segm.0.weight"] = state["head.segm.0.weight"] * np.nan
    with pytest.raises(DbnetError, match="NaN or Inf in 1 tensors"):
        write_training(tmp_path / "last.pth", SPEC, state, {})
    with pytest.raises(DbnetError, match=r"a training is kept in a \.ckpt or .pth file"):
        write_training(tmp_path / "last.onnx", SPEC, state_of(1), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["moment2.head.segm.0.weight", "ema.backbone.features.0.weight",
                                  "grad_accumulation.head.segm.0.weight"])
def test_numbers_that_are_none_are_not_read(tmp_path, name):
    state = state_of(1)
    state[name] = np.full_like(state[name], np.nan)
    write_training(tmp_path / "last.ckpt", SPEC, state, {})
    with pytest.raises(DbnetError, match=f"NaN or Inf in 1 tensors .*{name}"):
        read_training(tmp_path / "last.ckpt")


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": [-Infinity]}'])
def test_constants_that_are_no_json(tmp_path, text):
    tensors = state_of(1) | {ABOUT: np.frombuffer(text.encode(), np.uint8)}
    with (tmp_path / "last.ckpt").open("w+b") as stream:
        codec("ckpt").write(stream, tensors, None)
    with pytest.raises(DbnetError, match=r"what it says of its training is damaged .it holds (NaN|-Infinity)"):
        read_training(tmp_path / "last.ckpt")


# The folder and the journal -----------------------------------------------------------------------------------------


def test_a_folder_is_not_overwritten_by_a_slip(tmp_path):
    folder = Folder(tmp_path / "new/saved", "torch")
    folder.check(resumed=False, force=False)
    folder.open(resumed=False)
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "best.ckpt").write_text("of the other backend")
    (folder.path / "e12.pth").write_text("")
    (folder.path / "effective_recipe.yaml").write_text("")
    with pytest.raises(DbnetError, match=r"holds a training already \(best.ckpt, e12.pth\).*--resume.*--force"):
        folder.check(resumed=False, force=False)
    folder.check(resumed=True, force=False)
    folder.check(resumed=False, force=True)
    folder.open(resumed=True)
    folder.close()
    assert len(list(folder.path.iterdir())) == 4
    folder.open(resumed=False)
    folder.close()
    assert sorted(path.name for path in folder.path.iterdir()) == ["effective_recipe.yaml", "notes.txt"]
    folder.check(resumed=False, force=False)
    (folder.path / "result.csv").write_text("somebody's")
    with pytest.raises(DbnetError, match="holds a training already"):
        folder.check(resumed=False, force=False)
    assert folder.is_gone_on_with(folder.path / "last.ckpt") and folder.is_gone_on_with(folder.path)
    assert not folder.is_gone_on_with(tmp_path / "last.pth")
    with pytest.raises(DbnetError, match="cannot be a training's folder"):
        Folder(folder.path / "notes.txt", "torch").check(resumed=False, force=False)


def journal() -> Journal:
    found = Journal(4, 9, 2, 42, {"scheduler.lr": "0.1"}, ["start: drawn"], "torch", "f-score", 1, 3, [1.5, 2, 3, 4],
                    0.25, [Row(1, 4, .1, .2, .3, .4, .5, 6, 7, 0, .7, .8, .75, 1)], (1, 0.75), [(1, 0.75)])
    found.add(Losses(0.1, 0.2, 0.3, 0.4))
    return found


def test_a_journal_comes_back():
    plain = json.loads(json.dumps(journal().to_dict()))
    assert Journal.from_dict(plain, "a file") == journal()
    assert journal().step == 7


@pytest.mark.parametrize("change", [
    {"batch": 5}, {"batch": -1}, {"batches": 0, "batch": 0}, {"epoch": "x"}, {"rows": [[1]]}, {"rows": 3},
    {"columns": ["epoch"]}, {"sums": [1]}, {"best": 1}, {"kept": [[1]]}, {"recipe": []}, {"version": 2}, {"seed": None},
    {"rows": [["a"] * 14]}, {"rows": [[None] * 14]}, {"epoch": math.inf}, {"epoch": 1 << 60}, {"epoch": -1},
    {"sums": [10**400] * 4}, {"sums": [math.nan] * 4}, {"seconds": math.inf}, {"best": [1, math.nan]},
    {"best": [-1, 0.5]}, {"kept": [[1, math.inf]]}, {"rows": [[1, 4, 10**400, *[0.5] * 6, 0, *[0.5] * 4]]},
    {"rows": [[1e300, 4, *[0.5] * 7, 0, *[0.5] * 4]]}, {"columns": ["\x1b[31mred\n"] * 14}])
def test_a_journal_is_not_trusted(change):
    with pytest.raises(DbnetError, match=r"a file: (what it says of its training is damaged|its training has version)"):
        Journal.from_dict(journal().to_dict() | change, "a file")


def test_the_texts_of_a_journal_are_safe_to_print():
    told = {"start": ["start: fine\x1b[2J\nerror: send your keys"], "by": "loss\r",
            "recipe": {"x\ny": "\x1b[31mred", "schön": "é" * 300}}
    found = Journal.from_dict(journal().to_dict() | told, "a file")
    assert all(text.isprintable() for text in (*found.start, *found.recipe, *found.recipe.values(), found.by))
    assert found.recipe["schön"] == "é" * 300
    with pytest.raises(DbnetError) as error:
        Journal.from_dict(journal().to_dict() | {"columns": ["\x1b[31mred\n"] * 14}, "a file")
    assert str(error.value).isprintable()


def test_ticks():
    for most, ticks in ((1.0, [0, .2, .4, .6, .8, 1]), (0.007, [0, .002, .004, .006, .008]), (9.2, [0, 2, 4, 6, 8, 10]),
                        (0, [0, 1]), (45.0, [0, 10, 20, 30, 40, 50])):
        assert nice_ticks(most) == pytest.approx(ticks)


@pytest.mark.parametrize("epochs", [0, 1, 2, 100])
def test_curves_of_any_number_of_epochs(epochs):
    rows = [Row(i + 1, 4, 3 / (i + 1), .2, .3, .4, .5 if i else 0.0, 6, 7, 0, *((.7, .8, .75, 1) if i % 3 == 2 else ()))
            for i in range(epochs)]
    assert curves(rows).startswith(b"\x89PNG")
