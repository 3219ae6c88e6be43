"""Faults from before an exporter folded the batch norms are read from its file, whichever of the two files it is."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from parity.folded import folded_layers, in_like_terms
from parity.lab import Network
from parity.suspects import faults

SPEC = SPECS["dbnet_resnet18"]
#: Of a part of it, which is enough, and quick.
WEIGHTS = {name: array for name, array in seeded_weights(SPEC, 23).items()
           if name.startswith(("backbone.layer2.", "head.segm."))}
#: The deconvolution, which has a bias of its own, and norms of ordinary layers.
BLOCK, HEAD = "backbone.layer2.1", "head.segm.3"


def folded(weights, eps=SPEC.norm_eps, into_bias=True):
    """As exporters do it: a norm that does nothing is left behind."""
    weights = dict(weights)
    for norm in [name.removesuffix(".gamma") for name in weights if name.endswith(".gamma")]:
        gamma, beta, mean, variance = (weights[f"{norm}.{leaf}"].astype(np.float64) for leaf in (
            "gamma", "beta", "moving_mean", "moving_variance"))
        scale, (parent, _, leaf) = gamma / np.sqrt(variance + eps), norm.rpartition(".")
        conv = f"{parent}.{leaf.replace('bn', 'conv') if 'bn' in leaf else int(leaf) - 1}"
        shift, kernel = beta - mean * scale, weights[f"{conv}.weight"].astype(np.float64)
        transposed = conv.startswith("head.") and conv.endswith(".3")
        kernel *= scale[:, None, None] if transposed else scale[:, None, None, None]
        weights[f"{conv}.weight"] = kernel.astype(np.float32)
        if f"{conv}.bias" in weights:
            shift = shift + weights[f"{conv}.bias"] * scale
            weights[f"{conv}.bias"] = (shift if into_bias else 0 * shift).astype(np.float32)
            shift = 0 * shift if into_bias else shift
        one = np.ones_like(gamma, np.float32)
        weights |= {f"{norm}.gamma": one, f"{norm}.beta": shift.astype(np.float32), f"{norm}.moving_mean": 0 * one,
                    f"{norm}.moving_variance": one - np.float32(SPEC.norm_eps)}
    return weights


def exchanged(weights, *names):
    return {**weights, names[0]: weights[names[1]], names[1]: weights[names[0]]}


def changed(weights, name, change):
    return {**weights, name: np.ascontiguousarray(change(weights[name])).astype(np.float32)}


def further(weights, amount, part=""):
    return {name: array + np.float32(amount) if name.startswith(part) and name.endswith("variance") else array
            for name, array in weights.items()}


def turned(kernel):
    return kernel.swapaxes(2, 3)


#: name -> (change of the weights, causes)
FAULTS = {
    "none": (dict, set()),
    "turned": (lambda w: changed(w, f"{BLOCK}.conv2.weight", turned), {"transposed_kernel"}),
    "deconvolution turned": (
        lambda w: changed(w, f"{HEAD}.weight", lambda k: k.swapaxes(0, 1)), {"transposed_kernel"}),
    "kernels exchanged": (
        lambda w: exchanged(w, f"{BLOCK}.conv1.weight", f"{BLOCK}.conv2.weight"), {"swapped_tensors"}),
    "gamma and beta": (lambda w: exchanged(w, f"{BLOCK}.bn1.gamma", f"{BLOCK}.bn1.beta"), {"swapped_tensors"}),
    "gamma and variance": (
        lambda w: exchanged(w, f"{BLOCK}.bn1.gamma", f"{BLOCK}.bn1.moving_variance"), {"swapped_tensors"}),
    "mean and beta": (lambda w: exchanged(w, f"{BLOCK}.bn1.moving_mean", f"{BLOCK}.bn1.beta"), {"swapped_tensors"}),
    "one of another norm": (lambda w: exchanged(w, f"{BLOCK}.bn1.beta", f"{BLOCK}.bn2.beta"), {"swapped_tensors"}),
    "shift": (lambda w: changed(w, f"{BLOCK}.bn2.beta", lambda b: 0 * b), {"missing_bias"}),
    "bias before the norm": (lambda w: changed(w, f"{HEAD}.bias", lambda b: 0 * b), {"missing_bias"}),
    "last bias": (lambda w: changed(w, "head.segm.6.bias", lambda b: 0 * b), {"missing_bias"}),
    "epsilon": (lambda w: further(w, 1e-3 - 1e-5), {"bn_eps"}),
    "epsilon of one": (lambda w: further(w, 1e-3 - 1e-5, f"{BLOCK}.bn2"), {"bn_eps"}),
    "half": (lambda w: {name: array.astype(np.float16).astype(np.float32) for name, array in w.items()}, {"precision"}),
    "bfloat16": (lambda w: changed(w, f"{BLOCK}.conv2.weight", lambda k: k.astype(ml_dtypes.bfloat16)), {"precision"}),
    "turned, and an epsilon": (
        lambda w: further(changed(w, f"{BLOCK}.conv2.weight", turned), 1e-3), {"transposed_kernel", "bn_eps"}),
}


def causes(candidate, reference):
    first = next(in_like_terms(candidate, reference))
    return {fault.cause for fault in faults(*first).known}


@pytest.mark.parametrize("into_bias", [True, False])
@pytest.mark.parametrize("name", list(FAULTS))
def test_faults_are_read_from_a_folded_file(name, into_bias):
    change, expected = FAULTS[name]
    sound, unsound = WEIGHTS, change(WEIGHTS)
    for mine, right in ((folded(unsound, into_bias=into_bias), sound), (unsound, folded(sound, into_bias=into_bias)),
                        (sound, folded(unsound, into_bias=into_bias)), (folded(sound, into_bias=into_bias), unsound)):
        assert causes(Network(SPEC, mine), Network(SPEC, right)) == expected


@pytest.mark.parametrize("eps", [1e-3, 1e-6, 2.5e-5])
def test_another_epsilon_was_folded(eps):
    found = [cause for pair in ((folded(WEIGHTS, eps), WEIGHTS), (WEIGHTS, folded(WEIGHTS, eps)))
             for cause in causes(*(Network(SPEC, each) for each in pair))]
    assert found == ["bn_eps", "bn_eps"]


@pytest.mark.parametrize("leaf", ["conv2.weight", "bn2.gamma"])
def test_channels_that_do_nothing(leaf):
    def dead(array):
        return array * (np.arange(len(array)) % 7 > 0).reshape(-1, *[1] * (array.ndim - 1))
    sound = changed(WEIGHTS, f"{BLOCK}.{leaf}", dead)
    for eps, expected in ((SPEC.norm_eps, set()), (1e-3, {"bn_eps"})):
        assert causes(Network(SPEC, folded(sound, eps)), Network(SPEC, sound)) == expected
    unsound = changed(sound, f"{BLOCK}.conv1.weight", turned)
    assert causes(Network(SPEC, folded(unsound)), Network(SPEC, sound)) == {"transposed_kernel"}


def test_variances_that_are_none():
    """Nothing is said, not even by numpy."""
    unsound = further(WEIGHTS, -9, f"{BLOCK}.bn2")
    for two in ((unsound, folded(WEIGHTS)), (folded(WEIGHTS), unsound)):
        assert len(list(in_like_terms(*(Network(SPEC, each) for each in two)))) == 3


def test_a_record_that_says_otherwise():
    mine, right = Network(replace(SPEC, norm_eps=1e-3), WEIGHTS), Network(SPEC, folded(WEIGHTS))
    assert causes(mine, right) == causes(right, mine) == {"bn_eps"}


def test_what_is_not_folded_stays_as_it_is():
    pair = Network(SPEC, WEIGHTS), Network(SPEC, further(WEIGHTS, 1e-3))
    assert list(in_like_terms(*pair)) == [pair]
    assert folded_layers(*pair) == {}
    both = Network(SPEC, folded(WEIGHTS)), Network(SPEC, folded(further(WEIGHTS, 1e-3)))
    assert list(in_like_terms(*both)) == [both]


def test_all_terms_compute_the_same(available):
    available("torch")
    from dbnet.seeded import seeded_images
    from torch_reference.runner import TorchRunner
    spec, norm = SPECS["dbnet_mobilenetv3"], "backbone.features.7.layers.4"
    image, weights = seeded_images(1, 64, 96), seeded_weights(spec, 23)
    pair = Network(spec, folded(exchanged(weights, f"{norm}.gamma", f"{norm}.beta"))), Network(spec, weights)
    for two in (pair, pair[::-1]):
        right = [TorchRunner(each.spec, each.weights, stages=("c5", "logits"), device="cpu").run(image) for each in two]
        terms = list(in_like_terms(*two))
        assert len(terms) == 3
        for other in terms:
            for each, wanted in zip(other, right, strict=True):
                found = TorchRunner(each.spec, each.weights, stages=("c5", "logits"), device="cpu").run(image)
                for stage, array in wanted.items():
                    np.testing.assert_allclose(found[stage], array, rtol=0, atol=2e-5 * np.abs(array).max())


def test_layers_that_differ_because_of_it():
    layers = folded_layers(Network(SPEC, folded(WEIGHTS)), Network(SPEC, WEIGHTS))
    assert layers[f"{BLOCK}.conv2"] == f"{BLOCK}.bn2" and layers[HEAD] == "head.segm.4" and len(layers) == 7
