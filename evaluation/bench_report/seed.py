"""The rows of the seed's own result tables, as `seed_results.toml` has them."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("seed_results.toml")
#: What the seed's scores were counted by: MindOCR's own metric, another one than a data set's official score.
PROTOCOL = "mindocr"


@dataclass(frozen=True)
class SeedRow:
    """One row. Figures have the digits that the page prints; None where it says nothing.

    chip: 910 or 910*. graph_compile: seconds. ms_step, img_s: of training, img_s of all cards together. recall,
    precision, fscore: percent, by `PROTOCOL`. recipe: a name in `configs/`, empty for a general-purpose model. note:
    what the page contradicts itself in.
    """

    data: str
    chip: str
    model: str
    backbone: str
    cards: int
    batch: int
    pretrained: str
    jit_level: str
    graph_compile: Decimal | None
    ms_step: Decimal
    img_s: Decimal
    recall: Decimal | None
    precision: Decimal | None
    fscore: Decimal | None
    train_loss: Decimal | None
    recipe: str
    note: str = ""


#: The fields that are figures.
_FIGURES = ("graph_compile", "ms_step", "img_s", "recall", "precision", "fscore", "train_loss")


@functools.cache
def seed_rows() -> tuple[SeedRow, ...]:
    """Every row, in the page's order."""
    read = _read()
    return tuple(_row(table, dict(zip(read["columns"], row, strict=True)), str(number))
                 for table in read["table"] for number, row in enumerate(table["rows"], start=1))


def seed_software() -> str:
    """What all of them were measured with."""
    return str(_read()["software"])


@functools.cache
def _read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"), parse_float=Decimal)


def _row(table: dict[str, Any], cells: dict[str, Any], number: str) -> SeedRow:
    figures = {name: None if cells[name] == "" else Decimal(cells[name]) for name in _FIGURES}
    return SeedRow(data=table["data"], chip=table["chip"], note=table.get("notes", {}).get(number, ""),
                   **cells | figures)
