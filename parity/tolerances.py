"""The one table of tolerances, keyed by device and precision. All are relative to a stage's largest value.

float32 on CPU and in torch on CUDA is measured (docs/parity.md): correct halves on the CPU stay within 6e-6 on features
and 1.3e-5 on probability, and a float32 model with hard-to-condition weights is as far from float64 as from another
float32 model.
"""

from __future__ import annotations

from dataclasses import dataclass

from dbnet.errors import DbnetError


@dataclass(frozen=True)
class Tolerances:
    """features: c2..c5, p2..p5, fused. logits. probability: also threshold and MindOCR's binary map.
    binary: the paper's step function multiplies an error by k / 4. measured: False for a device we do not have.
    """

    features: float
    logits: float
    probability: float
    binary: float
    measured: bool

    def of(self, stage: str) -> float:
        """The tolerance of a stage by name."""
        if stage in ("logits", "binary"):
            return float(getattr(self, stage))
        return self.probability if stage in ("probability", "threshold", "thresh_binary_mindocr") else self.features


TOLERANCES: dict[tuple[str, str], Tolerances] = {
    ("cpu", "float32"): Tolerances(1e-5, 2e-5, 5e-5, 5e-4, True),
    # TF32 off: the order of additions differs, the precision does not. Measured on one H200 in torch: 7.2e-6, 4.4e-6,
    # 1.3e-5 and 1.4e-4 from float64.
    ("cuda", "float32"): Tolerances(3e-5, 6e-5, 1e-4, 1e-3, True),
    # HF32 off and precision_mode must_keep_origin_dtype. Not run by us.
    ("ascend", "float32"): Tolerances(1e-3, 2e-3, 5e-3, 5e-2, False),
}


def tolerances(device: str, precision: str = "float32") -> Tolerances:
    """The row for a device ("cpu", "cuda:0", "Ascend") and precision. Raises DbnetError if there is none."""
    key = (device.lower().split(":")[0].replace("gpu", "cuda").replace("npu", "ascend"), precision)
    if key not in TOLERANCES:
        known = ", ".join(f"{d}/{p}" for d, p in TOLERANCES)
        raise DbnetError(f"no tolerances for {key[0]}/{key[1]}; known: {known}")
    return TOLERANCES[key]
