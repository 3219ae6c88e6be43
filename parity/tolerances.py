"""The one table of tolerances, keyed by device, precision and whether products are taken in HF32 (TF32 on NVIDIA's
cards). All are relative to a stage's largest value.

float32 on CPU and in torch on CUDA is measured (docs/parity.md): correct halves on the CPU stay within 6e-6 on features
and 1.3e-5 on probability, and a float32 model with hard-to-condition weights is as far from float64 as from another
float32 model. What a shorter format does was simulated in float64 (`benchmarks/short_products.py`): all networks with
seeded weights and two trained ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbnet.errors import DbnetError
from dbnet.spec import TRAINING_STAGES

#: The largest error of a correct runtime grows with the values that it is the largest of. The rows are of parts of at
#: most 320 x 480 px. Of three photographs at 1088 x 1952 px, the trained MobileNetV3: ONNX Runtime is up to 1.8e-5 from
#: torch in features, 2.1e-5 in logits and 3.8e-5 in probability, MindSpore 2.4e-6, 2.0e-6 and 3.0e-6.
WHOLE_IMAGES = 5
#: Of the probability on whole photographs at least: 7.3e-5 is the most of 200 of them, and boxes are the judge.
WHOLE_MAPS = 1e-4
#: The device of a row for what has no name among ours.
OTHER = "other"
#: Probabilities below say no text: errors of a map without any are not measured by its largest value.
LEAST = 0.1


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

    def on_whole_images(self) -> Tolerances:
        """The row for the worst of many photographs at their full size: see `WHOLE_IMAGES`."""
        features, logits, binary = (min(1.0, WHOLE_IMAGES * limit) for limit in (
            self.features, self.logits, self.binary))
        return Tolerances(features, logits, max(WHOLE_MAPS, self.probability), binary, self.measured)


# What a format alone does, three times the worst of the simulation. HF32 has 12 bits (one of them hidden) in what is
# multiplied; fp16 has 11 and bf16 8, in every map. Largest simulated: HF32 1.7e-3, 9.6e-4, 1.4e-2, 1.3e-1; fp16 5.0e-3,
# 8.8e-3, 1.1e-1, 8.3e-1; bf16 5.1e-2, 6.3e-2, 8.0e-1, 1.0, whose probability therefore proves nothing: a trained
# network's logits reach 50, of which 6 % are worlds apart. Look at its boxes (`dbnet precision`).
_HF32 = Tolerances(5e-3, 3e-3, 4e-2, 4e-1, False)
_FP16 = Tolerances(1.5e-2, 3e-2, 3e-1, 1.0, False)
_BF16 = Tolerances(1.5e-1, 2e-1, 1.0, 1.0, False)

#: (device, precision, whether products are HF32 or TF32) -> tolerances.
TOLERANCES: dict[tuple[str, str, bool], Tolerances] = {
    ("cpu", "float32", False): Tolerances(1e-5, 2e-5, 5e-5, 5e-4, True),
    # TF32 off: the order of additions differs, the precision does not. Measured on one H200 in torch: 7.2e-6, 4.4e-6,
    # 1.3e-5 and 1.4e-4 from float64.
    ("cuda", "float32", False): Tolerances(3e-5, 6e-5, 1e-4, 1e-3, True),
    # HF32 off and precision_mode must_keep_origin_dtype. Not run by us.
    ("ascend", "float32", False): Tolerances(1e-3, 2e-3, 5e-3, 5e-2, False),
    # What CANN does to float32 unless told otherwise: convolutions in HF32, whose error comes on top of the row before.
    ("ascend", "float32", True): _HF32,
    # TF32 has a bit less than HF32.
    ("cuda", "float32", True): Tolerances(1e-2, 6e-3, 8e-2, 8e-1, False),
    # What else a runtime may have below it, Apple's, Qualcomm's, AMD's or Intel's NPU, takes float16 if left to itself.
    # Not run by us.
    (OTHER, "float32", False): _FP16,
    **{(device, precision, False): row for device in ("cpu", "cuda", "ascend", OTHER)
       for precision, row in (("fp16", _FP16), ("bf16", _BF16))},
}


def least_of(stage: str) -> float:
    """What errors of a stage are relative to at least."""
    return LEAST if stage in ("probability", *TRAINING_STAGES) else 0.0


def tolerances(device: str, precision: str = "float32", hf32: bool = False) -> Tolerances:
    """The row for a device ("cpu", "cuda:0", "Ascend"), a precision (`float32`, `fp16`, `bf16`) and whether float32 is
    multiplied as HF32 or TF32. Raises DbnetError if there is none.
    """
    name = device.lower().split(":")[0].replace("gpu", "cuda").replace("npu", "ascend")
    key = (name, precision, hf32 and precision == "float32" and name != "cpu")
    if key not in TOLERANCES:
        known = ", ".join(f"{d}/{p}" for d, p, _hf32 in TOLERANCES if not _hf32 and d != OTHER)
        raise DbnetError(f"no tolerances for {name}/{precision}; known: {known}")
    return TOLERANCES[key]


def tolerances_of(environment: Mapping[str, Any]) -> Tolerances:
    """The row for how a runner has computed, as its `environment()` tells. Raises DbnetError.

    An Ascend precision mode that takes a shorter type counts as that type, and so does its default: `force_fp16` in
    MindSpore 2.5 to 2.7, `allow_fp32_to_fp16` on the first Atlas.
    """
    precision, mode = str(environment.get("precision") or "float32"), str(environment.get("precision_mode") or "")
    device = _device_of(environment)
    unsaid = mode == "default" and device.lower().startswith(("ascend", "npu"))
    if precision == "float32" and (unsaid or "fp16" in mode or mode == "allow_mix_precision"):
        precision = "fp16"
    elif precision == "float32" and "bf16" in mode:
        precision = "bf16"
    precision = "float32" if precision in ("float64", "the file's own") else precision
    short = any(environment.get(name) not in (None, False) for name in ("hf32", "tf32"))
    return tolerances(device, precision, short)


def _device_of(environment: Mapping[str, Any]) -> str:
    """The device, OTHER where a runtime has one of its own: in OpenVINO `npu` is Intel's."""
    device = str(environment.get("device") or "cpu")
    if environment.get("framework") not in ("openvino", "onnxruntime"):
        return device
    return device if device.lower().partition(":")[0] in ("cpu", "gpu", "cuda", "ascend") else OTHER
