"""What a converted file computes, against the other project's network written anew from its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from converters.check import weight_map
from converters.convert import convert, load_model
from converters.formats import codec, read_file
from converters.load import SourceOptions, default_record
from converters.weights import same_bits
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation.runners import open_runner

torch = pytest.importorskip("torch")

from tests.reference_networks import NETWORKS  # noqa: E402

ROWS = [("mmocr", "dbnet_resnet18", 256), ("mmocr0", "dbnet_resnet18", 256),
        pytest.param("mmocr", "dbnet_resnet50", 256, marks=pytest.mark.long), ("paddle", "db_mv3_paddle", 96),
        ("paddle", "db_resnet18_paddle", 256),
        pytest.param("paddle", "dbnet_mobilenetv3", 256, marks=pytest.mark.long), ("paddle", "dbnet_mobilenetv3", 96),
        ("paddle", "db_mv3_ppocrv3", 96), ("mindocr_enhance", "db_mv3_ppocrv3", 96),
        ("mindocr_enhance", "dbnet_mobilenetv3", 256), ("mindocr_enhance", "db_mv3_paddle", 96)]
SUFFIX = {"mmocr": ".pth", "mmocr0": ".pth", "paddle": ".pdparams", "mindocr_enhance": ".ckpt"}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(3).standard_normal((1, 3, 64, 96)).astype(np.float32)


def origin_file(folder, dialect, spec, width):
    """A file of that project, as it would save it: no record."""
    shaped = replace(SPECS[spec], neck_channels=width)
    tensors = weight_map(dialect, shaped).inverse(seeded_weights(shaped, 11))
    path = folder / f"origin{SUFFIX[dialect]}"
    with path.open("w+b") as stream:
        codec(path.suffix[1:]).write(stream, tensors, None)
    return path


def own(dialect, path, image):
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in read_file(path).tensors.items()}
    return NETWORKS[dialect](tensors, torch.from_numpy(image)).numpy()


def ours(path, image, runner="torch"):
    stage = ("probability",)
    return open_runner(path, runner=runner, device="cpu", stages=stage).run(image)["probability"]


@pytest.mark.parametrize(("dialect", "spec", "width"), ROWS)
def test_probability_is_the_projects_own(dialect, spec, width, image, tmp_path):
    path = origin_file(tmp_path, dialect, spec, width)
    theirs = own(dialect, path, image)
    assert theirs.std() > 1e-3, "a constant reference proves nothing"
    assert np.abs(ours(path, image) - theirs).max() < 1e-5
    exported = convert(path, tmp_path / "a.onnx").target
    assert np.abs(ours(exported, image, "onnxruntime") - theirs).max() < 1e-5
    hopped = convert(convert(exported, tmp_path / "b.ckpt").target, tmp_path / "c.safetensors").target
    assert np.array_equal(ours(hopped, image), ours(path, image))


@pytest.mark.parametrize(("dialect", "spec", "width"), ROWS)
def test_the_projects_names_come_back_bit_for_bit(dialect, spec, width, tmp_path):
    path = origin_file(tmp_path, dialect, spec, width)
    hop = convert(path, tmp_path / "hop.safetensors").target
    back = convert(hop, tmp_path / f"back{path.suffix}", to=dialect).target
    saved, again = read_file(path).tensors, read_file(back).tensors
    assert list(saved) == list(again)
    assert all(same_bits(saved[name], again[name]) for name in saved)
    assert load_model(back).record.spec == load_model(path).record.spec


@pytest.mark.parametrize(("dialect", "spec", "width", "wrong"), [
    ("paddle", "dbnet_mobilenetv3", 256, {"se_gate": "hard_sigmoid"}),
    ("paddle", "db_mv3_paddle", 96, {"depthwise_padding": "same"}),
    ("paddle", "db_mv3_ppocrv3", 96, {"neck_gate": "hard_sigmoid"}),
    ("paddle", "db_mv3_ppocrv3", 96, {"upsampling": "align_corners"}),
    ("mindocr_enhance", "db_mv3_ppocrv3", 96, {"upsampling": "floor"}),
    ("mmocr", "dbnet_resnet18", 256, {"stem_pool": "same"}),
])
def test_each_difference_of_meaning_would_be_seen(dialect, spec, width, wrong, image, tmp_path):
    path = origin_file(tmp_path, dialect, spec, width)
    changed = convert(path, tmp_path / "wrong.safetensors", SourceOptions(semantics=wrong)).target
    assert np.abs(ours(changed, image) - own(dialect, path, image)).max() > 1e-4


def test_mmocrs_maps_are_joined_the_other_way_round(image, tmp_path):
    """Without turning the blocks of the heads' first kernels the detector is another one."""
    path = origin_file(tmp_path, "mmocr", "dbnet_resnet18", 256)
    model = load_model(path)
    kernel = read_file(path).tensors["det_head.binarize.0.weight"]
    turned = np.concatenate([kernel[:, i:i + 64] for i in (192, 128, 64, 0)], axis=1)
    assert np.array_equal(model.weights["head.segm.0.weight"], turned)
    assert np.array_equal(model.weights["head.segm.3.weight"], read_file(path).tensors["det_head.binarize.3.weight"])


def test_mmocr_saves_its_mean_beside_the_weights(tmp_path):
    path = origin_file(tmp_path, "mmocr", "dbnet_resnet18", 256)
    tensors = {**read_file(path).tensors, "data_preprocessor.mean": np.zeros((3, 1, 1), np.float32),
               "data_preprocessor.std": np.ones((3, 1, 1), np.float32)}
    path = tmp_path / "with_mean.pth"
    with path.open("w+b") as stream:
        codec("pth").write(stream, tensors, None)
    model = load_model(path)
    assert {"data_preprocessor.mean", "data_preprocessor.std"} <= set(model.dropped)
    assert model.record == replace(default_record("mmocr", SPECS["dbnet_resnet18"]), sha256=model.record.sha256)
