"""DBNet and DBNet++ in MindSpore: the mirror of `torch_reference`, equal to MindOCR's own code bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbnet.extras import require
from dbnet.spec import ModelSpec, get_spec

if TYPE_CHECKING:
    from ms_models.dbnet import DBNet


def build(spec: str | ModelSpec) -> DBNet:
    """The detector with fresh parameters under MindOCR's names, in evaluation mode; changes no global setting.

    On a CPU with AVX-512 call `ms_models.compat.cure_avx512()` first: without it MindSpore takes its slowest
    convolution, with it the numbers move by about 3e-6. Raises DbnetError for an unknown spec or without MindSpore.
    """
    spec = get_spec(spec)
    require("mindspore")
    from ms_models.dbnet import DBNet
    net = DBNet(spec)
    net.set_train(False)
    return net
