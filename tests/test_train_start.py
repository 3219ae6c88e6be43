"""What a training begins with: whole detectors, backbones of other projects, and what is drawn for the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters import save_weights
from converters.formats import codec
from converters.training_file import write_training
from dbnet.errors import DbnetError
from dbnet.initial import initial_weights
from dbnet.parameters import parameters
from dbnet.recipe import read_recipe
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation.training_start import Origin, origin_of_weights, part_of, start_weights
from tests.test_train_files import state_of

R18 = SPECS["dbnet_resnet18"]


def of(name: str) -> dict[str, np.ndarray]:
    return {key: np.float32(array) for key, array in seeded_weights(SPECS[name], 3).items()}


def write(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    with path.open("w+b") as stream:
        codec(path.suffix[1:]).write(stream, tensors, None)
    return path


def torchvision(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The backbone as torchvision's state dict names it, with the classifier."""
    names = {p.name: p.name_in("torch") for p in parameters(R18)}
    found = {names[name].removeprefix("backbone.").replace("down_sample", "downsample"): array
             for name, array in weights.items() if name.startswith("backbone.")}
    found |= {name.replace("running_mean", "num_batches_tracked"): np.array(7) for name in found if "mean" in name}
    return found | {"fc.weight": np.ones((1000, 512), np.float32), "fc.bias": np.ones(1000, np.float32)}


def mindcv(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {name.removeprefix("backbone."): array for name, array in weights.items() if name.startswith("backbone.")}
    return found | {"classifier.weight": np.ones((1000, 512), np.float32), "classifier.bias": np.ones(1000, np.float32)}


def start(path: Path, spec=R18, backbone_only: bool = False) -> tuple[dict[str, np.ndarray], str]:
    weights, notes = start_weights(spec, Origin(path, "--pretrained", backbone_only), 5)
    assert {name: array.shape for name, array in weights.items()} == {p.name: p.shape for p in parameters(spec)}
    assert all(array.dtype == np.float32 for array in weights.values())
    return weights, "\n".join(notes)


def taken_from(weights: dict[str, np.ndarray], source: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> set[str]:
    """The parts that are the source's; all others must be the drawn ones."""
    parts = {part_of(name) for name in weights if name in source and (weights[name] == source[name]).all()}
    for name, array in weights.items():
        expected = source if part_of(name) in parts else drawn
        assert (array == expected[name]).all(), name
    return parts


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".onnx", ".safetensors"])
def test_a_whole_detector(tmp_path, suffix):
    source = of("dbnet_resnet18")
    save_weights(source, tmp_path / f"a{suffix}", spec="dbnet_resnet18")
    weights, told = start(tmp_path / f"a{suffix}")
    assert taken_from(weights, source, initial_weights(R18, 5)) == {"backbone", "neck", "head.segm", "head.thresh"}
    assert told == f"start: 134 of 134 tensors from {tmp_path / f'a{suffix}'} (--pretrained)"


@pytest.mark.parametrize(("names", "suffix", "told"), [
    (torchvision, ".pth", "stem_pool was symmetric, is same"), (mindcv, ".ckpt", None)])
def test_a_backbone_of_another_project(tmp_path, names, suffix, told):
    source = of("dbnet_resnet18")
    weights, notes = start(write(tmp_path / f"resnet18{suffix}", names(source)))
    assert taken_from(weights, source, initial_weights(R18, 5)) == {"backbone"}
    assert "start: 100 of 134 tensors from" in notes
    assert "drawn from seed 5: neck (8), head.segm (13), head.thresh (13)" in notes
    assert (told or "not quite") in notes or told is None
    assert ("not quite" in notes) == (told is not None)


def test_a_backbone_in_a_wrapped_file(tmp_path):
    source = of("dbnet_resnet18")
    tensors = {f"backbone.{name}": array for name, array in torchvision(source).items()}
    weights, _ = start(write(tmp_path / "a.pth", tensors))
    assert taken_from(weights, source, initial_weights(R18, 5)) == {"backbone"}


def test_only_the_backbone_is_taken_where_it_is_asked_for(tmp_path):
    """model.backbone.pretrained, as in MindOCR."""
    source = of("dbnet_resnet18")
    save_weights(source, tmp_path / "a.pth", spec="dbnet_resnet18")
    weights, _ = start(tmp_path / "a.pth", backbone_only=True)
    assert taken_from(weights, source, initial_weights(R18, 5)) == {"backbone"}


def test_dbnetpp_from_dbnet(tmp_path):
    """Three of the seed's recipes begin so: the fusion is new."""
    source, spec = of("dbnet_resnet50"), SPECS["dbnetpp_resnet50"]
    save_weights(source, tmp_path / "a.ckpt", spec="dbnet_resnet50")
    weights, told = start(tmp_path / "a.ckpt", spec)
    assert taken_from(weights, source, initial_weights(spec, 5)) == {"backbone", "neck", "head.segm", "head.thresh"}
    assert "drawn from seed 5: neck.fuse (7)" in told
    assert "not quite" not in told


def test_an_inference_subset_and_another_neck(tmp_path):
    source = of("dbnet_resnet18")
    save_weights({n: a for n, a in source.items() if "thresh" not in n}, tmp_path / "a.pth", spec="dbnet_resnet18")
    weights, told = start(tmp_path / "a.pth")
    assert taken_from(weights, source, initial_weights(R18, 5)) == {"backbone", "neck", "head.segm"}
    assert "drawn from seed 5: head.thresh (13)" in told
    narrow = replace(R18, neck_channels=96)
    weights, told = start(tmp_path / "a.pth", narrow)
    assert "drawn from seed 5: neck (8)" in told


def test_other_semantics_are_told(tmp_path):
    save_weights(of("db_mv3_paddle"), tmp_path / "a.pth", spec="db_mv3_paddle")
    with pytest.raises(DbnetError, match="does not fit the backbone of dbnet_mobilenetv3"):
        start(tmp_path / "a.pth", SPECS["dbnet_mobilenetv3"])
    mhliao = replace(R18, stem_pool="symmetric", pixels=replace(R18.pixels, colour="BGR"))
    save_weights(of("dbnet_resnet18"), tmp_path / "b.pth", spec=mhliao)
    _, told = start(tmp_path / "b.pth")
    assert "stem_pool was symmetric, is same, pixels were BGR, are RGB" in told


def test_a_training_file_gives_its_average(tmp_path):
    state, spec = state_of(1), SPECS["dbnet_mobilenetv3"]
    write_training(tmp_path / "last.ckpt", spec, state, {})
    weights, told = start(tmp_path / "last.ckpt", spec)
    assert (weights["head.segm.0.weight"] == state["ema.head.segm.0.weight"]).all()
    assert "averaged weights (EMA) were taken" in told


@pytest.mark.parametrize(("kind", "told"), [
    ("other", "does not fit the backbone of dbnet_resnet18: 100 of its tensors are missing"),
    ("gone", "cannot be read"), ("web", "is a web page"), ("nan", "NaN or Inf in 1 tensors"),
    ("classifier", "does not fit the backbone")])
def test_files_that_do_not_fit(tmp_path, kind, told):
    path = tmp_path / "a.pth"
    source = torchvision(of("dbnet_resnet18"))
    if kind == "other":
        write(path, {"vgg.0.weight": np.ones((64, 3, 3, 3), np.float32)})
    elif kind == "web":
        path.write_text("<!doctype html><p>log in")
    elif kind == "nan":
        write(path, source | {"conv1.weight": source["conv1.weight"] * np.nan})
    elif kind == "classifier":
        write(path, {"fc.weight": source["fc.weight"], "conv1.weight": source["conv1.weight"]})
    with pytest.raises(DbnetError, match=told):
        start(path)


@pytest.mark.parametrize(("recipe", "settings", "told"), [
    ("db_r18_icdar15", [], "True asks for ImageNet weights, which are not part of this package"),
    ("db_r18_td500", [], r"-251ef3dd.ckpt is an address, .*dbnet fetch dbnet_resnet18_synthtext-251ef3dd.ckpt gets it, "
     r"then give --pretrained FILE, or -o model.pretrained=null"),
    ("db_r18_td500", ["model.pretrained=https://x/y.ckpt"], "download it and give --pretrained FILE, or -o model"),
    ("db_mobilenetv3_icdar15", [], "is an address.*-o model.backbone.pretrained=False"),
    ("db_r18_td500", ["model.pretrained=null", "model.backbone.pretrained=True"], "ImageNet"),
])
def test_weights_that_the_seed_fetches(recipe, settings, told):
    with pytest.raises(DbnetError, match=told):
        origin_of_weights(read_recipe(recipe, settings), None)


def test_which_file(tmp_path):
    whole = read_recipe("db_r18_icdar15", ["model.pretrained=a.ckpt", "model.backbone.pretrained=b.ckpt"])
    found = origin_of_weights(whole, None)
    assert found is not None
    assert (found.path, found.backbone_only) == (Path("a.ckpt"), False)
    found = origin_of_weights(read_recipe("db_r18_icdar15", ["model.backbone.pretrained=b.ckpt"]), None)
    assert found is not None
    assert (found.path, found.backbone_only) == (Path("b.ckpt"), True)
    assert origin_of_weights(whole, Path("c.pth")) == Origin(Path("c.pth"), "--pretrained")
    assert origin_of_weights(read_recipe("db_r18_icdar15", ["model.backbone.pretrained=False"]), None) is None
    drawn, notes = start_weights(R18, None, 9)
    assert notes == ["start: all weights drawn from seed 9"]
    assert all((array == drawn[name]).all() for name, array in initial_weights(R18, 9).items())
