"""A comparison of two models in words: the lines and the table of `dbnet compare` and of the proofs' messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict

from dbnet.spec import BoxRule
from evaluation.compare_maps import ImageComparison, MapComparison
from parity.compare import Comparison
from parity.models import ModelComparison, StageRow

Cell = Callable[[StageRow], str]
#: What A and B are called where nobody says it.
SIDES = ("A", "B")


def verdict_lines(result: ModelComparison) -> list[str]:
    """What a reader needs first: the verdict, the first divergence, and its causes with what each leaves."""
    if result.first is None:
        return ["same: every stage is equal bit for bit" if result.verdict == "same" else
                "within tolerance: no stage differs by more than its tolerance"]
    inside = f", in {result.layer}" if result.layer not in (None, result.first) else ""
    behind = "" if result.network is None else "; the networks differ too, first at {}, cause: {}".format(
        *result.network)
    lines = [f"different: first at {result.first}{inside}; cause: {result.cause}{behind}"]
    for cause in result.causes:
        left = "nothing" if not cause.residual else _error(cause.residual)
        mended = f"mended of it, {left} is left of {_error(cause.before)}" if cause.residual != cause.before else left
        lines.append(f"  {cause.cause}: {cause.what}; {mended}{'' if cause.explained else ', more than the tolerance'}")
    if len(result.own) > 1:
        lines.append(f"  errors of their own, not inherited: {', '.join(result.own)}")
    return lines


def stage_table(rows: Sequence[StageRow], sides: tuple[str, str] = SIDES, width: int | None = None) -> str:
    """The stages as lines of text. Errors are relative to A's largest value unless the column says `abs`.

    sides: what A and B are called in the header. width: of the lines in characters; the columns that are missed least
    are left out until they fit.
    """
    columns = _columns(sides)
    if all(row.isolated is None for row in rows):
        del columns["its own"]
    for index, side in enumerate(sides):
        if all(row.to_float64[index] is None for row in rows):
            del columns[_far(side)]
    lines = _stage_lines(columns, rows)
    for name in ("mean abs", ">5e-3", ">1e-3", "99.9 %", "spread", "max abs", "cosine", *map(_far, sides)):
        if width is None or max(map(len, lines)) <= width:
            break
        columns.pop(name, None)
        lines = _stage_lines(columns, rows)
    return "\n".join(lines)


def image_table(result: MapComparison, most: int = 20) -> str:
    """The images of a comparison as lines of text, the worst first, and all together."""
    worst = sorted(result.images, key=lambda image: (image.same, -(image.max_abs or 0)))
    rows = [_image_cells(image.name, image) for image in worst[:most]]
    if len(worst) > most:
        rows.append([f"({len(worst) - most} more, no worse)", *[""] * 8])
    rows.append(_image_cells(f"all {len(worst)}", result))
    header = ("image", "max |dp|", "mean |dp|", "boxes A", "boxes B", "identical", "moved", "lost", "invented")
    return "\n".join(_aligned(header, rows, left=(0,)))


def box_lines(result: MapComparison, most: int = 10) -> list[str]:
    """The worst of the boxes that are not the same, with what decided."""
    found = result.to_dict()["boxes"]["differences"]
    lines = [": ".join(filter(None, (each["image"], each["kind"], each["why"]))) for each in found[:most]]
    return [*lines, *([f"({len(found) - most} more)"] if len(found) > most else [])]


def told(result: ModelComparison, sides: tuple[str, str] = SIDES) -> str:
    """All of it: verdict, causes, table and notes."""
    return "\n".join([*verdict_lines(result), stage_table(result.rows, sides),
                      *(f"note: {note}" for note in result.notes)])


def rule_notes(a: BoxRule, b: BoxRule) -> list[str]:
    """In what two box rules differ, one line; none if they are the same."""
    ours, theirs = asdict(a), asdict(b)
    found = [f"{name} {value} and {theirs[name]}" for name, value in ours.items() if value != theirs[name]]
    return [f"the box rules differ: {', '.join(found)}"] if found else []


def rows_of(comparisons: Iterable[Comparison], to_float64: Sequence[Mapping[str, float]] = ({}, {})) -> list[StageRow]:
    """Rows for comparisons of maps that are at hand. to_float64: of both sides, stage -> distance."""
    return [StageRow(c.stage, c, None, (to_float64[0].get(c.stage), to_float64[1].get(c.stage))) for c in comparisons]


def _image_cells(name: str, found: ImageComparison | MapComparison) -> list[str]:
    boxes = found.boxes
    apart = ["-" if value is None else f"{value:.1e}" for value in (found.max_abs, found.mean_abs)]
    if found.not_finite:
        apart[0] = "NaN, Inf"
    elif found.at_least:
        apart[0] = f">={apart[0]}"
    moved = f"{boxes.moved} ({boxes.max_shift:.1f} px)" if boxes.moved else "0"
    return [name, *apart, *map(str, (boxes.a, boxes.b, boxes.identical)), moved, str(boxes.lost), str(boxes.invented)]


def _stage_lines(columns: Mapping[str, Cell], rows: Sequence[StageRow]) -> list[str]:
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    return _aligned(list(columns), cells, left=(0, len(columns) - 1))


def _error(value: float) -> str:
    return f"an error of {value:.1e}" if math.isfinite(value) else "sizes or values that cannot be compared"


def _far(side: str) -> str:
    return f"{side} to float64"


def _columns(sides: tuple[str, str]) -> dict[str, Cell]:
    """header -> the cell of a row."""
    return {"stage": lambda row: row.stage, "max abs": _of("max_abs", ".2e"), "max rel": _of("max_rel", ".2e"),
            "tolerance": _of("tolerance", ".0e"), "mean abs": _of("mean_abs", ".1e"), "99.9 %": _of("q999", ".1e"),
            ">1e-3": _of("share_1e3", ".1%"), ">5e-3": _of("share_5e3", ".1%"), "cosine": _of("cosine", ".7f"),
            "spread": _of("reference_spread", ".1e"), "its own": _own,
            **{_far(side): _distance(index) for index, side in enumerate(sides)}, "": _end}


def _of(name: str, form: str) -> Cell:
    def cell(row: StageRow) -> str:
        value = math.nan if row.comparison is None else getattr(row.comparison, name)
        bound = name in ("max_abs", "max_rel") and row.comparison and row.comparison.basis in ("sample", "statistics")
        return "-" if math.isnan(value) else f"{'>=' if bound else ''}{value:{form}}"
    return cell


def _own(row: StageRow) -> str:
    return "-" if row.isolated is None else f"{row.isolated.max_rel:.1e}"


def _distance(index: int) -> Cell:
    def cell(row: StageRow) -> str:
        value = row.to_float64[index]
        return "-" if value is None else f"{value:.1e}"
    return cell


def _end(row: StageRow) -> str:
    if row.comparison is None:
        return f"DIFFERS: {row.why}"
    if row.passed:
        return "proves nothing" if row.proves_nothing else "ok"
    if row.isolated is not None and row.isolated.passed:
        return "inherited"
    place = f", most at {row.comparison.worst_index}" if row.comparison.worst_index else ""
    return f"DIFFERS{place}{f' of {row.image}' if row.image and place else ''}"


def _aligned(header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int]) -> list[str]:
    """A line for the header and for each row. left: columns that are aligned to the left."""
    cells = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) if i in left else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in cells]
