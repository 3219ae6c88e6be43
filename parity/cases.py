"""What is compared with what: specs x runners x input sizes, every weight file made by the real converter."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import converters
from dbnet.extras import installed
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES, ModelSpec
from evaluation.runners import open_runner
from parity.compare import Comparison, compare_stages
from parity.tolerances import tolerances

RUNNERS = ("torch", "mindspore", "onnxruntime")
PAIRS = tuple(itertools.combinations(RUNNERS, 2))
#: The file each runner reads: its framework's own.
SUFFIX = {"torch": ".pth", "mindspore": ".ckpt", "onnxruntime": ".onnx"}
#: (images, height, width); the second needs the dynamic shape and a batch.
SIZES = ((1, 96, 160), (2, 64, 96))

#: The known networks, and the same ones under the other projects' semantics: one field changed, not a patch.
CASES: dict[str, ModelSpec] = {
    **SPECS,
    "dbnet_resnet18+symmetric": replace(SPECS["dbnet_resnet18"], stem_pool="symmetric"),
    "dbnetpp_resnet50+symmetric": replace(SPECS["dbnetpp_resnet50"], stem_pool="symmetric"),
    "dbnet_mobilenetv3+paddle": replace(SPECS["dbnet_mobilenetv3"], depthwise_padding="symmetric",
                                        se_gate="hard_sigmoid_0.2"),
    "dbnet_mobilenetv3+torch": replace(SPECS["dbnet_mobilenetv3"], depthwise_padding="symmetric",
                                       se_gate="hard_sigmoid"),
}

#: Cases whose parts are in others, at the cost of a ResNet-50 each: `make test-full` runs them.
LONG = ("dbnetpp_resnet50_deformable", "dbpp_resnet50_paddle", "dbnet_resnet50_deformable",
        "dbnetpp_resnet50+symmetric")


def marked(cases: Iterable[str], long: Container[str] = LONG) -> list[Any]:
    """The cases as parameters of a test, some of them marked as long."""
    import pytest
    return [pytest.param(case, marks=pytest.mark.long) if case in long else case for case in cases]


@dataclass
class Lab:
    """Writes each model once, runs each runner once per input, and remembers the outputs."""

    folder: Path
    device: str | None = None

    def __post_init__(self) -> None:
        self._outputs: dict[tuple[str, str, tuple[int, int, int]], dict[str, np.ndarray]] = {}

    def file(self, case: str, suffix: str) -> Path:
        """The model of a case in a format, by way of .safetensors, so that every file has been through the map."""
        path = self.folder / f"{case}{suffix}"
        if not path.exists():
            source = self.folder / f"{case}.safetensors"
            if not source.exists():
                converters.save_weights(seeded_weights(CASES[case], 11), source, spec=CASES[case])
            if suffix != ".safetensors":
                converters.convert(source, path, stages=suffix == ".onnx")
        return path

    def runner(self, case: str, name: str) -> Any:
        """A runner with all stages; "float64" is the referee."""
        if name == "float64":
            from torch_reference.runner import TorchRunner
            weights = converters.load_weights(self.file(case, ".pth"))
            return TorchRunner(CASES[case], weights, stages=STAGES, precision="float64", device="cpu")
        return open_runner(self.file(case, SUFFIX[name]), runner=name, stages=STAGES, device=self.device_of(name))

    def device_of(self, name: str) -> str:
        """--device means the framework that can use it; the others stay on the CPU."""
        wanted = (self.device or "cpu").lower().split(":")[0]
        able = {"ascend": ("mindspore",), "npu": ("mindspore",), "cuda": ("torch", "onnxruntime"),
                "gpu": ("torch", "mindspore", "onnxruntime")}.get(wanted, ())
        if name == "onnxruntime" and wanted in ("cuda", "gpu") and not _has_cuda():
            return "cpu"
        return str(self.device) if name in able else "cpu"

    def outputs(self, case: str, name: str, size: tuple[int, int, int]) -> dict[str, np.ndarray]:
        """Every stage of a runner (or the referee) on the seeded images of that size."""
        if (case, name, size) not in self._outputs:
            runner = self.runner(case, name)  # opened once for all sizes, and not kept: they add up to gigabytes
            for each in SIZES:
                self._outputs[case, name, each] = runner.run(seeded_images(*each, seed=each[2]))
        return self._outputs[case, name, size]

    def compare(self, case: str, pair: tuple[str, str], size: tuple[int, int, int]) -> list[Comparison]:
        """All stages of two runners, under the wider of their devices' tolerances."""
        rows = [tolerances(self.device_of(name)) for name in pair]
        return compare_stages(self.outputs(case, pair[0], size), self.outputs(case, pair[1], size),
                              max(rows, key=lambda row: row.features))

    def to_float64(self, case: str, name: str, size: tuple[int, int, int]) -> dict[str, float]:
        """Distance of each stage to float64, relative to the stage's largest value."""
        return distances(self.outputs(case, "float64", size), self.outputs(case, name, size))


def _has_cuda() -> bool:
    """Whether the onnxruntime that is installed was built for NVIDIA's cards."""
    if not installed("onnxruntime"):
        return False
    import onnxruntime
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def distances(reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray]) -> dict[str, float]:
    """stage -> largest difference over the reference's largest value, in float64."""
    return {stage: float(np.abs(reference[stage].astype(np.float64) - candidate[stage]).max()
                         / np.abs(reference[stage]).max()) for stage in reference if stage in candidate}
