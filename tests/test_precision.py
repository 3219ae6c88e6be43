"""Half precision: the formats, the layers that may stay float32, what is counted, and that every operator rounds."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from converters.onnx_parts import parse, with_outputs
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.precision import (
    FORMATS,
    SIGMOID,
    Counts,
    always_float32,
    check_precision,
    count,
    count_weights,
    kept_layers,
    layers,
    taken,
)
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES
from evaluation.onnx_half import HalfOnnxRunner, half_archive

R18, MV3 = SPECS["dbnet_resnet18"], SPECS["dbnet_mobilenetv3"]
ASF, DEFORMABLE = SPECS["dbnetpp_resnet50"], SPECS["dbnet_resnet18_deformable"]
HALVES = ("torch", "onnxruntime")
IMAGES = seeded_images(1, 64, 96, 3)


def runner(name, spec, precision, *, stages=STAGES, keep=(), weights=None, counting=None):
    weights = seeded_weights(spec, 11) if weights is None else weights
    if name == "onnxruntime":
        return HalfOnnxRunner(spec, weights, "cpu", stages, 1, precision=precision, keep_float32=keep,
                              counting=counting)
    pytest.importorskip("torch")
    from torch_reference.runner import TorchRunner
    opened = TorchRunner(spec, weights, "cpu", stages, precision=precision, keep_float32=keep)
    if counting:
        opened.count(counting)
    return opened


def next_to(value: float, to: float) -> np.float32:
    return np.nextafter(np.float32(value), np.float32(to))


# Formats and layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_the_limits_are_where_rounding_changes(name):
    form = FORMATS[name]

    def rounded(value):
        return float(form.rounded(np.float32(value)))

    assert rounded(form.largest) == form.largest
    assert rounded(form.overflow) == np.inf
    assert rounded(next_to(form.overflow, 0)) == form.largest
    assert rounded(1 + form.epsilon) == 1 + form.epsilon
    assert rounded(1 + form.epsilon / 4) == 1
    if name == "fp16":  # what bf16 makes zero, float32 has not either, but for its last subnormals
        assert rounded(form.vanishes) == 0
        assert rounded(next_to(form.vanishes, 1)) > 0
    assert rounded(form.normal) == form.normal
    assert rounded(form.normal * (1 + form.epsilon)) == form.normal * (1 + form.epsilon)


def test_what_is_counted():
    values = np.array([0, 1, -7e4, np.inf, np.nan, 65519, 2**-25, -(2**-24), 2**-14, 3e-5, 1e-9], np.float32)
    assert count(values, FORMATS["fp16"]) == Counts(11, 2, 1, 2, 2, 7e4)
    assert count(values, FORMATS["bf16"]) == Counts(11, 2, 0, 0, 0, 7e4)
    assert count(np.zeros(0), FORMATS["fp16"]) == Counts()
    assert Counts(2, 1, 0, 0, 0, 3.0) + Counts(1, 0, 1, 1, 1, 2.0) == Counts(3, 1, 1, 1, 1, 3.0)


def test_layers_are_those_of_inference():
    for spec in SPECS.values():
        names = layers(spec)
        assert len(set(names)) == len(names)
        assert names[-1] == SIGMOID
        assert set(names) - {SIGMOID} == {p.path for p in parameters(spec) if not p.training_only}


def test_a_module_stands_for_its_layers():
    assert kept_layers(R18, ["head.segm"]) == {f"head.segm.{i}" for i in (0, 1, 3, 4, 6)}
    assert kept_layers(R18, ["backbone.bn1"]) == {"backbone.bn1"}
    assert kept_layers(R18, ["backbone", "neck", "head"]) == set(layers(R18))
    assert kept_layers(R18, []) == frozenset()


@pytest.mark.parametrize("name", ["head.thresh", "head.seg", "backbone.layer1.0.relu", "", "neck.fuse"])
def test_what_is_no_layer_is_refused(name):
    with pytest.raises(DbnetError, match="has no layer"):
        kept_layers(R18, [name])


def test_the_nearest_layers_are_named():
    with pytest.raises(DbnetError, match=r"nearest are .*head\.segm\.1"):
        kept_layers(R18, ["head.segm1"])


def test_positions_stay_float32():
    assert always_float32(R18) == frozenset()
    kept = always_float32(DEFORMABLE)
    assert kept
    assert kept <= set(layers(DEFORMABLE))
    assert all(f"{layer}_offset" in layers(DEFORMABLE) for layer in kept)


def test_an_unknown_precision():
    for wrong in ("half", "float16", "fp8", ""):
        with pytest.raises(DbnetError, match="float32, fp16, bf16"):
            check_precision(wrong)
    with pytest.raises(DbnetError, match="fp16"):
        HalfOnnxRunner(R18, seeded_weights(R18), precision="int8")


# Rounding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("spec", [R18, pytest.param(MV3, marks=pytest.mark.long)], ids=lambda spec: spec.name)
def test_every_stage_is_rounded_and_near_float32(name, precision, spec):
    form = FORMATS[precision]
    exact, found = runner(name, spec, "float32").run(IMAGES), runner(name, spec, precision).run(IMAGES)
    for stage in STAGES:
        assert found[stage].dtype == np.float32
        assert (form.rounded(found[stage]).astype(np.float32) == found[stage]).all(), stage
        if stage != "probability":
            far = np.abs(found[stage] - exact[stage]).max() / np.abs(exact[stage]).max()
            assert form.epsilon / 4 < far < 4 * form.epsilon, stage


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("spec", [MV3, pytest.param(R18, marks=pytest.mark.long), DEFORMABLE],
                         ids=lambda spec: spec.name)
def test_torch_and_onnx_runtime_agree(precision, spec):
    pair = [runner(name, spec, precision).run(IMAGES) for name in HALVES]
    for stage in STAGES[:9]:
        far = np.abs(pair[0][stage] - pair[1][stage]).max() / np.abs(pair[0][stage]).max()
        assert far < 4 * FORMATS[precision].epsilon, stage


@pytest.mark.parametrize("precision", FORMATS)
def test_layers_equal_their_emulation_in_numpy(precision):
    """The stem of a ResNet: convolution, batch norm and sum, each from the values that went in."""
    form, weights = FORMATS[precision], seeded_weights(R18, 11)
    names = ["backbone.conv1", "backbone.bn1", "backbone.layer1.0.bn2", "backbone.max_pool", "backbone.layer1.0.add",
             "logits", "probability"]
    data, _ = half_archive(R18, weights, True, form, ())
    session = onnxruntime.InferenceSession(with_outputs(parse(data), names).SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    conv, norm, norm2, pooled, added, logits, probability = session.run(names, {"image": IMAGES})

    def short(array):
        return form.rounded(np.asarray(array, np.float32)).astype(np.float64)

    def alike(found, exact):
        wanted = short(exact)
        assert (found == wanted).mean() > 0.99
        assert (np.abs(found - wanted) <= 2 * form.epsilon * np.abs(wanted) + 1e-3 * form.epsilon).all()

    padded = np.pad(short(IMAGES), [(0, 0), (0, 0), (3, 3), (3, 3)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (2, 3))[:, :, ::2, ::2]
    alike(conv, np.einsum("nchwij,ocij->nohw", windows, short(weights["backbone.conv1.weight"]), optimize=True))
    gamma, beta, mean, variance = (short(weights[f"backbone.bn1.{leaf}"])[:, None, None]
                                   for leaf in ("gamma", "beta", "moving_mean", "moving_variance"))
    alike(norm, (conv - mean) / np.sqrt(variance + R18.norm_eps) * gamma + beta)
    alike(added, norm2.astype(np.float64) + pooled)
    alike(probability, 1 / (1 + np.exp(-logits.astype(np.float64))))


@pytest.mark.parametrize("name", HALVES)
def test_layers_that_are_kept(name):
    form = FORMATS["fp16"]
    exact = runner(name, R18, "float32").run(IMAGES)
    sigmoid = runner(name, R18, "fp16", keep=[SIGMOID]).run(IMAGES)
    assert (form.rounded(sigmoid["logits"]) == sigmoid["logits"]).all()
    assert (form.rounded(sigmoid["probability"]) != sigmoid["probability"]).mean() > 0.5
    neck = runner(name, R18, "fp16", keep=["neck"]).run(IMAGES)
    assert (form.rounded(neck["c5"]) == neck["c5"]).all()
    assert (form.rounded(neck["fused"]) != neck["fused"]).mean() > 0.5
    everything = runner(name, R18, "fp16", keep=["backbone", "neck", "head"])
    assert everything.environment()["kept_float32"] == sorted(layers(R18))
    found = everything.run(IMAGES)
    for stage in STAGES:
        np.testing.assert_allclose(found[stage], exact[stage], rtol=0, atol=1e-5 * np.abs(exact[stage]).max())


def test_parts_are_rounded_too():
    opened = runner("torch", R18, "fp16")
    maps = opened.run(IMAGES)
    parts = opened.parts(IMAGES, maps)
    for stage in STAGES:
        np.testing.assert_array_equal(parts[stage], maps[stage])


# Counters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [R18, MV3, *(pytest.param(spec, marks=pytest.mark.long) for spec in (
    SPECS["db_mv3_ppocrv3"], ASF))], ids=lambda spec: spec.name)
def test_both_frameworks_count_the_same(spec):
    form = FORMATS["fp16"]
    pair = []
    for name in HALVES:
        opened = runner(name, spec, "float32", stages=("probability",), counting=form)
        opened.run(IMAGES)
        opened.run(IMAGES)
        pair.append(opened.counts)
    assert set(layers(spec)) | {taken(name) for name in layers(spec)} <= set(pair[0]) == set(pair[1])
    for layer, found in pair[0].items():
        other = pair[1][layer]
        padded = layer.endswith(".taken") and spec.depthwise_padding == "same"
        assert found.size == other.size or (padded and found.size > other.size), layer
        assert (found.nonfinite, found.beyond) == (0, 0), layer
        assert found.size % 2 == 0
        assert found.largest == pytest.approx(other.largest, rel=1e-4), layer
        assert abs(found.subnormal - other.subnormal) <= 4 + found.subnormal / 10, layer


def test_the_counters_are_right():
    """Against `count` of the maps themselves."""
    form = FORMATS["fp16"]
    weights = seeded_weights(R18, 11)
    weights["neck.unify_channels.3.weight"] *= np.float32(3e4)
    weights["neck.out.0.weight"] *= np.float32(1e-12)
    opened = runner("onnxruntime", R18, "float32", weights=weights, counting=form)
    maps = opened.run(IMAGES)
    for layer, stage in (("neck.out.0", "p2"), ("neck.out.3", "p5"), ("head.segm.6", "logits")):
        assert opened.counts[layer] == count(maps[stage], form), layer
    assert opened.counts["neck.out.0"].flushed + opened.counts["neck.out.0"].subnormal > 0
    assert opened.counts["neck.out.3"].beyond > 0


def test_weights_are_counted():
    weights = seeded_weights(R18, 11)
    weights["head.segm.1.moving_variance"][:3] = 1e6
    weights["head.segm.1.moving_mean"][0] = 1e-10
    found = count_weights(R18, weights, FORMATS["fp16"])
    assert set(found) == set(layers(R18)) - {SIGMOID}
    assert (found["head.segm.1"].beyond, found["head.segm.1"].flushed, found["head.segm.1"].largest) == (3, 1, 1e6)
    assert not found["head.segm.4"].overflows
    assert not count_weights(R18, weights, FORMATS["bf16"])["head.segm.1"].overflows
