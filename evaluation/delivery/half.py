"""Whether a model may be exported in float16 at all: where its values are beyond that, the layers to keep are named.

The runtimes of this machine mostly compute a float16 file in float32; what other chips do is what counts, so the model
is run with every operator rounded (`evaluation.onnx_half`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converters.load import LoadedModel
from dbnet.errors import DbnetError
from dbnet.extras import installed
from dbnet.precision import kept_layers
from evaluation.delivery.check import changed_in_half, scenes
from evaluation.delivery.settings import Delivered
from evaluation.half import HALF_RUNNERS
from evaluation.precision import Setup, examine, measure
from evaluation.precision_search import Searcher


def require_range(model: LoadedModel, delivered: Delivered, keep: Sequence[str], images: Sequence[Path],
                  scratch: Path) -> list[str]:
    """What half precision does to the model on the images, or drawn scenes; a line each.

    Raises DbnetError if values are beyond float16, and names the layers to keep in float32, or if boxes are lost or
    many are new.
    """
    runner = next((name for name in reversed(HALF_RUNNERS) if installed(name)), None)
    if runner is None:
        return ["half precision: not run, pip install 'dbnet-parity[onnxruntime]'"]
    own = model.record.spec
    pixels, named = scenes(delivered, images, scratch)
    pixels = replace(pixels, colour=own.pixels.colour, mean=own.pixels.mean, std=own.pixels.std)
    spec = replace(own, pixels=pixels, boxes=delivered.spec.boxes)
    known = replace(model, record=replace(model.record, spec=spec))
    setup = Setup(known, "fp16", runner, spec.boxes)
    drift = measure(setup, setup.open("float32"), setup.open("fp16", keep), named)
    if drift.maps.failed:
        raise DbnetError(f"half precision was not looked at: {drift.maps.failed[0]}")
    report = examine(setup, named[:1], keep=keep)
    if drift.nonfinite or report.overflowing:
        searcher = Searcher(report, named[:1])
        needed = searcher.needed() - kept_layers(own, keep)
        layers = [layer for layer in searcher.layers if layer in needed]
        raise DbnetError(f"{model.path}: its values are beyond float16's 65504 in {', '.join(layers[:5])}; keep "
                         f"{'these' if len(layers) > 1 else 'that'} in float32: --keep-float32 "
                         f"{','.join([*keep, *layers])}")
    if (changed := changed_in_half(drift.maps)) is not None:
        raise DbnetError(f"{model.path}: in float16 {changed}; dbnet precision {model.path.name} --images DIR says "
                         f"which layers to keep (--keep-float32)")
    return [f"rounded to float16 after every operator: probability within {drift.maps.max_abs:.1e}, "
            f"{drift.boxes.identical} of {drift.boxes.a} boxes the same, {drift.boxes.moved} moved"]

