"""Half precision in ONNX Runtime: the graph of our archive form, rounded throughout (see `converters.onnx_half`)."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from converters import onnx_file
from converters.tensor_file import Weights
from dbnet.errors import DbnetError
from dbnet.precision import FORMATS, Counts, HalfFormat, Precision, check_precision, kept_layers, layers
from dbnet.running import check_images, runnable
from dbnet.spec import STAGES, ModelSpec
from evaluation.onnx_runner import OnnxRuntimeRunner


class HalfOnnxRunner(OnnxRuntimeRunner):
    """weights: canonical names, any float type. precision: `float32` rounds nothing, and is for counting. keep_float32:
    layers, or modules that hold some. counts: see `TorchRunner`; of values before they are rounded. The other
    arguments are those of `OnnxRuntimeRunner`. Raises DbnetError as that does, and for an unknown layer.
    """

    def __init__(self, spec: ModelSpec, weights: Mapping[str, np.ndarray], device: str | None = None,
                 stages: tuple[str, ...] = ("probability",), threads: int | None = None, concurrent: bool = False, *,
                 precision: Precision = "fp16", keep_float32: Collection[str] = (), counting: HalfFormat | None = None,
                 ort: Any = None, provider: str | None = None):
        check_precision(precision)
        if training := [stage for stage in stages if stage not in STAGES]:
            raise DbnetError(f"no stage {training[0]} in ONNX: it is computed in training only; use --runner torch")
        self.precision, self.kept = precision, kept_layers(spec, keep_float32)
        self.counts: dict[str, Counts] = {}
        keep = layers(spec) if precision == "float32" else self.kept
        form = counting or FORMATS.get(precision, FORMATS["fp16"])
        data, self._counted = half_archive(spec, weights, stages != ("probability",), form, keep, counting is not None)
        super().__init__(data, spec, device, stages, threads, concurrent, ort=ort, provider=provider)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `OnnxRuntimeRunner.run`; adds to `counts` if it counts."""
        if not self._counted:
            return super().run(images)
        from converters.onnx_counting import COUNTS, read_counts
        *maps, counts = self._computed([*self.stages, COUNTS], check_images(images))
        for name, found in read_counts(counts, self._counted).items():
            self.counts[name] = self.counts.get(name, Counts()) + found
        return {stage: np.asarray(map_, np.float32) for stage, map_ in zip(self.stages, maps, strict=True)}

    def environment(self) -> dict[str, Any]:
        """With the precision, and how it is computed."""
        told = super().environment() | {"precision": self.precision}
        if self.precision != "float32":
            told["arithmetic"] = f"float32, rounded to {self.precision} after every operator"
        return told | ({"kept_float32": sorted(self.kept)} if self.kept else {})


def half_archive(spec: ModelSpec, weights: Mapping[str, np.ndarray], stages: bool, form: HalfFormat,
                 keep: Collection[str], counted: bool = False) -> tuple[bytes, list[str]]:
    """Our own graph of a model in half precision; and if it is `counted`, the names of what is counted, else none."""
    from converters.onnx_half import half_weights, round_values
    alive: Weights = {name: array for name, array in runnable(spec, weights).items() if name in weights}
    names: list[str] = []
    stream = io.BytesIO()
    onnx_file.write(stream, half_weights(spec, alive, form, keep), spec, None, form="archive", stages=stages,
                    change=lambda proto: names.extend(round_values(proto, spec, form, keep, counted)))
    return stream.getvalue(), names if counted else []
