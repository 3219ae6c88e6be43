"""The Python interface of the converters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converters.check import fit, require_finite, weight_map
from converters.convert import convert, save_model
from converters.dialects import MINDOCR, origin_of
from converters.load import LoadedModel, SourceOptions, load_model, require_sound
from converters.tensor_file import Weights
from converters.weights import digest
from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.spec import ModelSpec, get_spec

__all__ = ["convert", "load_weights", "save_weights"]


def load_weights(path: str | Path, *, spec: str | None = None, dialect: str | None = None,
                 part: str | None = None) -> dict[str, np.ndarray]:
    """The weights of any supported file under canonical (MindOCR) names, in their own dtype; arrays are read-only.

    part: of a file with several networks, `Student` or `Teacher`. Raises DbnetError. For the record as well:
    `converters.load.load_model`.
    """
    model = load_model(path, SourceOptions(spec=spec, dialect=dialect, part=part))
    require_sound(model)
    return model.weights


def save_weights(weights: Weights, path: str | Path, *, spec: str | ModelSpec, force: bool = False) -> None:
    """Writes canonical weights as .ckpt, .pth, .onnx or .safetensors, with the record of `spec`, verified.

    weights: canonical names -> arrays (float16, bfloat16, float32 or float64) of the spec's shapes; the training
    branch may be absent as a whole. Raises DbnetError; the target is then untouched.
    """
    path, model_spec = Path(path), get_spec(spec)
    weights = {name: np.asarray(array) for name, array in weights.items()}
    mapping = weight_map("mindocr", model_spec)
    report = fit(weights, mapping, "")
    if report.problems:
        raise DbnetError(f"{path}: these are not the weights of {model_spec.name}: {report.describe()}")
    ordered = mapping.apply(weights)
    require_finite(ordered, str(path))
    record = Record(model_spec, origin_of(MINDOCR, model_spec.name), digest(ordered))
    save_model(LoadedModel(Path(f"<memory:{model_spec.name}>"), "memory", "mindocr", record, ordered,
                           report.subset, False), path, force=force)
