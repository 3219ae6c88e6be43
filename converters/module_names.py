"""What the layers of these networks are called in each project's code, as tools that hook modules tell them.

A weight map knows the layers that have weights. Tools such as msprobe also meet those without, and those that hold
others; what such a layer gives differs between projects (MindOCR's `head.segm` ends with the sigmoid, that of
`ms_models` before it), so each has a meaning here, and two layers correspond if they mean the same. Sources: MindOCR
`models/{backbones/mindcv_models/resnet,heads/det_db_head}.py`, MhLiao/DB `backbones/resnet.py`,
`decoders/seg_detector.py`, MMOCR `textdet/heads/db_head.py`, mmdetection `backbones/resnet.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from converters.check import weight_map
from converters.dialects import DIALECTS
from dbnet.errors import DbnetError
from dbnet.spec import ModelSpec

#: Meanings of layers that have no weights. The others mean what their canonical path says.
PROBABILITY, THRESHOLD = "the last sigmoid", "the threshold's sigmoid"
_WITH_SIGMOID = {"head.segm": "the whole branch to the probability", "head.thresh": "the whole branch to the threshold"}
#: What is held and never called, so that no hook sees it.
_LISTS = ("backbone.features", "neck.unify_channels", "neck.out", "neck.ins_conv", "neck.inp_conv")


@dataclass(frozen=True)
class Code:
    """A project's code. dialect: whose names its weights have. native: its modules have the canonical paths. ours: it
    is one of the halves. sigmoid: its head's first branch ends with the sigmoid, as layer 7. pool: the stem's.
    """

    dialect: str
    native: bool = False
    ours: bool = False
    sigmoid: bool = False
    pool: str = "maxpool"


#: Whose code may be dumped: everything in MindSpore or PyTorch. PaddleOCR's is neither.
CODES: Mapping[str, Code] = {
    "ms_models": Code("mindocr", native=True, ours=True, pool="max_pool"),
    "torch_reference": Code("torch", native=True, ours=True, pool="max_pool"),
    "mindocr": Code("mindocr", native=True, sigmoid=True, pool="max_pool"),
    "mindocr_enhance": Code("mindocr_enhance", sigmoid=True),
    "mhliao": Code("mhliao", sigmoid=True),
    "mmocr": Code("mmocr"),
    "mmocr0": Code("mmocr0", sigmoid=True),
}


def code_of_dialect(dialect: str) -> str:
    """Whose code a file in that dialect belongs to. Raises DbnetError for a framework that no such tool hooks."""
    if dialect == "torch":
        return "torch_reference"
    if dialect not in CODES:
        raise DbnetError(f"the file's names are {DIALECTS[dialect].project}'s, whose code is neither MindSpore's nor "
                         f"PyTorch's, so msprobe cannot dump it; say whose code runs: {', '.join(CODES)}")
    return dialect


def module_paths(name: str, spec: ModelSpec, prefix: str | None = None) -> dict[str, str]:
    """Meaning -> path of each layer that a hook can see, in the code `name`, parents before their children.

    prefix: what stands before each path, such as "model.module."; None: what that project's files have. Raises
    DbnetError for a network that the code does not have.
    """
    code = CODES[name]
    dialect = DIALECTS[code.dialect]
    if spec.name not in dialect.specs:
        raise DbnetError(f"{name} has no {spec.name}; it has {', '.join(dialect.specs)}")
    leaves = {entry.parameter.path: entry.foreign.rpartition(".")[0]
              for entry in weight_map(code.dialect, spec).entries}
    found = dict(_native(leaves, code) if code.native else _containers(leaves, code))
    found = leaves | found | dict(_weightless(leaves, found, code, spec))
    before = dialect.prefixes[0] if prefix is None else prefix
    order = sorted(found, key=lambda meaning: found[meaning].count("."))
    return {meaning: before + found[meaning] for meaning in order}


def _parents(paths: Mapping[str, str]) -> list[str]:
    """The canonical paths above these, each once, outer ones first."""
    above = {path.rsplit(".", i)[0]: None for path in paths for i in range(path.count("."), 0, -1)}
    return [path for path in above if path not in _LISTS]


def _native(leaves: Mapping[str, str], code: Code) -> Iterator[tuple[str, str]]:
    for path in _parents(leaves):
        if path in _WITH_SIGMOID:
            yield (_WITH_SIGMOID[path] if code.sigmoid else path), path
        elif path in ("neck", "head") and not code.ours:  # ours give every stage, MindOCR's the last one
            yield f"{path} of {code.dialect}", path
        else:
            yield path, path


def _containers(leaves: Mapping[str, str], code: Code) -> Iterator[tuple[str, str]]:
    """The backbone, its layers, blocks and shortcuts in another project's code: what all in them have in common."""
    taken = set()
    for top in dict.fromkeys(path.partition(".")[0] for path in leaves.values()):
        if top != "backbone":  # what it gives is no other project's
            yield f"{top} of {code.dialect}", top
    for parent in _parents(leaves):
        inside = [path for ours, path in leaves.items() if ours.startswith(f"{parent}.")]
        common = _common(inside)
        if parent.startswith("backbone") and len(inside) > 1 and common and common not in taken:
            taken.add(common)
            yield parent, common


def _common(paths: Iterable[str]) -> str:
    """The parts with which all of these begin."""
    parts = [path.split(".") for path in paths]
    first, last = min(parts), max(parts)  # what these share, all that lie between them share too
    count = next((i for i, part in enumerate(first) if last[i:i + 1] != [part]), len(first))
    return ".".join(first[:count])


def _weightless(leaves: Mapping[str, str], found: Mapping[str, str], code: Code,
                spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """What has no weights and holds nothing."""
    if spec.backbone != "mobilenetv3":
        yield "backbone.max_pool", f"backbone.{code.pool}"
        yield "backbone.relu", "backbone.relu"
        for parent, path in found.items():
            if f"{parent}.bn2" in leaves:
                yield f"{parent}.relu", f"{path}.relu"
    for branch, meaning in (("head.segm", PROBABILITY), ("head.thresh", THRESHOLD)):
        last, index = leaves[f"{branch}.6"].rpartition(".")[::2]
        if index != "6":  # PaddleOCR's heads name their layers
            continue
        ends = code.sigmoid or (branch == "head.thresh" and not code.ours)
        if not code.native:
            yield (_WITH_SIGMOID[branch] if ends else branch), last
        for i in (2, 5):
            yield f"{branch}.{i}", f"{last}.{i}"
        if ends:
            yield meaning, f"{last}.7"
    if code.ours:
        yield PROBABILITY, "head.sigmoid"
