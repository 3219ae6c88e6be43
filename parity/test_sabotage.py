"""Faults that ports really have, put in on purpose: each must be caught, at the stage where it was put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dbnet.errors import DbnetError
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES
from parity.compare import compare, compare_stages, first_divergence
from parity.told import rows_of, stage_table
from parity.tolerances import TOLERANCES, tolerances

SIZE = (1, 96, 160)


def swapped(weights, a, b):
    return {**weights, a: weights[b], b: weights[a]}


def flipped(weights, name):
    return {**weights, name: np.ascontiguousarray(weights[name].swapaxes(2, 3))}


def transposed(weights, name):
    return {**weights, name: np.ascontiguousarray(weights[name].swapaxes(0, 1))}


def reversed_blocks(weights, name):
    blocks = np.split(weights[name], 4, axis=1)
    return {**weights, name: np.ascontiguousarray(np.concatenate(blocks[::-1], axis=1))}


def predicted(weights, block, order):
    """The 27 channels of a block's offset convolution in another order."""
    names = [f"backbone.{block}.conv2_offset.{leaf}" for leaf in ("weight", "bias")]
    return {**weights, **{name: np.ascontiguousarray(weights[name][list(order)]) for name in names}}


#: name -> (spec, change of the spec's fields, change of the weights, first stage that must differ)
SABOTAGE = {
    "gamma and beta swapped": (
        "dbnet_resnet18", {}, lambda w: swapped(w, "backbone.layer2.0.bn1.gamma", "backbone.layer2.0.bn1.beta"), "c3"),
    "variances of two layers swapped": (
        "dbnet_mobilenetv3", {}, lambda w: swapped(
            w, "backbone.features.14.layers.1.moving_variance", "backbone.features.14.layers.4.moving_variance"), "c4"),
    "kernel rows and columns swapped": ("dbnet_resnet18", {}, lambda w: flipped(w, "neck.out.1.weight"), "p3"),
    "square kernel transposed": (
        "dbnet_resnet18", {}, lambda w: transposed(w, "backbone.layer4.1.conv2.weight"), "c5"),
    "transposed convolution transposed": (
        "dbnet_resnet18", {}, lambda w: transposed(w, "head.segm.3.weight"), "logits"),
    "epsilon of torchvision": ("dbnet_resnet18", {"norm_eps": 1e-3}, dict, "c2"),
    "epsilon ten times larger": ("dbnet_resnet50", {"norm_eps": 1e-4}, dict, "c2"),
    "stem pool of the originals": ("dbnet_resnet18", {"stem_pool": "symmetric"}, dict, "c2"),
    "depthwise padding of Paddle": ("dbnet_mobilenetv3", {"depthwise_padding": "symmetric"}, dict, "c2"),
    "gate of torch": ("dbnet_mobilenetv3", {"se_gate": "hard_sigmoid"}, dict, "c3"),
    "gate of old Paddle for torch's": ("dbnet_mobilenetv3+torch", {"se_gate": "hard_sigmoid_0.2"}, dict, "c3"),
    "concatenation reversed": (
        "dbnet_resnet18", {}, lambda w: reversed_blocks(w, "head.segm.0.weight"), "logits"),
    "attention left out": (
        "dbnetpp_resnet50", {}, lambda w: {**w, "neck.fuse.chan_att.2.weight": w["neck.fuse.chan_att.2.weight"] * 0},
        "fused"),
    "scales in another order": (
        "dbnetpp_resnet50", {}, lambda w: {**w, "neck.fuse.scale_att.0.weight": np.ascontiguousarray(
            w["neck.fuse.scale_att.0.weight"][::-1])}, "fused"),
    "offsets in x before those in y": (
        "dbnet_resnet18_deformable", {}, lambda w: predicted(w, "layer3.1", [*(i ^ 1 for i in range(18)),
                                                                             *range(18, 27)]), "c4"),
    "masks before offsets": (
        "dbnet_resnet18_deformable", {}, lambda w: predicted(w, "layer2.0", [*range(9, 27), *range(9)]), "c3"),
    "offsets computed with the stride": ("dbnet_resnet50_deformable", {"offsets": "strided"}, dict, "c3"),
    "last bias dropped": (
        "dbnet_resnet18", {}, lambda w: {**w, "head.segm.6.bias": w["head.segm.6.bias"] * 0}, "logits"),
}


@pytest.mark.parametrize("name", list(SABOTAGE))
def test_sabotage_is_caught(name, available):
    available("torch")
    from parity.cases import CASES
    from torch_reference.runner import TorchRunner
    case, fields, change, stage = SABOTAGE[name]
    spec = CASES[case]
    weights, image = seeded_weights(spec, 11), seeded_images(*SIZE)
    sound = TorchRunner(spec, weights, stages=STAGES, device="cpu").run(image)
    unsound = TorchRunner(replace(spec, **fields), change(weights), stages=STAGES, device="cpu").run(image)
    comparisons = compare_stages(sound, unsound, tolerances("cpu"))
    found = first_divergence(comparisons)
    assert found is not None, f"{name} was not noticed\n{stage_table(rows_of(comparisons))}"
    assert found.stage == stage, stage_table(rows_of(comparisons))


def test_a_sound_model_is_not_accused(available):
    available("torch")
    from torch_reference.runner import TorchRunner
    spec = SPECS["dbnet_resnet18"]
    runs = [TorchRunner(spec, seeded_weights(spec, 11), stages=STAGES, device="cpu").run(seeded_images(*SIZE))
            for _ in range(2)]
    assert first_divergence(compare_stages(*runs, tolerances("cpu"))) is None


def test_a_constant_reference_is_refused():
    with pytest.raises(DbnetError, match="constant"):
        compare("c2", np.ones((1, 4, 8, 8)), np.ones((1, 4, 8, 8)), 1e-5)
    assert compare("c2", np.ones(9), np.ones(9), 1e-5, constant_is_known=True).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_never_passes(value):
    good = np.arange(6.0)
    bad = np.where(good == 3, value, good)
    for pair in ((good, bad), (bad, good), (bad, bad)):
        with pytest.raises(DbnetError, match="NaN"):
            compare("c2", *pair, 1e-5)


def test_shapes_must_agree():
    with pytest.raises(DbnetError, match="shapes differ"):
        compare("c2", np.zeros((1, 2, 3)), np.zeros((1, 3, 2)), 1e-5)


def test_the_worst_value_is_found_and_counted():
    reference = np.arange(24.0).reshape(2, 3, 4)
    candidate = reference.copy()
    candidate[1, 2, 0] += 1.0
    candidate[0, 1, 1] -= 0.5
    found = compare("p2", reference, candidate, 0.03)
    assert (found.worst_index, found.max_abs, found.mismatched, found.passed) == ((1, 2, 0), 1.0, 1, False)
    assert stage_table(rows_of([found])).endswith("DIFFERS, most at (1, 2, 0)")
    assert first_divergence([found]) is found


def test_tolerances_grow_with_the_device():
    for stage in (*STAGES, "threshold", "binary"):
        assert tolerances("cpu").of(stage) < tolerances("cuda:1").of(stage) < tolerances("Ascend").of(stage)
    assert [key for key, row in TOLERANCES.items() if row.measured] == [("cpu", "float32", False),
                                                                        ("cuda", "float32", False)]
    with pytest.raises(DbnetError, match="no tolerances"):
        tolerances("tpu")
