"""What a file holds before anyone interprets the names in it: the waist between the codecs and the weight map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.graph_reading import GraphReading
from dbnet.spec import ModelSpec

#: Canonical (MindOCR) or foreign names -> arrays. bfloat16 is `ml_dtypes.bfloat16`.
Weights = dict[str, np.ndarray]


@dataclass
class TensorFile:
    """Contents of one weight file.

    format: "ckpt", "pth", "onnx", "safetensors", "pdparams" or "mindir". tensors: under the file's own names, in its
    order, C-contiguous and possibly read-only views into the mapped file. record: the JSON text under `dbnet`, if it
    carries one. training: training state beside the weights, what -> number of entries (optimizer state, EMA copies).
    notes: whatever else was found and not used, one phrase each. ema: EMA copies under plain names, if the
    file holds them apart from `tensors`. raw: all that a .ckpt or .pth holds, before weights and training state were
    told apart. optimizers: of a .pth, the `state_dict()` of each optimizer beside the weights, with arrays for tensors;
    it raises DbnetError. scaler: the numbers of a torch.amp.GradScaler. release: gives back the memory pages of one
    tensor (called after its last use; a no-op unless the file is mapped). read_graph: of a file that holds a graph
    which is read, what it computes, if its weights are those of a spec; `names`: canonical names -> the file's. It
    raises DbnetError for a graph that computes what no spec can say. unread: why the graph of an .onnx is no network
    that is built here, although its tensors have the names of one.
    """

    format: str
    tensors: Weights
    record: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    training: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ema: Weights | None = None
    raw: Weights = field(default_factory=dict)
    optimizers: Callable[[], list[dict[str, Any]]] = list
    scaler: dict[str, float] = field(default_factory=dict)
    release: Callable[[np.ndarray], None] = lambda array: None
    read_graph: Callable[[ModelSpec, Mapping[str, str]], GraphReading] | None = None
    unread: str | None = None
