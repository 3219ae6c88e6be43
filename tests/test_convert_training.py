"""`dbnet convert --with-optimizer`: a whole training from .ckpt to .pth and back, to the last bit; others' trainings
too, where it is clear what they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from converters.convert import convert
from converters.formats import codec
from converters.inspect import inspect
from converters.load import SourceOptions, load_model
from converters.training_convert import convert_training, describe, progress_of
from converters.training_file import read_training, write_training
from dbnet.cli.convert import convert as command
from dbnet.cli.inspect import inspect as inspect_command
from dbnet.errors import DbnetError
from dbnet.training import learned
from tests.test_train_files import SPEC, assert_equal, damaged, journal, state_of

ABOUT = journal().to_dict()


def written(path: Path, number: float = 2, optimizer: str = "adam") -> Path:
    write_training(path, SPEC, state_of(number, optimizer), ABOUT)
    return path


def write_raw(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    with path.open("w+b") as stream:
        codec(path.suffix[1:]).write(stream, tensors, None)
    return path


# Ours ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize(("here", "there"), [(".ckpt", ".pth"), (".pth", ".ckpt"), (".pth", ".pt")])
def test_there_and_back_again(tmp_path, here, there, optimizer):
    """The file that comes back is the same to the last byte."""
    source = written(tmp_path / f"a{here}", optimizer=optimizer)
    moved = convert_training(source, tmp_path / f"b{there}")
    convert_training(tmp_path / f"b{there}", tmp_path / f"c{here}")
    assert (tmp_path / f"c{here}").read_bytes() == source.read_bytes()
    found = read_training(tmp_path / f"b{there}")
    assert_equal(found.state, state_of(2, optimizer))
    assert found.about == json.loads(json.dumps(ABOUT))
    assert moved.progress == {
        "optimizer": optimizer, "step": 2, "epoch": 1, "batch": 3, "batches": 4, "pending": 1, "average": True,
        "loss_scale": 512.0, "overflows": 3, "seed": 42, "backend": "torch"}
    assert moved.progress == progress_of(found)


def test_the_command(tmp_path):
    source, target = written(tmp_path / "last.ckpt"), tmp_path / "last.pth"
    done = CliRunner().invoke(command, [str(source), str(target), "--with-optimizer", "--json", "-"])
    report = json.loads(done.output)
    assert report["training"]["optimizer"] == "adam"
    assert report["training"]["entries"] == len(state_of(2))
    assert report["sha256"] == load_model(target, SourceOptions(take="plain")).record.sha256
    plain = CliRunner().invoke(command, [str(source), str(tmp_path / "w.pth"), "--take", "ema", "--json", "-"])
    weights = json.loads(plain.output)
    assert set(weights) == set(report)
    assert weights["training"] is None
    assert weights["remarks"] == ["its weights only; --with-optimizer keeps the whole training"]
    told = CliRunner().invoke(command, [str(source), str(target), "--with-optimizer", "--force"]).output.splitlines()
    assert told[0].startswith("last.ckpt (mindocr) -> last.pth (torch): dbnet_mobilenetv3, the whole training, ")
    assert told[1] == ("training: adam, 2 steps, 1 epochs and 3 of 4 batches, averaged weights (EMA), gradients of 1 "
                       "batches, loss scale 512")
    assert len(told) == 2


def test_without_the_option_the_choice_is_told(tmp_path):
    source = written(tmp_path / "last.ckpt")
    with pytest.raises(DbnetError, match=r"--take plain or --take ema; or --with-optimizer for the whole training"):
        convert(source, tmp_path / "a.pth")
    done = convert(source, tmp_path / "a.safetensors", SourceOptions(take="plain"))
    assert done.remarks[-1] == "its weights only; a .ckpt or .pth with --with-optimizer keeps the whole training"
    assert not convert(tmp_path / "a.safetensors", tmp_path / "a.pth").remarks


@pytest.mark.parametrize(("source", "target", "told"), [
    ("last.ckpt", "a.onnx", ".onnx files hold weights only, no training; name the target .ckpt or .pth"),
    ("last.ckpt", "a.safetensors", ".safetensors files hold weights only"),
    ("last.ckpt", "a.npz", "cannot write .npz"), ("last.ckpt", "last.ckpt", "is the source itself"),
    ("last.ckpt", "there.pth", "exists already; add --force"), ("gone.ckpt", "a.pth", "cannot be read"),
    ("last.ckpt", "nowhere/a.pth", "no such folder"),
    ("weights/last.pth", "a.ckpt", "holds no training that could be moved; leave out --with-optimizer"),
    ("inference/last.ckpt", "a.pth", "is an inference subset"), ("cut/last.pth", "a.ckpt", "last.pth"),
    ("json/last.ckpt", "a.pth", "what it says of its training is damaged")])
def test_what_cannot_be_moved(tmp_path, source, target, told):
    written(tmp_path / "last.ckpt")
    (tmp_path / "there.pth").write_text("mine")
    kind = Path(source).parent.name
    if kind:
        (tmp_path / kind).mkdir()
        damaged(kind, tmp_path / kind)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(DbnetError) as error:
        convert_training(tmp_path / source, tmp_path / target)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("option", [("--to", "torch"), ("--stages",), ("--take", "plain"), ("--take", "ema")])
def test_options_that_mean_nothing_for_a_training(tmp_path, option):
    done = CliRunner().invoke(command, ["a.ckpt", "b.pth", "--with-optimizer", *option])
    assert done.exit_code == 2
    assert f"leave out {option[0]}" in done.output


def test_weights_that_were_changed(tmp_path):
    """A .ckpt has no checksum, but its record a digest."""
    source = written(tmp_path / "last.ckpt")
    data = bytearray(source.read_bytes())
    place = bytes(data).index(state_of(2)["head.segm.0.weight"].tobytes())
    data[place + 1] ^= 1
    source.write_bytes(data)
    with pytest.raises(DbnetError, match=r"digest.*--with-optimizer --allow-edited"):
        read_training(source)
    assert inspect(source)["record"] == "edited"
    convert_training(source, tmp_path / "a.ckpt", SourceOptions(allow_edited=True))
    name = "head.segm.0.weight"
    assert (read_training(tmp_path / "a.ckpt").state[name] != state_of(2)[name]).sum() == 1


def test_inspect_tells_where_a_training_stands(tmp_path):
    source = written(tmp_path / "last.pth", optimizer="momentum")
    assert inspect(source)["progress"] == progress_of(read_training(source))
    told = CliRunner().invoke(inspect_command, [str(source)]).output
    assert "training    momentum, 2 steps, 1 epochs and 3 of 4 batches, averaged weights" in told
    convert(source, tmp_path / "a.ckpt", SourceOptions(take="plain"))
    assert inspect(tmp_path / "a.ckpt")["progress"] is None
    found = inspect(damaged("json", tmp_path))
    assert found["progress"] is None
    assert "no training to go on with: what it says of its training is damaged" in found["notes"][-1]


# MindOCR's ----------------------------------------------------------------------------------------------------------


def mindocrs(number: float = 3, **others: np.ndarray) -> dict[str, np.ndarray]:
    """train_resume.ckpt of nn.Momentum with EMA, by MindSpore's names."""
    state = state_of(number, "momentum", pending=False)
    tensors = {name: array for name, array in state.items() if name not in ("overflows", "scale_step", "loss_scale",
                                                                            "accumulation_step")}
    swap = {f"swap.{name}": np.zeros_like(array) for name, array in tensors.items()
            if name.split(".")[0] in ("backbone", "neck", "head")}
    return tensors | swap | {
        "epoch_num": np.array(5, np.int32), "loss_scale": np.array(1024.0), "learning_rate": np.ones(90, np.float32),
        "global_step": np.array([50], np.int32), "scale_sense": np.array(64, np.float32),
        "updates": np.array(50, np.float32), "current_iterator_step": np.array(51, np.int32),
        "last_overflow_iterator_step": np.array(31, np.int32)} | others


def test_mindocrs_training(tmp_path):
    source = write_raw(tmp_path / "train_resume.ckpt", mindocrs())
    moved = convert_training(source, tmp_path / "last.pth")
    state = read_training(tmp_path / "last.pth").state
    assert_equal({name: array for name, array in state.items() if "." in name},
                 {name: array for name, array in state_of(3, "momentum", pending=False).items() if "." in name})
    numbers = {name: float(array) for name, array in state.items() if "." not in name}
    assert numbers == {"epoch_num": 5, "loss_scale": 64, "global_step": 50, "scale_step": 19}
    assert (moved.progress["optimizer"], moved.progress["epoch"], moved.progress["step"]) == ("momentum", 5, 50)
    assert any(note.startswith("left out: swap (") and "learning_rate" in note for note in describe(moved))
    # What the file leaves open stays open: MindOCR trains with another step function than the default here.
    found = read_training(tmp_path / "last.pth")
    assert (found.bare, moved.carries_record) == (True, False)
    convert_training(source, tmp_path / "said.pth", SourceOptions(semantics={"step_function": "mindocr"}))
    found = read_training(tmp_path / "said.pth")
    assert (found.bare, found.record.spec.step_function) == (False, "mindocr")
    # A record says everything, so it must say this too.
    other = convert_training(source, tmp_path / "other.pth", SourceOptions(semantics={
        "depthwise_padding": "symmetric"}))
    with pytest.raises(DbnetError, match="these semantics need other tensors"):
        convert_training(source, tmp_path / "no.pth", SourceOptions(semantics={"se_gate": "none"}))
    assert read_training(tmp_path / "other.pth").record.spec.step_function == "mindocr"
    assert other.remarks == ["recorded with MindOCR's step function; --set step_function=paper says otherwise"]
    back = convert_training(tmp_path / "last.pth", tmp_path / "back.ckpt")
    assert_equal(read_training(tmp_path / "back.ckpt").state, state)
    assert not back.carries_record


def test_mindocr_saves_the_average_in_place_of_the_weights(tmp_path):
    """After a validation; the weights that it trains on are the swap copies then."""
    tensors = mindocrs()
    wanted = {name: array for name, array in tensors.items() if name.split(".")[0] in ("backbone", "neck", "head")}
    for name, array in wanted.items():
        tensors[f"swap.{name}"], tensors[name] = array, tensors[f"ema.{name}"]
    moved = convert_training(write_raw(tmp_path / "train_resume.ckpt", tensors), tmp_path / "last.pth")
    state = read_training(tmp_path / "last.pth").state
    assert_equal({name: state[name] for name in wanted}, wanted)
    assert any("from the swap copies" in note for note in moved.source.notes)
    assert not any(name.startswith("swap") for name in state)


def test_mindocrs_accumulated_gradients(tmp_path):
    pending = {name.replace("grad_accumulation.", "grad_accumulated_."): array
               for name, array in state_of(3).items() if name.startswith("grad_accumulation.")}
    zeros = {name.replace("grad_accumulated_.", "zeros_."): np.zeros_like(array) for name, array in pending.items()}
    tensors = mindocrs(**pending, **zeros, grad_accumulate_step_=np.array(1, np.int32))
    moved = convert_training(write_raw(tmp_path / "train_resume.ckpt", tensors), tmp_path / "last.pth")
    assert moved.progress["pending"] == 1
    state = read_training(tmp_path / "last.pth").state
    assert (state["grad_accumulation.head.segm.0.weight"] == pending["grad_accumulated_.head.segm.0.weight"]).all()


@pytest.mark.parametrize(("others", "told"), [
    ({"lion_m.head.segm.0.weight": np.ones((64, 256, 3, 3), np.float32)}, "an optimizer that is not here: lion_m (1)"),
    ({"moment3.head.segm.0.weight": np.ones((64, 256, 3, 3), np.float32)}, "moment3 (1); there are SGD, momentum and"),
    ({"epoch_num": np.array(np.nan, np.float32)}, "epoch_num cannot be nan"),
    ({"epoch_num": np.array(-1, np.int32)}, "epoch_num cannot be -1"),
    ({"current_iterator_step": np.array(np.inf, np.float32)}, "current_iterator_step cannot be inf"),
    ({"moments.head.segm.0.weight": None}, "moments is there for"),
    ({"ema.head.segm.0.weight": None}, "ema is there for"),
])
def test_trainings_of_mindocrs_that_cannot_be_moved(tmp_path, others, told):
    tensors = {name: array for name, array in (mindocrs() | others).items() if array is not None}
    source = write_raw(tmp_path / "train_resume.ckpt", tensors)
    with pytest.raises(DbnetError) as error:
        convert_training(source, tmp_path / "last.pth")
    assert told in str(error.value)
    assert not (tmp_path / "last.pth").exists()
    inspect(source)


def test_a_training_that_does_not_say_how_far_it_is(tmp_path):
    tensors = {name: array for name, array in mindocrs().items() if name != "epoch_num"}
    moved = convert_training(write_raw(tmp_path / "a.ckpt", tensors), tmp_path / "last.pth")
    assert "it does not say after which epoch" in describe(moved)[-1]


# torch users' -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner():
    """A network of the torch half, and a batch."""
    torch = pytest.importorskip("torch")
    from torch_reference.dbnet import DBNet
    torch.manual_seed(0)
    net = DBNet(SPEC).train()
    return net, torch.randn(2, 3, 64, 64)


def steps(net, optimizer, images, count: int = 2) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        logits, threshold = net.training_logits(images)
        (logits.mean() + (threshold**2).mean()).backward()
        optimizer.step()


OPTIMIZERS = {
    "momentum": lambda torch, net: torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9),
    "named": lambda torch, net: torch.optim.SGD([
        {"params": [(n, p) for n, p in net.named_parameters() if p.ndim == 1], "weight_decay": 0.0},
        {"params": [(n, p) for n, p in net.named_parameters() if p.ndim > 1]}], 1e-4, momentum=0.9),
    "adam": lambda torch, net: torch.optim.Adam(net.parameters(), 1e-4),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_torch_users_save(tmp_path, learner, kind, legacy):
    torch = pytest.importorskip("torch")
    net, images = learner
    optimizer = OPTIMIZERS[kind](torch, net)
    if kind == "named" and "param_names" not in optimizer.param_groups[0]:
        pytest.skip("torch before 2.6 keeps no names")
    steps(net, optimizer, images)
    torch.save({"model": {f"module.{name}": value for name, value in net.state_dict().items()},
                "optimizer": optimizer.state_dict(), "epoch": 7, "best_f": 0.5,
                "scaler": {"scale": 4096.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
                           "_growth_tracker": 11}},
               tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    moved = convert_training(tmp_path / "a.pth", tmp_path / "last.ckpt")
    state = read_training(tmp_path / "last.ckpt").state
    values = dict(net.named_parameters())
    for prefix, slot in ({"moment1.": "exp_avg", "moment2.": "exp_avg_sq"} if kind == "adam" else
                         {"moments.": "momentum_buffer"}).items():
        for p in learned(SPEC):
            kept = optimizer.state[values[p.name_in("torch")]].get(slot)
            assert state[prefix + p.name].tobytes() == kept.numpy().tobytes(), p.name
    numbers = {name: float(array) for name, array in state.items() if "." not in name}
    assert numbers == {"epoch_num": 7, "loss_scale": 4096, "scale_step": 11} | ({"global_step": 2} if kind == "adam"
                                                                                else {})
    assert moved.progress["epoch"] == 7
    assert any("metadata best_f" in note for note in moved.source.notes)
    assert inspect(tmp_path / "a.pth")["progress"]["optimizer"] == ("adam" if kind == "adam" else "momentum")


@pytest.mark.parametrize(("kind", "told"), [
    ("groups", "2 groups of parameters without names"), ("reversed", "in another order than the model has them"),
    ("amsgrad", "keeps max_exp_avg_sq, which none here does"), ("adamw", "is AdamW, which is not here"),
    ("frozen", "has 2 parameters, the model"), ("none", "holds no state of an optimizer"),
    ("nonsense", "not as torch saves it"), ("two", "the states of 2 optimizers"),
    ("partly", "moments is there for 2 of ")])
def test_what_is_open_in_torch_users_files(tmp_path, learner, kind, told):
    torch = pytest.importorskip("torch")
    net, images = learner
    values = list(net.parameters())
    optimizer = {
        "groups": lambda: torch.optim.SGD([{"params": values[:9]}, {"params": values[9:]}], 1e-4, momentum=0.9),
        "reversed": lambda: torch.optim.SGD(values[::-1], 1e-4, momentum=0.9),
        "amsgrad": lambda: torch.optim.Adam(values, 1e-4, amsgrad=True),
        "adamw": lambda: torch.optim.AdamW(values, 1e-4),
        "frozen": lambda: torch.optim.SGD(values[:2], 1e-4, momentum=0.9),
        "two": lambda: torch.optim.SGD(values, 1e-4, momentum=0.9),
        "partly": lambda: torch.optim.SGD(values, 1e-4, momentum=0.9)}.get(kind, lambda: None)()
    saved = {"none": {"last_epoch": 3}, "nonsense": {"state": 3, "param_groups": 4}}.get(kind)
    if optimizer is not None:
        steps(net, optimizer, images, 1)
        saved = optimizer.state_dict()
        if kind == "partly":
            saved["state"] = {number: saved["state"][number] for number in (0, 1)}
    others = {"optimizer_of_the_other": {"state": {}, "param_groups": []}} if kind == "two" else {}
    torch.save({"state_dict": net.state_dict(), "optimizer" if kind != "none" else "lr_scheduler": saved} | others,
               tmp_path / "a.pth")
    with pytest.raises(DbnetError) as error:
        convert_training(tmp_path / "a.pth", tmp_path / "last.ckpt")
    assert told in str(error.value)
    assert not (tmp_path / "last.ckpt").exists()
    load_model(tmp_path / "a.pth", SourceOptions(take="plain"))


def test_the_moments_are_the_right_ones(tmp_path, learner):
    """An optimizer here that goes on from the file does what torch's own does."""
    torch = pytest.importorskip("torch")
    net, images = learner
    optimizer = OPTIMIZERS["momentum"](torch, net)
    steps(net, optimizer, images)
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}, tmp_path / "a.pth")
    convert_training(tmp_path / "a.pth", tmp_path / "last.ckpt")
    from dbnet.loss_settings import LossSettings
    from dbnet.train_settings import OptimizerSettings
    from torch_reference.train import Trainer
    found = read_training(tmp_path / "last.ckpt")
    weights = {name: array for name, array in found.state.items() if name.split(".")[0] in ("backbone", "neck", "head")}
    trainer = Trainer(SPEC, weights, OptimizerSettings(weight_decay=0.0), LossSettings(), "cpu")
    trainer.load_state(found.state)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e-4
    steps(trainer.net, trainer.optimizer, images)
    steps(net, optimizer, images)
    for (name, ours), theirs in zip(trainer.net.state_dict().items(), net.state_dict().values(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)
