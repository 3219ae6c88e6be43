"""The model that comes with the package: what it says of itself, and that it finds words."""

from __future__ import annotations

import re

import numpy as np

from converters.load import load_model
from dbnet.cli.demo_model import SPEC, WEIGHTS, embedded_spec
from dbnet.datasets.drawn import draw
from dbnet.parameters import parameters
from dbnet.sample import Sample
from dbnet.spec import SPECS
from evaluation.detect import detect
from evaluation.protocols.table import score
from evaluation.runners import open_runner

CARD = (WEIGHTS.parent / "README.md").read_text(encoding="utf-8")


def test_the_file_is_small_whole_and_as_its_card_says():
    assert WEIGHTS.stat().st_size < 10_000_000
    model = load_model(WEIGHTS)  # the record's digest is checked on the way
    assert model.record.spec == embedded_spec() and model.record.sha256
    assert set(model.weights) == {p.name for p in parameters(SPECS[SPEC])}
    assert f"{sum(array.size for array in model.weights.values()):,} float32 values" in CARD
    assert all(array.dtype == np.float32 for array in model.weights.values())


def test_the_training_log_is_that_of_the_card():
    rows = [line.split(",") for line in (WEIGHTS.parent / "training_log.csv").read_text().splitlines()]
    assert rows[0][:4] == ["step", "epoch", "lr", "total"]
    steps = int(re.search(r"([\d,]+) of 32 crops", CARD)[1].replace(",", ""))
    assert steps - 50 <= int(rows[-1][0]) <= steps
    first, last = ([float(row[3]) for row in part] for part in (rows[1:11], rows[-10:]))
    assert np.mean(last) < 0.6 * np.mean(first)


def test_it_finds_words_that_it_has_not_seen():
    runner = open_runner(WEIGHTS, runner="onnxruntime", stages=("probability",))
    samples, found = [], []
    for seed in range(100, 104):
        image, polygons = draw(seed, 480, 864)
        samples.append(Sample(WEIGHTS.parent / f"{seed}.png", polygons, np.zeros(len(polygons), bool),
                              [""] * len(polygons)))
        found.append(detect(runner, image, runner.spec.pixels, runner.spec.boxes))
    assert score(["rrc"], samples, found)["rrc"].score.fscore > 0.4
