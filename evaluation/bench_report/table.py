"""The lines of the one table: the rows of bundles, and the seed's own rows, under the seed's columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from dbnet.spec import SPECS
from evaluation.bench_report.merge import Merged
from evaluation.bench_report.seed import PROTOCOL, SeedRow, seed_rows, seed_software
from evaluation.benching.bundle import Model, Row
from evaluation.benching.figures import Figures, figures
from evaluation.comparison_report.words import error

#: A figure as it was measured, or with the digits that the seed's page prints.
Number = float | Decimal | None
TRAINING, INFERENCE = "training", "inference"
_BACKBONES = {"mobilenetv3": "MobileNetV3", "resnet18": "ResNet-18", "resnet50": "ResNet-50"}
_MODELS = ("DBNet", "DBNet++")


@dataclass(frozen=True)
class Line:
    """One line.

    source: index of the bundle, None for the seed's. row: index of the bundle's row, None too. machine, runner, device,
    precision, data, protocol: texts, empty where nothing is known. task: TRAINING or INFERENCE; what ms_step (one
    batch) and img_s (all cards) are of. graph_compile: seconds. recall, precision_score, fscore: fractions, by
    `protocol`. interval: of fscore, 95 %. parity: a few words. error: why the row came to nothing, or not to its end.
    figures: None for the seed's.
    """

    source: int | None
    row: int | None
    machine: str
    model: str
    backbone: str
    file: str
    data: str
    task: str
    runner: str
    device: str
    precision: str
    shape: tuple[int, ...] | None
    threads: int | None
    cards: int
    batch: int
    jit_level: str
    graph_compile: Number = None
    ms_step: Number = None
    img_s: Number = None
    recall: Number = None
    precision_score: Number = None
    fscore: Number = None
    interval: tuple[float, float] | None = None
    protocol: str = ""
    parity: str = ""
    error: str = ""
    note: str = ""
    figures: Figures | None = None

    @property
    def is_seed(self) -> bool:
        return self.source is None


def lines_of(merged: Merged, protocol: str | None = None, seed: bool = True) -> list[Line]:
    """Of every row one for inference, and one more where it was trained too; the seed's before them.

    protocol: whose scores; None takes each bundle's own.
    """
    found = [_seed_line(row) for row in seed_rows()] if seed else []
    for number, source in enumerate(merged.sources):
        bundle = source.bundle
        chosen = protocol or bundle.data["protocol"] or ""
        for index, row in enumerate(bundle.rows):
            line = _line(number, index, source.machine, bundle.model(row), row, chosen)
            line = replace(line, data=data_name(bundle.data), parity=_parity(index, row, bundle.rows))
            found += [line, *_trained(line, row)]
    return found


def data_name(data: Mapping[str, Any]) -> str:
    """icdar2015, 200 images."""
    count = data["images"]
    return f"{data['kind']}, {count:,} image{'' if count == 1 else 's'}"


def _seed_line(row: SeedRow) -> Line:
    recall, precision, fscore = (None if value is None else value / 100 for value in (
        row.recall, row.precision, row.fscore))
    loss = f"train loss {row.train_loss}" if row.train_loss is not None else ""
    return Line(None, None, f"Ascend {row.chip}", row.model, row.backbone, row.recipe or "no recipe", row.data,
                TRAINING, seed_software().partition(",")[0], "Ascend", "", None, None, row.cards, row.batch,
                row.jit_level, row.graph_compile, row.ms_step, row.img_s, recall, precision, fscore,
                protocol=PROTOCOL if fscore is not None else "", note="; ".join(filter(None, (loss, row.note))))


def _line(source: int, index: int, machine: str, model: Model, row: Row, protocol: str) -> Line:
    told = figures(row)
    timed = told.whole or told.network
    name, backbone = named(model)
    line = Line(source, index, machine, name, backbone, model.file, "", INFERENCE, row.runner, row.device,
                row.precision, None if row.shape is None else tuple(row.shape), row.threads, row.cards, row.batch,
                row.jit_level or "", told.graph_compile, None if timed is None else 1000 * timed.p50,
                told.images_per_second if told.whole else told.network_images_per_second,
                error=row.error or "", note="; ".join(row.notes), figures=told)
    scores = row.scores.get(protocol)
    if scores is None:
        return line
    low, high = scores.interval
    return replace(line, recall=scores.recall, precision_score=scores.precision, fscore=scores.fscore,
                   interval=(low, high), protocol=protocol)


def _trained(line: Line, row: Row) -> list[Line]:
    """The line of the training steps, where there were any; it has no scores, for its few steps gave no model."""
    told = line.figures
    if told is None or told.step_ms is None:
        return []
    size = (row.training or {}).get("size")
    sides = [side for side in size if isinstance(side, int)] if isinstance(size, list) else []
    return [replace(line, task=TRAINING, ms_step=told.step_ms, img_s=told.train_images_per_second, recall=None,
                    graph_compile=told.train_compile, shape=tuple(sides) or line.shape, precision_score=None,
                    fscore=None, interval=None, protocol="", parity="", error="", note="")]


def named(model: Model) -> tuple[str, str]:
    """(DBNet++, ResNet-50); of a network that is none of ours (its file's name, nothing)."""
    spec = SPECS.get(model.spec)
    if spec is None:
        return model.file, ""
    return _MODELS[spec.fusion != "concat"], _BACKBONES[spec.backbone]


def _parity(index: int, row: Row, rows: Sequence[Row]) -> str:
    parity = row.parity
    if parity is None:
        return "reference" if any(other.parity and other.parity.reference == index for other in rows) else ""
    apart = f", {error(parity.max_abs)}" if parity.max_abs else ""
    return f"{parity.verdict}{apart}, {parity.boxes_same} of {parity.boxes_all} boxes"


def _best_first(name: str) -> Callable[[Line], tuple[bool, float]]:
    return lambda line: (getattr(line, name) is None, -float(getattr(line, name) or 0))


def _least_first(name: str) -> Callable[[Line], tuple[bool, float]]:
    return lambda line: (getattr(line, name) is None, float(getattr(line, name) or 0))


def _by_model(line: Line) -> tuple[Any, ...]:
    known = line.model in _MODELS
    return (not known, line.model, line.backbone, line.task == INFERENCE, not line.is_seed)


#: --sort NAME -> the key. Sorting keeps the order of equals: of the bundles as they were named, and of their rows.
SORTS: dict[str, Callable[[Line], Any]] = {
    "model": _by_model, "img/s": _best_first("img_s"), "ms/step": _least_first("ms_step"),
    "f-score": _best_first("fscore"), "recall": _best_first("recall"), "precision": _best_first("precision_score"),
    "compile": _least_first("graph_compile"), "machine": lambda line: (line.is_seed, line.machine),
    "runner": lambda line: (line.is_seed, line.runner), "none": lambda line: 0}


def sorted_lines(found: Sequence[Line], by: str = "model") -> list[Line]:
    """by: a name in SORTS."""
    return sorted(found, key=SORTS[by])
