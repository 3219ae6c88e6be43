"""`--ray` on real clusters, in processes of their own: one that has joined a cluster, or tries to, is ended by Ray when
the cluster is lost, or waits for it for ever, in threads that do not heed Python.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys

import pytest

from parity.data import ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install ray")


@pytest.mark.parametrize(("cases", "marks", "seconds"), [
    ("test_ray_cases.py", "not long", 360),
    pytest.param("test_ray_cases.py", "long", 1800, marks=pytest.mark.long),
    pytest.param("test_ray_ends_cases.py", "", 1800, marks=pytest.mark.long)])
def test_on_real_clusters(cases, marks, seconds, tmp_path):
    """What fails is told with the cases' own output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["DBNET_TEST_APART"] = "1"  # tests/conftest.py collects them then
    with (tmp_path / "told").open("w+", encoding="utf-8", errors="replace") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", f"tests/{cases}", "-m", marks, "-p", "no:cacheprovider", "-p", "no:xdist",
             "-o", f"faulthandler_timeout={seconds - 60}", f"--basetemp={tmp_path / 'cases'}"],
            cwd=ROOT, env=environment, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | str = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = f"still running after {seconds} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        told.seek(0)
        text = told.read()
    assert code == 0 and " passed" in text, f"{code}\n{text[-20000:]}"
