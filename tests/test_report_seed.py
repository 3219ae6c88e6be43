"""The seed's published rows: all of them, digit by digit as the page has them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from dbnet.recipe_configs import published
from evaluation.bench_report.columns import MAIN, number, percent
from evaluation.bench_report.merge import Merged
from evaluation.bench_report.seed import seed_rows, seed_software
from evaluation.bench_report.table import lines_of

PAGE = "seed_dbnet_page.md"
NUMBERS = {"jit level": "jit_level", "graph compile": "graph_compile", "ms/step": "ms_step", "img/s": "img_s",
           "recall": "recall", "precision": "precision", "f-score": "fscore", "train loss": "train_loss"}
WORDS = {"model name": "model", "backbone": "backbone", "cards": "cards", "batch size": "batch",
         "pretrained": "pretrained"}


def tables(text):
    """(chip, data, columns -> cells) of every row of the page's result tables."""
    chip = data = header = None
    for line in text.splitlines():
        if found := re.search(r"tested on ascend (910\*?)", line):
            chip = found[1]
            data = data if "### " in line else "12 public sets"
        if found := re.match(r"\s+### (\S+)", line):
            data = found[1]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if cells and "model name" in cells[0]:
            header = [cell.strip("* ") for cell in cells]
        elif cells and header and cells[0].startswith("DBNet"):
            yield chip, data, dict(zip(header, cells, strict=True))
        elif not cells:
            header = None


def test_every_row_of_the_page_stands_with_its_digits(need):
    page = list(tables(need(PAGE).read_text(encoding="utf-8")))
    ours = seed_rows()
    assert len(page) == len(ours) == 22
    for (chip, data, cells), row in zip(page, ours, strict=True):
        assert (row.chip, row.data) == (chip, data)
        for title, field in WORDS.items():
            assert str(getattr(row, field)) == cells.get(title, "")
        for title, field in NUMBERS.items():
            printed = re.sub(r"[%s ]", "", cells.get(title, "")).replace(",.", ".")
            value = getattr(row, field)
            assert ("" if value is None else str(value)) == printed, (row, title)
        recipe = re.search(r"\[yaml\]\((\w+)\.yaml\)", cells["recipe"])
        assert row.recipe == (recipe[1] if recipe else "")


def test_the_two_files_of_published_figures_say_the_same():
    def key(row):
        recipe = row.recipe or ""
        return recipe, row.chip, row.cards, row.data

    theirs = {key(row): row for row in published()}
    assert len(theirs) == len(published()) == len(seed_rows())
    for row in seed_rows():
        other = theirs[key(row)]
        assert (row.model, row.backbone, row.batch) == (other.network, other.backbone, other.batch_size)
        for ours, name in (("ms_step", "ms_per_step"), ("img_s", "img_per_s"), ("recall", "recall"),
                           ("precision", "precision"), ("fscore", "fscore"), ("train_loss", "train_loss")):
            value = getattr(row, ours)
            assert (None if value is None else float(value)) == getattr(other, name), (row, name)


def test_a_row_that_contradicts_itself_is_noted():
    """img/s is what cards, batch and ms/step make, the f-score what recall and precision make, or a note says not."""
    for row in seed_rows():
        speed = abs(float(row.img_s) / (1000 * row.cards * row.batch / float(row.ms_step)) - 1) < 0.01
        fair = True
        if row.recall and row.precision:
            fscore = 2 * row.recall * row.precision / (row.recall + row.precision)
            fair = abs(fscore - row.fscore) <= Decimal("0.02")
        assert (speed and fair) == (not row.note), row


def test_the_software_is_that_of_the_page(need):
    page = need(PAGE).read_text(encoding="utf-8")
    for version in re.findall(r"[\d.]+\.[\w.]+", seed_software()):
        assert version in page


def test_lines_keep_the_digits():
    lines = lines_of(Merged(()))
    assert len(lines) == 22 and all(line.is_seed and line.task == "training" for line in lines)
    texts = {column.key: [column.text(line) for line in lines] for column in MAIN}
    assert texts["ms_step"][:3] == ["312.48", "1230.76", "100"] and "280.90" in texts["ms_step"]
    assert texts["graph_compile_s"][:3] == ["107.91 s", "182.94 s", ""] and texts["jit_level"][:3] == ["O2", "O2", ""]
    assert texts["fscore"][:2] == ["83.41%", "84.30%"] and "" in texts["fscore"]
    assert {line.protocol for line in lines if line.fscore is not None} == {"mindocr"}


@pytest.mark.parametrize(("value", "text"), [(None, ""), (Decimal("163.80"), "163.80"), (Decimal(960), "960"),
                                             (1234.5678, "1234.57"), (0.00123, "0.0012"), (0.0, "0.00"),
                                             (12.0, "12.00")])
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, ""), (Decimal("0.7728"), "77.28%"), (0.931234, "93.12%"),
                                             (1.0, "100.00%")])
def test_percentages(value, text):
    assert percent(value) == text
