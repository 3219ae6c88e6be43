"""What HF32, fp16 and bf16 do to every stage, simulated: `python benchmarks/short_products.py [MODEL ...]`.

The network runs in float64; what goes into each convolution and dense layer, and its weights, is first rounded to the
format's bits (and what comes out of every layer too, in fp16 and bf16). The largest error relative to the stage's
largest value, of all networks with seeded weights and of the given models, which see drawn words: noise gives a trained
one nothing to see. `parity/tolerances.py` has its rows for a device that nobody here has from these, with a margin.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn

from converters.load import load_model
from dbnet.datasets.drawn import draw
from dbnet.preprocess import prepare
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES, TRAINING_STAGES, ModelSpec
from parity.tolerances import least_of
from torch_reference.runner import TorchRunner

#: Bits of the significand, the hidden one included; whether the outputs are rounded too.
FORMATS = {"hf32": (12, False), "fp16": (11, True), "bf16": (8, True)}
SIZES = ((96, 160), (352, 288))
GROUPS = {"features": STAGES[:-2], "logits": ("logits",), "probability": ("probability", "threshold"),
          "binary": ("binary",)}


def rounded(values: torch.Tensor, bits: int) -> torch.Tensor:
    """To the nearest number of that many bits, ties to even; no exponent is too large."""
    significand, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(significand * 2.0**bits) * 2.0**-bits, exponent)


def shorten(net: nn.Module, bits: int, outputs: bool) -> None:
    """Rounds what every layer of `net` takes."""
    for module in net.modules():
        if any(module.children()):
            continue
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.weight.data = rounded(module.weight.data, bits)
            module.register_forward_pre_hook(lambda _module, given: tuple(rounded(x, bits) for x in given))
        if outputs:
            module.register_forward_hook(lambda _module, _given, out: rounded(out, bits))


def errors(spec: ModelSpec, weights: Mapping[str, np.ndarray], images: np.ndarray, bits: int, outputs: bool,
           ) -> dict[str, float]:
    """Of the groups of stages, against the same network without rounding."""
    stages = STAGES + TRAINING_STAGES if any(name.startswith("head.thresh.") for name in weights) else STAGES
    exact, short = (TorchRunner(spec, weights, stages=stages, precision="float64", device="cpu") for _ in range(2))
    shorten(short.net, bits, outputs)
    a, b = exact.run(images), short.run(images)
    found = {stage: float(abs(a[stage] - b[stage]).max() / max(abs(a[stage]).max(), least_of(stage)))
             for stage in stages}
    return {group: max((found[stage] for stage in names if stage in found), default=0.0)
            for group, names in GROUPS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="trained weights besides the seeded ones")
    parser.add_argument("--trained-only", action="store_true")
    args = parser.parse_args()
    noise = [seeded_images(1, *size) for size in SIZES]
    cases = {name: (spec, seeded_weights(spec, 11), noise) for name, spec in SPECS.items()
             if not args.trained_only}
    for path in args.models:
        model = load_model(path)
        pixels = replace(model.record.spec.pixels, resize="grid")
        words = [prepare(draw(seed, 352, 512)[0], pixels).tensor for seed in (3, 4)]
        cases[path.name] = (model.record.spec, model.weights, words)
    worst: dict[str, dict[str, float]] = {name: dict.fromkeys(GROUPS, 0.0) for name in FORMATS}
    for case, (spec, weights, inputs) in cases.items():
        for name, (bits, outputs) in FORMATS.items():
            for images in inputs:
                found = errors(spec, weights, images, bits, outputs)
                print(f"{case:28} {name:5} {images.shape[2]}x{images.shape[3]}  "
                      + "  ".join(f"{group} {value:.1e}" for group, value in found.items()), flush=True)
                worst[name] = {group: max(value, worst[name][group]) for group, value in found.items()}
    for name, found in worst.items():
        print(f"worst {name}: " + ", ".join(f"{group} {value:.1e}" for group, value in found.items()))


if __name__ == "__main__":
    main()
