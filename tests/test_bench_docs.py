"""The commands of docs/bench.md run, small, and its Python reads what they wrote."""

from __future__ import annotations

import collections
import contextlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import converters
from dbnet.spec import SPECS
from evaluation.benching.bundle import read_bundle
from evaluation.benching.figures import figures, ranks
from tests import detecting
from tests.doc_pages import ROOT, blocks, run, session, text_of
from tests.running import command, dbnet

PAGE = "docs/bench.md"
[CONSOLE] = blocks(PAGE, "console")
[PYTHON] = blocks(PAGE, "python")
LINES = [one.line for one in session(CONSOLE.text)]
#: A quick one.
QUICK = (4,)
FEW = ("--rounds", "1", "--calls", "1", "--warmup", "0")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """What the page's commands name."""
    monkeypatch.chdir(tmp_path)
    for suffix in ("onnx", "ckpt", "pth"):
        converters.convert(ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors", tmp_path / f"model.{suffix}")
    detecting.write_photos(tmp_path / "photos", 2)
    detecting.write_photos(tmp_path / "icdar2015/test/images", 2)
    detecting.write_labels(tmp_path / "icdar2015/test/gt", 2)
    return tmp_path


@pytest.mark.parametrize("number", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long)
                                    for n in range(len(LINES))])
def test_the_commands_run(number, here):
    line = LINES[number].replace("736x1280", "64x96")
    more = [*FEW, "--limit", "4" if "1,4" in line else "2"]
    if "--shape" not in line:
        more += ["--shape", "64x96"]
    for name in ("torch", "mindspore", "onnxruntime", "openvino"):
        if name in line:
            pytest.importorskip(name)
    done = run(line, more)
    assert done.returncode == 0, done.stderr
    assert ("| row |" in done.stdout) == ("--markdown" in line) and "img/s" in done.stdout
    if " -o " not in line:
        return
    bundle = read_bundle(here / line.split(" -o ")[1].split()[0])
    assert len(bundle.rows) == (6 if "1,4" in line else 3) + 3 * ("torch:compile" in line)
    assert all(bool(row.scores) for row in bundle.rows) and not any(row.error for row in bundle.rows)
    if number == 0:
        done = subprocess.run([sys.executable, "-c", PYTHON.text], cwd=here, text=True, capture_output=True,
                              check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""})
        assert done.returncode == 0 and done.stdout.count("model.onnx") == 3, done.stderr


def test_the_page_says_what_holds():
    from dbnet.cli.bench import bench
    from evaluation.benching.collecting import MOST_MAPS
    from evaluation.benching.data import SIZE
    from evaluation.benching.training import CROP
    defaults = {option.name: option.default for option in bench.params}
    text = " ".join(text_of(PAGE).split())
    assert f"`--together {defaults['together']}`" in text and f"the first {MOST_MAPS} maps" in text
    assert "{} x {} pixels".format(*SIZE) in text and "{}x{} as in the recipes".format(*CROP) in text


def test_the_report_of_every_network(tmp_path):
    """The page's numbers are the report's, and the report is its bundle's."""
    dbnet("report", "check", "benchmarks/reports/all_networks.json")
    with contextlib.chdir(ROOT / "benchmarks/reports"):
        assert command("report", "merge", "all_networks.json", "-o", tmp_path / "made.md").returncode == 0
    assert (tmp_path / "made.md").read_text() == text_of("benchmarks/reports/all_networks.md")
    bundle = read_bundle(ROOT / "benchmarks/reports/all_networks.json")
    assert {model.file for model in bundle.models} == {f"{name}.safetensors" for name in SPECS}
    there = [row for row in bundle.rows if not row.error]
    compared = [row.parity for row in there if row.parity is not None]
    assert len(compared) == len(there) - len(SPECS) and {each.verdict for each in compared} == {"within tolerance"}
    groups: dict[str, dict[str, float]] = {}
    for row in there:
        rate = figures(row).images_per_second
        assert rate is not None
        groups.setdefault(bundle.model(row).file, {})[row.runner] = rate
    times = [group["onnxruntime"] / group["mindspore"] for group in groups.values()]
    assert all(min(group, key=group.__getitem__) == "mindspore" for group in groups.values())
    text = " ".join(text_of(PAGE).split())
    assert f"all {len(SPECS)} networks" in text and f"{len(there)} of {len(bundle.rows)} rows are there" in text
    assert f"within {max(each.max_abs for each in compared):.1e} of torch's".replace("e-0", "e-") in text
    assert f"at {min(times):.0f} to {max(times):.0f} times ONNX Runtime's time" in text


def test_a_busy_machine_turned_no_ranks():
    """The same command twice, and what the page says of it."""
    dbnet("report", "check", "benchmarks/reports/all_networks_busy.json")
    quiet, busy = (read_bundle(ROOT / f"benchmarks/reports/all_networks{name}.json") for name in ("", "_busy"))
    assert [(row.model, row.runner) for row in quiet.rows] == [(row.model, row.runner) for row in busy.rows]
    assert quiet.made["command"].replace("../all.json", "../busy.json") == busy.made["command"]
    found: collections.Counter[str] = collections.Counter()
    first, second = (ranks(bundle.rows, bundle.settings) for bundle in (quiet, busy))
    for group in quiet.settings["groups"]:
        for one, other in itertools.combinations([row for row in group if not quiet.rows[row].error], 2):
            orders = {(places[one] > places[other]) - (places[one] < places[other]) for places in (first, second)}
            found["turned" if len(orders - {0}) > 1 else "both" if 0 not in orders else
                  "neither" if orders == {0} else "one"] += 1
            if orders not in ({0}, {1}, {-1}):
                medians = [[figures(bundle.rows[row]).images_per_second for row in (one, other)]
                           for bundle in (quiet, busy)]
                assert len({a < b for a, b in medians}) == 1, (one, other, medians)
    slower = max(figures(a).images_per_second / figures(b).images_per_second
                 for a, b in zip(quiet.rows, busy.rows, strict=True) if a.runner == "onnxruntime")
    text = " ".join(text_of(PAGE).split())
    assert not found["turned"]
    assert f"ONNX Runtime was up to {slower:.1f} times slower" in text
    assert (f"Of {found.total()} pairs of runners {found['both']} are in an order in both runs, {found['neither']} "
            f"share a place in both, and {found['one']}, ") in text and f"medians of these {found['one']} are" in text
    assert "load {:.1f} at the start, {:.1f} at the end".format(*busy.settings["busy"]) in text
    assert "against {:.1f} and {:.1f}".format(*quiet.settings["busy"]) in text
