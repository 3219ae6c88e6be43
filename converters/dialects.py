"""The dialects: how each project names the weights of these networks, and what it means by them. Data only.

Source of the canonical ones: MindOCR `mindocr/models`. The other projects': `dialects_torch`, `dialects_paddle`.
"""

from __future__ import annotations

from converters.dialects_paddle import MINDOCR_ENHANCE, PADDLE
from converters.dialects_torch import MHLIAO, MMOCR, MMOCR0
from converters.weight_map import Dialect
from dbnet.errors import DbnetError
from dbnet.spec import SPECS

__all__ = ["DIALECTS", "MHLIAO", "MINDOCR", "MINDOCR_ENHANCE", "MMOCR", "MMOCR0", "PADDLE", "TORCH", "get_dialect",
           "native_dialect", "origin_of"]

MINDOCR = Dialect(
    name="mindocr", project="MindOCR", framework="mindspore", specs=tuple(SPECS), suffixes=(".ckpt",), foreign=False,
    fixed={"stem_pool": "same", "depthwise_padding": "same", "se_gate": "sigmoid", "norm_eps": 1e-5,
           "deformable": "none", "first_shortcut": "identity", "neck_gate": "hard_sigmoid",
           "upsampling": "align_corners", "step_function": "mindocr"})

#: MindOCR's module paths with torch's leaf names: what `torch_reference` loads.
TORCH = Dialect(
    name="torch", project="torch_reference", framework="torch", specs=tuple(SPECS), suffixes=(".pth", ".pt"),
    foreign=False)

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (MINDOCR, TORCH, MHLIAO, MMOCR, MMOCR0, PADDLE, MINDOCR_ENHANCE)}

#: Whose semantics a bare file with canonical paths has, where they are not MindOCR's.
_ORIGINS = {"db_mv3_paddle": "paddle", "db_mv3_ppocrv3": "paddle", "dbpp_resnet50_paddle": "paddle",
            "db_resnet18_paddle": "paddle",
            "dbnet_resnet18_deformable": "mhliao", "dbnet_resnet50_deformable": "mhliao",
            "dbnetpp_resnet50_deformable": "mhliao"}


def origin_of(dialect: Dialect, spec_name: str) -> str:
    """The dialect whose semantics a bare file in `dialect` has. torch_reference's names are MindOCR's paths."""
    if dialect.name in ("mindocr", "torch"):
        return _ORIGINS.get(spec_name, "mindocr")
    return dialect.name


def get_dialect(name: str) -> Dialect:
    """The dialect of that name. Raises DbnetError with the known names."""
    if name not in DIALECTS:
        raise DbnetError(f"unknown dialect {name!r}; choose one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def native_dialect(suffix: str) -> Dialect:
    """What is written into a file of that suffix unless another dialect is asked for."""
    if suffix in PADDLE.suffixes:
        return PADDLE
    return TORCH if suffix in TORCH.suffixes else MINDOCR
