"""Does a delivery file still compute what the model computes? Asked in ONNX Runtime before the file appears."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from converters import onnx_file
from converters.load import LoadedModel
from dbnet.errors import DbnetError
from dbnet.extras import installed, require
from dbnet.seeded import seeded_images
from evaluation.runners import OnnxRuntimeRunner

#: Largest difference in probability: both forms are the same float32 computation in another order.
TOLERANCE = 1e-5
SIZE = (96, 160)


#: The first ONNX Runtime with DeformConv on CPUs.
DEFORM_RUNTIME = (1, 25)


def check_export(path: Path, model: LoadedModel, data_shape: tuple[int, int] | None = None,
                 native: bool = False) -> str:
    """Runs the delivery file and the archive form on one seeded image; returns what to tell the user.

    native: the file has DeformConv, which not every ONNX Runtime knows.
    Raises DbnetError if they differ by more than TOLERANCE.
    """
    if not installed("onnxruntime"):
        return "not run: onnxruntime is not installed"
    version = str(require("onnxruntime").__version__)
    if native and tuple(map(int, version.split(".")[:2])) < DEFORM_RUNTIME:
        return f"not run: ONNX Runtime {version} has no DeformConv"
    stream = io.BytesIO()
    spec = model.record.spec
    onnx_file.write(stream, model.weights, spec, None, form="archive")
    image = seeded_images(1, *(data_shape or SIZE))
    archive = OnnxRuntimeRunner(stream.getvalue(), spec).run(image)["probability"]
    delivery = OnnxRuntimeRunner(path, spec).run(image)["probability"]
    error = float(np.abs(archive - delivery).max())
    if not error <= TOLERANCE:
        raise DbnetError(f"{path.name}: the delivery form differs from the model by {error:.1e} in ONNX Runtime; "
                         f"nothing was written, please report this")
    return f"same probability as the archive form in ONNX Runtime (largest difference {error:.1e})"
