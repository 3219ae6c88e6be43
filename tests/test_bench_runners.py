"""`dbnet bench` in every runner, of other environments too; and what else runs does not turn the ranks round."""

from __future__ import annotations

import subprocess
import sys

import pytest

import converters
from dbnet.extras import installed
from evaluation.benching.bundle import read_bundle
from evaluation.benching.figures import figures, ranks
from evaluation.delivery.deliver import deliver
from evaluation.delivery.settings import ExportSettings
from parity.data import ROOT
from tests.elsewhere import wrapped
from tests.running import command

TRAINED = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
FEW = ("--shape", "96x160", "--rounds", 1, "--calls", 2, "--warmup", 0)
ALL = [name for name in ("torch", "mindspore", "onnxruntime", "openvino") if installed(name)] + ["opencv"]


def test_another_environment_is_measured_in_its_own_process(tmp_path, photos):
    python = wrapped(tmp_path / "env", before="sleep 6")
    done = command("bench", TRAINED, "--runner", f"opencv,opencv@{python}", "--images", photos, *FEW, "-o",
                   tmp_path / "b.json")
    assert done.returncode == 0, done.stderr
    here, there = read_bundle(tmp_path / "b.json").rows
    assert there.runner == f"opencv@{python}" and there.environment["process"] == "its own"
    # The six seconds before it starts are in no figure; the memory is of the process with OpenCV alone.
    assert all(0 < getattr(figures(there), figure) < 6 for figure in ("imported", "load", "graph_compile"))
    assert 1e7 < there.peak_memory_bytes != here.peak_memory_bytes and there.parity.verdict == "same"
    assert "opencv@" in done.stdout


@pytest.mark.long
def test_every_runner_of_this_environment(tmp_path):
    onnx = tmp_path / "model.onnx"
    converters.convert(TRAINED, onnx)
    done = command("bench", onnx, "--runner", ",".join(ALL), *FEW, "--limit", 2, "--threads", 1, "-o",
                   tmp_path / "b.json")
    assert done.returncode == 0, done.stderr
    rows = read_bundle(tmp_path / "b.json").rows
    for row in rows:
        found = figures(row)
        assert found.imported > 0 and found.first_run > 0 and found.peak_memory_bytes > 5e7
        assert (found.graph_compile is None) == (row.runner == "torch")
        assert row.parity is None or row.parity.verdict in ("same", "within tolerance"), (row.runner, row.parity)
    assert rows[ALL.index("mindspore")].seconds.graph_compile[0] > 0.5


@pytest.mark.long
def test_an_exported_file_is_compared_with_what_it_was_made_of(tmp_path):
    pytest.importorskip("openvino")
    xml = tmp_path / "model.xml"
    deliver(TRAINED, xml, None, ExportSettings("openvino"))
    done = command("bench", TRAINED, xml, "--runner", "onnxruntime", "--runner", "openvino", *FEW, "--limit", 2, "-o",
                   tmp_path / "b.json")
    assert done.returncode == 3 and "does not run in onnxruntime" in done.stderr
    rows = read_bundle(tmp_path / "b.json").rows
    assert [row.error is None for row in rows] == [True, True, False, True]
    assert rows[3].parity.reference == 0 and rows[3].parity.verdict in ("same", "within tolerance")


@pytest.mark.long
def test_a_busy_machine_ranks_the_runners_the_same(tmp_path):
    """Neither run may say of two runners that one is faster where the other run says the opposite."""
    few = ("--runner", ",".join(ALL), "--shape", "320x576", "--limit", 2, "--calls", 2, "--threads", 1, "-o")
    assert command("bench", TRAINED, *few, tmp_path / "1.json").returncode == 0
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        assert command("bench", TRAINED, *few, tmp_path / "2.json").returncode == 0
    finally:
        for process in load:
            process.kill()
            process.wait()
    first, second = (ranks(read_bundle(tmp_path / f"{number}.json").rows) for number in (1, 2))
    told = sum(first[i] < first[j] and second[i] < second[j] for i in range(len(ALL)) for j in range(len(ALL)))
    turned = [(ALL[i], ALL[j]) for i in range(len(ALL)) for j in range(len(ALL))
              if first[i] < first[j] and second[i] > second[j]]
    assert not turned and told >= len(ALL) - 1, (first, second)
