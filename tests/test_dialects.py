"""Which project's file it is and of which network, in a table of all dialects and networks, whatever stands beside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from converters import dialects, pth_contents
from converters.check import WeightReport, identify, weight_map
from converters.dialects import DIALECTS
from converters.load import default_record
from converters.pickled_objects import ArrayData
from converters.training_state import split_scalars, split_training_state
from dbnet.__main__ import cli
from dbnet.recipe import read_recipe
from dbnet.spec import SPECS

TABLE = [(dialect.name, spec) for dialect in DIALECTS.values() for spec in dialect.specs]
TORCH = ("torch", "mhliao", "mmocr", "mmocr0")
#: Before every name, put there by DataParallel, torch.compile, Lightning, Paddle, a distillation.
PREFIXES = ("_orig_mod.", "model.", "module.module.", "module._orig_mod.", "_layers.", "net.")


def names_and_shapes(dialect: str, spec: str, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """A file's tensors, one value each in memory, with the first prefix of the dialect and torch's counters."""
    mapping = weight_map(dialect, SPECS[spec])
    prefix = mapping.dialect.prefixes[0]
    tensors = {prefix + e.foreign: np.broadcast_to(dtype(0), e.foreign_shape) for e in mapping.entries}
    if mapping.dialect.framework == "torch":
        norms = [name.rpartition(".")[0] for name in tensors if name.endswith(".running_mean")]
        tensors |= {f"{norm}.num_batches_tracked": np.zeros((), np.int64) for norm in norms}
    return tensors


def require_right(report: WeightReport, dialect: str, spec: str, subset: str = "complete") -> None:
    assert (report.dialect.name, report.spec.name, report.subset) == (dialect, spec, subset)
    assert report.problems == 0, report.describe()


@pytest.mark.parametrize(("dialect", "spec"), TABLE)
def test_plain(dialect, spec):
    require_right(identify(names_and_shapes(dialect, spec)), dialect, spec)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("dialect", "spec"), TABLE[::4])
def test_behind_a_prefix(dialect, spec, prefix):
    tensors = {prefix + name: array for name, array in names_and_shapes(dialect, spec).items()}
    require_right(identify(tensors), dialect, spec)


@pytest.mark.parametrize(("dialect", "spec"), TABLE)
def test_behind_module(dialect, spec):
    tensors = {f"module.{name}": array for name, array in names_and_shapes(dialect, spec).items()}
    require_right(identify(tensors), dialect, spec)


@pytest.mark.parametrize(("dialect", "spec"), TABLE)
def test_in_half_precision(dialect, spec):
    require_right(identify(names_and_shapes(dialect, spec, np.float16)), dialect, spec)


@pytest.mark.parametrize(("dialect", "spec"), TABLE)
def test_without_the_training_branch(dialect, spec):
    mapping = weight_map(dialect, SPECS[spec])
    training = {e.foreign.rpartition(".")[0] for e in mapping.entries if e.parameter.training_only}
    prefix = mapping.dialect.prefixes[0]
    tensors = {name: array for name, array in names_and_shapes(dialect, spec).items()
               if name.removeprefix(prefix).rpartition(".")[0] not in training}
    require_right(identify(tensors), dialect, spec, "inference")


def in_a_checkpoint(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is left of a MindSpore training file when its state was told apart."""
    kept, _ = split_scalars(tensors)
    return split_training_state(kept)[0]


@pytest.mark.parametrize("beside", ["optimizer", "ema", "both"])
@pytest.mark.parametrize(("dialect", "spec"), [row for row in TABLE if row[0] in ("mindocr", "mindocr_enhance")])
def test_in_a_training_file_of_mindspore(dialect, spec, beside):
    tensors = names_and_shapes(dialect, spec)
    state: dict[str, np.ndarray] = {"global_step": np.zeros((), np.int32), "loss_scale": np.ones((), np.float32)}
    for prefix in {"optimizer": ("moments", "moment1"), "ema": ("ema", "swap"), "both": ("moments", "ema")}[beside]:
        state |= {f"{prefix}.{name}": array for name, array in tensors.items()}
    require_right(identify(in_a_checkpoint(tensors | state)), dialect, spec)


@pytest.mark.parametrize("wrapped", ["optimizer", "ema", "mmengine", "module", "lightning"])
@pytest.mark.parametrize(("dialect", "spec"), [row for row in TABLE if row[0] in TORCH])
def test_in_a_training_file_of_torch(dialect, spec, wrapped):
    tensors = names_and_shapes(dialect, spec)
    objects = {name: ArrayData() for name in tensors}
    state = {"state": {0: {"momentum_buffer": ArrayData()}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    root = {
        "optimizer": {"state_dict": objects, "optimizer": state, "epoch": 3},
        "ema": {"model": objects, "ema": {"module": {n: ArrayData() for n in objects}, "updates": 7}},
        "mmengine": {"meta": {"mmocr_version": "1.0.1"}, "state_dict": objects, "optimizer": state,
                     "ema_state_dict": {"steps": ArrayData(), **{f"module.{n}": ArrayData() for n in objects}}},
        "module": {"state_dict": {f"module.{n}": o for n, o in objects.items()}, "optimizer": state},
        "lightning": {"state_dict": {f"model.{n}": o for n, o in objects.items()}, "optimizer_states": [state],
                      "pytorch-lightning_version": "2.1"},
    }[wrapped]
    contents = pth_contents.unpack(root, "x.pth")
    arrays = {id(o): tensors[name] for name, o in objects.items()}
    found = {name: arrays[id(o)] for name, o in contents.tensors.items()}
    require_right(identify(found), dialect, spec)
    assert contents.training


@pytest.mark.parametrize("glue", ["mmcv", "lightning"])
@pytest.mark.parametrize(("dialect", "spec"), [row for row in TABLE if row[0] in TORCH])
def test_copies_within_the_state_dict(dialect, spec, glue):
    """MMCV 1 registers an average as buffers `ema_a_b_c`; Lightning's callbacks keep it as a second module."""
    tensors = names_and_shapes(dialect, spec)
    if glue == "mmcv":
        copies = {f"ema_{name.replace('.', '_')}": array for name, array in tensors.items()}
    else:
        copies = {f"ema_model.{name}": array for name, array in tensors.items()}
    weights, training, ema = split_training_state(tensors | copies)
    require_right(identify(weights), dialect, spec)
    assert training == {"EMA copies": len(tensors)}
    assert set(ema) == set(tensors)


@pytest.mark.parametrize("part", ["Student", "Student2", "Teacher"])
@pytest.mark.parametrize("spec", dialects.PADDLE.specs)
def test_the_only_network_of_a_distillation(spec, part):
    tensors = {f"{part}.{name}": array for name, array in names_and_shapes("paddle", spec).items()}
    require_right(identify(tensors), "paddle", spec)


@pytest.mark.parametrize(("dialect", "spec", "width"), [
    ("paddle", "db_mv3_paddle", 256), ("paddle", "dbnet_mobilenetv3", 96), ("mindocr_enhance", "db_mv3_paddle", 256),
    ("mindocr", "dbnet_resnet18", 128), ("torch", "dbnet_mobilenetv3", 96), ("paddle", "db_mv3_ppocrv3", 128)])
def test_a_neck_of_another_width(dialect, spec, width):
    """PaddleOCR's det_mv3_db has squeeze-and-excitation and 256 channels, its mobile models neither."""
    mapping = weight_map(dialect, replace(SPECS[spec], neck_channels=width))
    report = identify({e.foreign: np.broadcast_to(np.float32(0), e.foreign_shape) for e in mapping.entries})
    require_right(report, dialect, spec)
    assert report.spec.neck_channels == width
    exact = identify({e.foreign: np.broadcast_to(np.float32(0), e.foreign_shape) for e in mapping.entries}, dialect,
                     SPECS[spec])
    assert exact.misshapen  # a record says how wide
    known = default_record(dialect, report.spec).spec
    assert (known.neck_channels, known.semantics() | {"neck_channels": 0}) == (
        width, default_record(dialect, SPECS[spec]).spec.semantics() | {"neck_channels": 0})


MEANT = {
    ("mhliao", "dbnet_resnet18"): {"stem_pool": "symmetric"},
    ("mhliao", "dbnet_resnet50_deformable"): {"stem_pool": "symmetric", "offsets": "mhliao"},
    ("mmocr", "dbnet_resnet50_deformable"): {"stem_pool": "symmetric", "offsets": "strided"},
    ("mmocr0", "dbnet_resnet50"): {"stem_pool": "symmetric"},
    ("paddle", "db_resnet18_paddle"): {"stem_pool": "symmetric", "first_shortcut": "projection"},
    ("paddle", "dbnet_mobilenetv3"): {"depthwise_padding": "symmetric", "se_gate": "hard_sigmoid_0.2"},
    ("paddle", "db_mv3_paddle"): {"depthwise_padding": "symmetric", "se_gate": "none"},
    ("paddle", "db_mv3_ppocrv3"): {"neck_gate": "hard_sigmoid_0.2", "upsampling": "floor"},
    ("paddle", "dbpp_resnet50_paddle"): {"fusion": "asf_spatial", "deformable": "modulated", "offsets": "strided"},
    ("mindocr_enhance", "db_mv3_ppocrv3"): {"neck_gate": "hard_sigmoid", "upsampling": "align_corners"},
    ("mindocr_enhance", "dbnet_mobilenetv3"): {"depthwise_padding": "symmetric", "se_gate": "hard_sigmoid"},
    ("mindocr", "dbnet_resnet50"): {"stem_pool": "same"},
    ("mindocr", "dbnet_mobilenetv3"): {"depthwise_padding": "same", "se_gate": "sigmoid"},
}


@pytest.mark.parametrize(("dialect", "spec"), list(MEANT))
def test_what_a_bare_file_means(dialect, spec):
    meant = default_record(dialect, SPECS[spec]).spec
    assert {name: getattr(meant, name) for name in MEANT[dialect, spec]} == MEANT[dialect, spec]
    assert not DIALECTS[dialect].cannot_express(meant)


@pytest.mark.parametrize(("dialect", "colour", "resize", "rule"), [
    ("mhliao", "BGR", "short_side", "mhliao"), ("mmocr", "RGB", "fit_pad_after", "mmocr"),
    ("mmocr0", "RGB", "fit_pad_after", "mmocr"), ("paddle", "BGR", "short_side_min", "paddle"),
    ("mindocr", "RGB", "stretch", "mindocr")])
def test_whose_pixels_and_boxes_a_bare_file_wants(dialect, colour, resize, rule):
    meant = default_record(dialect, SPECS["dbnet_resnet50"]).spec
    assert (meant.pixels.colour, meant.pixels.resize, meant.boxes.rule) == (colour, resize, rule)


def test_mmocrs_numbers_are_of_its_recipes():
    small, large = (default_record("mmocr", SPECS[f"dbnet_resnet{n}"]).spec for n in (18, 50))
    assert (small.pixels.size, large.pixels.size) == ((736, 1333), (1024, 4068))
    assert small.pixels.mean == pytest.approx((123.675, 116.28, 103.53))
    assert small.pixels.std == pytest.approx((58.395, 57.12, 57.375))
    assert (small.boxes.binary_thresh, small.boxes.box_thresh, small.boxes.max_candidates) == (0.3, 0.3, 3000)


def test_mmocr_0s_only_resnet50_subtracts_another_mean():
    meant = default_record("mmocr0", SPECS["dbnet_resnet50_deformable"]).spec.pixels
    assert meant == replace(default_record("mmocr", SPECS["dbnet_resnet50_deformable"]).spec.pixels,
                            mean=(122.67891434, 116.66876762, 104.00698793))
    for spec in ("dbnet_resnet18", "dbnet_resnet50"):
        assert default_record("mmocr0", SPECS[spec]).spec == default_record("mmocr", SPECS[spec]).spec


def test_mindocrs_ppocrv3_is_what_its_recipe_says():
    recipe = read_recipe("db_mobilenetv3_ppocrv3")
    meant = default_record("mindocr_enhance", SPECS["db_mv3_ppocrv3"]).spec
    assert meant == recipe.spec()
    assert (meant.pixels.colour, meant.pixels.resize, meant.boxes.box_thresh) == ("BGR", "limit_min", 0.9)


def test_paddles_det_mv3_db_is_stretched_as_its_recipe_says():
    """det_mv3_db.yml has an image_shape; what is shared without squeeze-and-excitation has none."""
    meant = default_record("paddle", SPECS["dbnet_mobilenetv3"]).spec.pixels
    assert (meant.colour, meant.resize, meant.size) == ("BGR", "stretch", (736, 1280))
    assert default_record("paddle", SPECS["db_mv3_paddle"]).spec.pixels.resize == "short_side_min"


@pytest.mark.parametrize("strange", ["student.", "ema_net.", "backbone.", "teacher_model."])
def test_an_unknown_prefix_is_no_prefix(strange):
    tensors = {strange + name: array for name, array in names_and_shapes("torch", "dbnet_resnet18").items()}
    assert identify(tensors).problems


@pytest.mark.parametrize(("dialect", "spec"), TABLE)
def test_one_tensor_missing_or_unknown_is_told(dialect, spec):
    tensors = names_and_shapes(dialect, spec)
    name = next(name for name in tensors if ".layer3" in name or ".res4a" in name or "ins_conv.2" in name
                or "features.12" in name or "stage2" in name or "stages.2" in name)
    without = {n: a for n, a in tensors.items() if n != name}
    assert (identify(without).missing, identify(without).problems) == ([name], 1)
    assert identify(tensors | {f"{name}.extra": tensors[name]}).unexpected == [f"{name}.extra"]


def test_the_help_names_every_dialect():
    text = " ".join(CliRunner().invoke(cli, ["convert", "--help"]).output.split())
    assert all(name in text for name in DIALECTS)
