"""The training losses of both halves, and their gradients, against each other and a float64 referee in torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dbnet.loss_settings import Losses, LossSettings
from parity.training import HALVES, REFEREE, LossInputs, drawn_batch, loss_function

#: Graph mode compiles each function anew: `make test-full` runs these.
pytestmark = pytest.mark.long

#: Of a loss, and norm-wise of its gradients; below the second number of each, 0 is as good (MindSpore's log1p gives 0
#: below 6e-8).
LOSS_TOLERANCE, GRADIENT_TOLERANCE = (1e-5, 1e-7), (2e-5, 1e-8)
FUNCTIONS = [LossSettings(), LossSettings(mining="batch"), LossSettings(bce_replace="diceloss")]


def inputs(case):
    """Logits and maps that could make a difference."""
    rng = np.random.default_rng(3)
    batch = drawn_batch(1)
    binary, mask, thresh_map, thresh_mask = (array.astype(np.float32) for array in batch[1:-1])
    logits, threshold = (rng.normal(0, 3, (2, 1, 64, 96)).astype(np.float32) for _ in range(2))
    text = binary[:, None]
    if case == "one image without text":
        binary[0] = thresh_mask[0] = 0
    elif case == "no text":
        binary[:] = thresh_mask[:] = 0
    elif case == "everything ignored":
        mask[:] = 0
    elif case == "one image and stripes ignored":
        mask[0] = mask[1, :, ::3] = 0
    elif case == "saturated and right":
        logits = 80 * text - 40
    elif case == "saturated and wrong":
        logits, threshold = 40 - 80 * text, 40 * np.sign(threshold)
    elif case == "all alike":
        logits, threshold = np.full_like(logits, 0.5), np.zeros_like(threshold)
    elif case == "all 0":
        logits, threshold = np.zeros_like(logits), np.zeros_like(threshold)
    elif case == "float16":
        logits, threshold = logits.astype(np.float16), threshold.astype(np.float16)
    else:
        assert case == "drawn"
    return LossInputs(logits, threshold, binary, mask, thresh_map, thresh_mask)


CASES = ("drawn", "one image without text", "no text", "everything ignored", "one image and stripes ignored",
         "saturated and right", "saturated and wrong", "all alike", "all 0")


@pytest.fixture(scope="module")
def functions():
    """Loss functions, made once each."""
    made = {}

    def make(name, settings, step):
        if (name, settings, step) not in made:
            made[name, settings, step] = loss_function(name, settings, step)
        return made[name, settings, step]

    return make


def require_alike(found, reference, tolerance=GRADIENT_TOLERANCE):
    for part, ours, exact in zip(Losses._fields, found.losses, reference.losses, strict=True):
        assert abs(ours - exact) <= LOSS_TOLERANCE[0] * abs(exact) + LOSS_TOLERANCE[1], (part, ours, exact)
    for name in ("by_logits", "by_threshold_logits"):
        ours, exact = getattr(found, name), getattr(reference, name)
        assert np.linalg.norm(ours - exact) <= tolerance[0] * np.linalg.norm(exact) + tolerance[1], name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", ["paper", "mindocr"])
@pytest.mark.parametrize("settings", FUNCTIONS, ids=["mindocr", "batch", "diceloss"])
def test_losses(settings, step, case, functions, available, report):
    available(*HALVES)
    exact = functions(REFEREE, settings, step)(inputs(case))
    for name in HALVES:
        found = functions(name, settings, step)(inputs(case))
        report(half=name, case=case, losses=found.losses, exact=exact.losses)
        require_alike(found, exact)


@pytest.mark.parametrize("settings", FUNCTIONS[:2], ids=["mindocr", "batch"])
def test_short_logits_are_taken_to_float32(settings, functions, available):
    available(*HALVES)
    exact = functions(REFEREE, settings, "paper")(inputs("float16"))
    for name in HALVES:  # the gradients come back in float16
        require_alike(functions(name, settings, "paper")(inputs("float16")), exact, (1e-3, 1e-8))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("fault", "case"), [
    ("mining", "drawn"), ("mining", "one image without text"), ("mining", "no text"), ("mining", "all alike"),
    ("step", "drawn"), ("step", "saturated and wrong"),
    ("masks", "drawn"), ("masks", "one image and stripes ignored"), ("maps", "drawn"), ("scale", "drawn"),
])
def test_a_fault_in_the_loss_is_caught(fault, case, half, functions, available):
    available(*HALVES)
    exact = functions(REFEREE, FUNCTIONS[0], "paper")(inputs(case))
    settings, step, given = FUNCTIONS[0], "paper", inputs(case)
    if fault == "mining":
        settings = FUNCTIONS[1]
    elif fault == "step":
        step = "mindocr"  # sigmoid(k P - T)
    elif fault == "masks":
        given = replace(given, mask=given.thresh_mask, thresh_mask=given.mask)
    elif fault == "maps":
        given = replace(given, binary_map=given.thresh_map)
    else:
        given = replace(given, thresh_mask=2 * given.thresh_mask, mask=1.001 * given.mask)
    with pytest.raises(AssertionError):
        require_alike(functions(half, settings, step)(given), exact)
