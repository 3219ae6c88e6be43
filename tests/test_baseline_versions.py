"""The upgrade alarm on real upgrades: another instruction set, and MindSpore's versions where they are installed.

DBNET_MINDSPORES names the folders of environments with NumPy and MindSpore, separated as in PATH, the oldest first.
"""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import pytest

import converters
from dbnet.preprocess import prepare
from dbnet.seeded import seeded_weights
from dbnet.spec import STAGES
from evaluation.runners import open_runner
from parity.baseline_picture import picture
from parity.baseline_runs import instructions, networks
from parity.trace_file import read_traces
from tests import baseline_scenes as scenes
from tests.baseline_scenes import FAILED, PASSED

#: The first version that computes other last bits than the one before (docs/parity.md).
CHANGED = (2, 9)


@pytest.fixture
def run(tmp_path, capfd, monkeypatch):
    """pytest within pytest, beside one of the project's networks."""
    spec = networks()["db_mv3_paddle"]
    converters.save_weights(seeded_weights(spec, 11), tmp_path / "m.safetensors", spec=spec)
    monkeypatch.chdir(tmp_path)
    return scenes.Pytest(capfd, tmp_path)


@pytest.mark.long
def test_another_instruction_set(run, monkeypatch):
    """oneDNN in PyTorch, held to AVX2 in a process of its own: a change like that of an upgrade, in the first stage."""
    pytest.importorskip("torch")
    if "avx512f" not in instructions():
        pytest.skip("this processor has no AVX-512 to leave out")
    runner, maps = f"torch@{sys.executable}", []
    options = ("--baseline", "b.trace", "--candidate", "m.safetensors", "--runner", runner)
    for limit in (None, "AVX2"):
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        if limit:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        code, printed = run(*options, *(() if limit else ("--update-baseline",)))
        pixels = prepare(picture(), networks()["db_mv3_paddle"].pixels).tensor
        maps.append(open_runner("m.safetensors", runner, "cpu", STAGES).run(pixels))
    first = next((stage for stage in STAGES if not np.array_equal(maps[0][stage], maps[1][stage])), None)
    if first is None:
        pytest.skip("this PyTorch computes the same without AVX-512")
    assert code == FAILED, printed
    assert f"candidate-torch: changed though within tolerance: first at {first}, " in printed, printed
    assert "of the largest value; ONEDNN_MAX_CPU_ISA unset -> AVX2\n" in printed


@pytest.mark.long
def test_mindspore_s_versions(run):
    """Each compared with the one before: 2.9 is named with its first stage, the others are silent."""
    given = [folder for folder in os.environ.get("DBNET_MINDSPORES", "").split(os.pathsep) if folder]
    if len(given) < 2:
        pytest.skip("compares MindSpore's versions: name environments in DBNET_MINDSPORES, two at least")
    before = None
    for folder in given:
        options = ("--baseline", "b.trace", "--candidate", "m.safetensors", "--runner", f"mindspore@{folder}")
        code, printed = run(*options) if before else (PASSED, "")
        alarms = re.findall(r"^candidate-mindspore: changed though within tolerance: first at c2, .*; "
                            r"MindSpore (.*) -> ([\d.]+)$", printed, re.MULTILINE)
        assert run(*options, "--update-baseline")[0] == PASSED
        now = read_traces(run.folder / "b.trace")["candidate-mindspore"].about["environment"]["version"]
        moved = before is not None and parsed(before) < CHANGED <= parsed(now)
        assert (code, alarms) == ((FAILED, [(before, now)]) if moved else (PASSED, [])), printed
        before = now


def parsed(version):
    return tuple(map(int, version.split(".")[:2]))
