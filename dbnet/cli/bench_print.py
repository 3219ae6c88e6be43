"""The tables of `dbnet bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import print_table

if TYPE_CHECKING:
    from evaluation.benching.bundle import Bundle, Row
    from evaluation.benching.figures import Figures

Column = tuple[str, Callable[["Row", "Figures"], str]]
MISSING = "-"


def _ms(seconds: float | None) -> str:
    return MISSING if seconds is None else f"{1000 * seconds:.1f}"


def _s(seconds: float | None) -> str:
    return MISSING if seconds is None else f"{seconds:.2f}"


def _part(name: str, percentile: str = "p50") -> Callable[[Row, Figures], str]:
    def told(_row: Row, figures: Figures) -> str:
        latency = getattr(figures, name)
        return MISSING if latency is None else _ms(getattr(latency, percentile))
    return told


def _score(row: Row, _figures: Figures) -> str:
    for scores in row.scores.values():
        low, high = scores.interval
        return f"{100 * scores.fscore:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    return MISSING


def _parity(row: Row, _figures: Figures) -> str:
    if row.parity is None:
        return MISSING if row.detections is None else "reference"
    parity = row.parity
    apart = "maps of other sizes" if parity.max_abs is None else f"{parity.max_abs:.1e}"
    return (f"{parity.verdict} as {parity.reference + 1}: {apart}, {parity.boxes_same}/{parity.boxes_all} boxes")


def _rate(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _memory(_row: Row, figures: Figures) -> str:
    return MISSING if figures.peak_memory_bytes is None else f"{figures.peak_memory_bytes / 2**20:.0f}"


_SPEED: tuple[Column, ...] = (
    ("p50 ms", _part("whole")), ("p95", _part("whole", "p95")), ("p99", _part("whole", "p99")),
    ("img/s", lambda _row, figures: _rate(figures.images_per_second)),
    ("pixels ms", _part("pixels")), ("network ms", _part("network")), ("boxes ms", _part("boxes")))
_TRAINING: tuple[Column, ...] = (
    ("ms/step", lambda _row, figures: MISSING if figures.step_ms is None else f"{figures.step_ms:.1f}"),
    ("trained img/s", lambda _row, figures: _rate(figures.train_images_per_second)))
_REST: tuple[Column, ...] = (
    ("import s", lambda _row, figures: _s(figures.imported)), ("load s", lambda _row, figures: _s(figures.load)),
    ("compile s", lambda _row, figures: _s(figures.graph_compile)),
    ("first run s", lambda _row, figures: _s(figures.first_run)), ("peak MiB", _memory),
    ("F % [95 %]", _score), ("parity", _parity))


def _first(bundle: Bundle, number: int, row: Row) -> list[str]:
    shape = "own" if row.shape is None else "x".join(map(str, row.shape))
    return [str(number), bundle.model(row).file, _runner(row.runner), row.device, shape, str(row.batch)]


def _runner(name: str) -> str:
    """Of another environment by its folder's name: the path stands in the bundle."""
    here, at, python = name.partition("@")
    return f"{here}@{Path(python).parent.parent.name}" if at else here


_FIRST = ("row", "model", "runner", "device", "shape", "batch")


def show(bundle: Bundle) -> None:
    """Two tables, and on what they were measured."""
    for title, columns in _tables(bundle):
        header, rows = _table(bundle, columns)
        print_table(title, header, rows, right=(0, *range(5, len(header) - (columns[-1][0] == "parity") * 2)))
    for line in _told(bundle):
        click.echo(line)


def as_markdown(bundle: Bundle) -> str:
    """The same."""
    lines = []
    for title, columns in _tables(bundle):
        header, rows = _table(bundle, columns)
        lines += [f"**{title}**", "", _line(header), _line(["---"] * len(header)), *map(_line, rows), ""]
    return "\n".join([*lines, *(f"{line}  " for line in _told(bundle))])


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _tables(bundle: Bundle) -> list[tuple[str, tuple[Column, ...]]]:
    trained = any(row.seconds.train_step for row in bundle.rows)
    return [("speed, from file to boxes, one batch at a time", _SPEED + (_TRAINING if trained else ())),
            ("start, memory, score, parity", _REST)]


def _table(bundle: Bundle, columns: tuple[Column, ...]) -> tuple[list[str], list[list[str]]]:
    from evaluation.benching.figures import figures, ranks
    rows, places, speed = [], ranks(bundle.rows, bundle.settings), columns[0][0] == _SPEED[0][0]
    for number, (row, place) in enumerate(zip(bundle.rows, places, strict=True), start=1):
        found = figures(row)
        rank = [MISSING if place is None else f"{place}{'=' * (_shared(bundle, number - 1, places))}"] if speed else []
        rows.append([*_first(bundle, number, row), *(cell(row, found) for _, cell in columns), *rank])
    return [*_FIRST, *(name for name, _ in columns), *(["rank"] if speed else [])], rows


def _shared(bundle: Bundle, place: int, places: list[int | None]) -> bool:
    """Whether another of its rivals has the same rank."""
    from evaluation.benching.figures import rivals
    among = rivals(bundle.rows, bundle.settings)
    return sum(rank == places[place] and key == among[place] for key, rank in zip(among, places, strict=True)) > 1


def told_card(card: Mapping[str, Any]) -> str:
    """An accelerator of `Bundle.machine`, for people."""
    about = [f"{title} {card[name]}" for name, title in (("driver", "driver"), ("firmware", "firmware"),
                                                         ("cuda", "CUDA"), ("cann", "CANN")) if card.get(name)]
    return f"{card['count']} x {card['name']}" + (f" ({', '.join(about)})" if about else "")


def _told(bundle: Bundle) -> list[str]:
    machine, settings, data = bundle.machine, bundle.settings, bundle.data
    cards = ", ".join(map(told_card, machine["accelerators"]))
    threads = "each runtime's own choice of threads" if settings["threads"] is None else \
        f"{settings['threads']} thread{'' if settings['threads'] == 1 else 's'}"
    versions = {f"{row.environment['framework']} {row.environment['version']}" for row in bundle.rows
                if "version" in row.environment}
    calls = sorted({sum(map(len, row.seconds.whole)) for row in bundle.rows if row.seconds.whole} or {0})
    rounds = f"{settings['rounds']} round{'' if settings['rounds'] == 1 else 's'} in turns"
    if settings.get("interrupted"):
        rounds = f"interrupted, {settings['rounds']} of {settings['asked_rounds']} rounds in turns"
    told = [f"{machine['cpu']}, {machine['cores']} cores{f', {cards}' if cards else ''}; {threads}; load "
            f"{settings['busy'][0]:g} at the start, {settings['busy'][1]:g} at the end",
            f"{data['images']} images ({data['kind']}), {rounds}, "
            f"{' to '.join(map(str, dict.fromkeys([calls[0], calls[-1]])))} calls of each row; "
            f"{', '.join(sorted(versions))}"]
    groups = settings.get("groups", ())
    if len(groups) > 1:
        told.append(f"ranks are among rows that took turns: "
                    f"{', then '.join(' '.join(str(place + 1) for place in group) for group in groups)}")
    return told


def as_json(bundle: Bundle) -> dict[str, Any]:
    """What the tables show, as numbers, in seconds and bytes; the raw measurements are in the bundle."""
    from evaluation.benching.figures import figures, ranks
    rows = []
    for row, rank in zip(bundle.rows, ranks(bundle.rows, bundle.settings), strict=True):
        told = asdict(row)
        kept = {name: told[name] for name in ("runner", "device", "precision", "shape", "batch", "threads", "jit_level",
                                              "error", "parity", "training", "environment", "notes")}
        scores = {name: {key: value for key, value in each.items() if key != "counts"}
                  for name, each in told["scores"].items()}
        rows.append({"model": bundle.model(row).file, **kept, "rank": rank,
                     "figures": asdict(figures(row)), "scores": scores})
    return {"made": bundle.made, "machine": bundle.machine, "settings": bundle.settings,
            "data": {name: value for name, value in bundle.data.items() if not name.endswith("sha256s")},
            "models": [asdict(model) for model in bundle.models], "rows": rows}
