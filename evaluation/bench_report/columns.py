"""What each column of the tables says of a line: as text for people, and as a plain value for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from dbnet.errors import short
from evaluation.bench_report.table import Line, Number
from evaluation.benching.figures import Latency
from evaluation.comparison_report.words import one_line

#: Characters of a cell at most: names come with files, and a line of a table is read at a glance.
LONGEST = 120


@dataclass(frozen=True)
class Column:
    """key: for programs. title: for people. text: one line, may be empty. plain: a value of JSON. right: a number."""

    key: str
    title: str
    text: Callable[[Line], str]
    plain: Callable[[Line], Any]
    right: bool = False


def cell(value: Any) -> str:
    """One line, not too long."""
    return short(one_line(value), LONGEST)


def number(value: Number, digits: int = 2, least: bool = True) -> str:
    """The seed's figures with the digits of the page; ours with so many, or `least` as many as a small one needs."""
    if (real := _real(value)) is None:
        return ""
    if isinstance(value, Decimal):
        return str(value)
    plain = abs(real) < 1e12 and (not least or abs(real) >= 10 ** (1 - digits) or real == 0)
    return f"{real:.{digits}f}" if plain else f"{real:.2g}"


def percent(value: Number) -> str:
    """A fraction as the seed's tables have it: 77.28%."""
    if value is None:
        return ""
    return f"{100 * value:.2f}%" if abs(float(value)) < 1e6 else f"{100 * float(value):.2g}%"


def _real(value: Number) -> float | None:
    """None too for what a damaged bundle makes infinite."""
    return None if value is None or not math.isfinite(value) else float(value)


def _size(line: Line) -> str:
    if line.is_seed:
        return ""
    return "each its own" if line.shape is None else cell("x".join(map(str, line.shape)))


def _text(key: str, title: str, field: str = "") -> Column:
    name = field or key
    return Column(key, title, lambda line: cell(getattr(line, name)), lambda line: getattr(line, name))


def _number(key: str, title: str, field: str = "", digits: int = 2) -> Column:
    name = field or key
    return Column(key, title, lambda line: number(getattr(line, name), digits), lambda line: _real(getattr(line, name)),
                  True)


def _percent(key: str, title: str, field: str = "") -> Column:
    name = field or key
    return Column(key, title, lambda line: percent(getattr(line, name)), lambda line: _real(getattr(line, name)), True)


def _count(key: str, title: str) -> Column:
    return Column(key, title, lambda line: str(getattr(line, key)), lambda line: getattr(line, key), True)


#: Who, and under which conditions; then the seed's columns; then whose score, and the parity.
MAIN: tuple[Column, ...] = (
    _text("model", "model"), _text("backbone", "backbone"), _text("file", "file"), _text("data", "data"),
    _text("machine", "machine"),
    _text("runner", "runner"), _text("device", "device"), _text("precision", "computes in"), _text("task", "task"),
    Column("shape", "input", _size, lambda line: None if line.shape is None else list(line.shape)),
    _count("cards", "cards"), _count("batch", "batch"), _text("jit_level", "jit level"),
    Column("graph_compile_s", "graph compile",
           lambda line: number(line.graph_compile, least=False) + " s" * (line.graph_compile is not None),
           lambda line: _real(line.graph_compile), True),
    _number("ms_step", "ms/step"), _number("img_s", "img/s"), _percent("recall", "recall"),
    _percent("precision_score", "precision"), _percent("fscore", "f-score"), _text("protocol", "by protocol"),
    _text("parity", "parity"))


def _milliseconds(key: str, title: str, part: str, quantile: str) -> Column:
    def value(line: Line) -> float | None:
        latency: Latency | None = getattr(line.figures, part)
        return None if latency is None else _real(1000 * getattr(latency, quantile))
    return Column(key, title, lambda line: number(value(line)), value, True)


def _figure(key: str, title: str, field: str, factor: float = 1.0) -> Column:
    def value(line: Line) -> float | None:
        found = getattr(line.figures, field)
        return None if found is None else _real(factor * found)
    return Column(key, title, lambda line: number(value(line)), value, True)


#: Where the time of our own lines goes; seconds to begin, milliseconds for a batch.
TIMES: tuple[Column, ...] = (
    _text("model", "model"), _text("backbone", "backbone"), _text("file", "file"), _text("machine", "machine"),
    _text("runner", "runner"), Column("shape", "input", _size, lambda line: line.shape), _count("batch", "batch"),
    Column("threads", "threads", lambda line: "its own" if line.threads is None else str(line.threads),
           lambda line: line.threads, True),
    _figure("import_s", "import, s", "imported"), _figure("load_s", "load, s", "load"),
    _figure("graph_compile_s", "compile, s", "graph_compile"), _figure("first_run_s", "first run, s", "first_run"),
    _milliseconds("p50_ms", "p50, ms", "whole", "p50"), _milliseconds("p95_ms", "p95, ms", "whole", "p95"),
    _milliseconds("p99_ms", "p99, ms", "whole", "p99"), _milliseconds("pixels_ms", "pixels, ms", "pixels", "p50"),
    _milliseconds("network_ms", "network, ms", "network", "p50"),
    _milliseconds("boxes_ms", "boxes, ms", "boxes", "p50"),
    _figure("network_img_s", "network img/s", "network_images_per_second"),
    _figure("peak_memory_mib", "peak MiB", "peak_memory_bytes", 2**-20))


def measured(lines: Sequence[Line]) -> list[Line]:
    """Those that TIMES has something to say of."""
    return [line for line in lines if line.figures is not None and line.task == "inference"]


def used(columns: Sequence[Column], lines: Sequence[Line], alike: Collection[str] = ()) -> list[Column]:
    """Without the columns that are empty in every line. alike: keys of those that are left out, too, where all lines
    have the same.
    """
    return [column for column in columns if any(column.text(line) for line in lines)
            and (column.key not in alike or len({column.text(line) for line in lines}) > 1)]


def record(line: Line) -> dict[str, Any]:
    """Everything of a line as plain values, the same keys for every line."""
    times = {column.key: column.plain(line) if line.figures is not None else None for column in TIMES}
    return {"source": "seed" if line.is_seed else "measured"} | times | {
        column.key: column.plain(line) for column in MAIN} | {
        "interval": None if line.interval is None else list(line.interval), "error": line.error, "note": line.note}
