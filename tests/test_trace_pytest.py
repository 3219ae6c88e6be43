"""`pytest parity/ --reference FILE.trace --candidate MODEL`."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import pytest

from dbnet.datasets.drawn import draw
from parity.data import ROOT
from tests.running import command
from tests.test_trace import EMBEDDED, SMALL

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(("more", "code", "said"), [
    ((), 0, "14 passed"), (("--set", "se_gate=hard_sigmoid"), 1, "different: first at c3; cause: se_gate")])
def test_a_trace_as_reference(more, code, said, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), draw(7, 160, 224)[0])
    trace = tmp_path / "run.trace"
    assert command("trace", EMBEDDED, "--images", tmp_path / "a.png", "-o", trace, "--level", "full", "--runner",
                   "onnxruntime", *SMALL).returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "parity", "-q", "-p", "no:cacheprovider", "--reference", str(trace),
         "--candidate", str(EMBEDDED), "--runner-b", "onnxruntime", *SMALL, *more], cwd=ROOT, text=True,
        capture_output=True, env=os.environ | {"PYTEST_ADDOPTS": ""})
    assert done.returncode == code and said in done.stdout, done.stdout[-3000:]
