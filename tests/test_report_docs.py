"""The commands of docs/report.md run and print what the page says, and its numbers are the code's."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.bench_report.bounds import LEAST_ROUNDS, bounds
from evaluation.bench_report.changes import MARGIN, TIMED
from evaluation.bench_report.formats import FORMATS
from evaluation.bench_report.table import SORTS
from evaluation.benching.bundle import write_bundle
from tests.report_bundles import Run, bundle
from tests.running import command

PAGE = (Path(__file__).resolve().parents[1] / "docs/report.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())
[BLOCK] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)


def test_the_session_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npu = bundle(Run(2), label=None)
    npu = replace(npu, machine={**npu.machine, "accelerators": [{"name": "Ascend 910B", "count": 8}]})
    for name, made in {"cpu": bundle(Run(1), label="node-7"), "npu": npu,
                       "new": bundle(Run(3, slower=1.25), label="node-7")}.items():
        write_bundle(made, Path(f"{name}.json"))
    parts = re.split(r"^\$ dbnet (.*)\n", BLOCK, flags=re.MULTILINE)[1:]
    assert len(parts) == 8
    for words, printed in zip(parts[::2], parts[1::2], strict=True):
        done = command(*shlex.split(words))
        assert done.returncode == ("--compare" in words) and done.stderr == "", done
        pattern = ".*".join(re.escape(piece) for piece in re.split(r"^\.\.\.\n", printed, flags=re.MULTILINE))
        pattern = re.sub(r"\d+\\\.\d+", r"\\d+\.\\d+", pattern)  # NumPy may draw other numbers one day
        assert re.fullmatch(pattern, done.stdout, re.DOTALL), (words, done.stdout)
    assert {path.suffix for path in tmp_path.glob("table.*")} == set(FORMATS)


def test_the_numbers_of_the_page():
    assert f"above {1 + MARGIN:g} (`--slower-by {100 * MARGIN:g}`)" in WORDS
    for rounds in (5, 3):
        found = bounds([1.0] * rounds, [1.0] * rounds)
        assert re.search(rf"{rounds} and {rounds} (rounds )?give {100 * found.confidence:.3g} %", WORDS)
    assert "3 and 3 give" in WORDS and LEAST_ROUNDS == 3
    assert all(words in WORDS for words in TIMED.values())
    assert all(f"`{name}`" in WORDS for name in SORTS if name not in ("model", "none"))
    assert set(re.findall(r"^\| `(\.\w+)` \|", PAGE, re.MULTILINE)) == set(FORMATS)


@pytest.mark.parametrize(("rounds", "noise", "slower", "share", "off"), [
    (5, 0.03, 1.2, 98.6, 1.2), (7, 0.03, 1.2, 100, 0.2), (5, 0.03, 1.0, 0, 0.1), (5, 0.1, 1.0, 0.03, 0.15),
    (5, 0.1, 1.2, 15, 3), (10, 0.1, 1.2, 51, 4)])
def test_the_simulation_of_the_page(rounds, noise, slower, share, off):
    rng = np.random.default_rng(1)
    pairs = np.exp(rng.normal(0, noise, (1500, 2, rounds)))
    found = 100 * np.mean([bounds(slower * new, old).low > 1 + MARGIN for new, old in pairs])
    assert abs(found - share) <= off
    assert re.search(rf"\b{share} %", WORDS) or share == 0
