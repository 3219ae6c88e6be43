"""DBNet and DBNet++ in PyTorch: the mirror of `ms_models`, under the same module paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbnet.extras import require
from dbnet.spec import ModelSpec, get_spec

if TYPE_CHECKING:
    from torch_reference.dbnet import DBNet


def build(spec: str | ModelSpec) -> DBNet:
    """The detector with fresh parameters under MindOCR's module paths, in evaluation mode.

    `build(spec).double()` is the float64 referee. Raises DbnetError for an unknown spec or without PyTorch.
    """
    spec = get_spec(spec)
    require("torch")
    from torch_reference.dbnet import DBNet
    net = DBNet(spec)
    net.train(False)
    return net
