"""A process of the tests that crashes costs one test, and never the run."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity.data import ROOT

pytest.importorskip("xdist")


def _run(folder):
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", folder, "-p", "tests.schedule",
               "-p", "xdist", "-n", "2", "--dist", "loadfile", "--max-worker-restart", "3", folder]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=60,
                          env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})


@pytest.mark.parametrize(("sizes", "where"), [
    ((6, 1, 1, 1, 1), "last"), ((5, 5, 2), "first"), ((1, 1, 3), "first"), ((1,), "last")])
def test_what_is_left_runs_elsewhere(sizes, where, tmp_path):
    """sizes: of files; one test of the first crashes, each other one runs once."""
    for file, size in enumerate(sizes):
        crash = -1 if file else {"first": 0, "last": size - 1}[where]
        (tmp_path / f"test_{file}.py").write_text("import os, time\n" + "".join(
            f"def test_{n}():\n    time.sleep(0.02)\n    open({str(tmp_path / 'ran')!r}, 'a').write('{file}.{n}\\n')\n"
            f"    {'os._exit(3)' if n == crash else 'pass'}\n" for n in range(size)))
    done = _run(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"worker 'gw\d' crashed while running '.*', which ended by exit\(3\)", done.stdout)
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == sorted(f"{file}.{n}" for file, size in enumerate(sizes) for n in range(size))
    told = re.findall(r"(\d+) (failed|passed)", done.stdout.splitlines()[-1])
    assert dict(map(reversed, told)) == {"failed": "1"} | ({"passed": str(sum(sizes) - 1)} if sum(sizes) > 1 else {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_is_told(number, tmp_path):
    (tmp_path / "test_it.py").write_text(f"import os\ndef test(): os.kill(os.getpid(), {int(number)})\n")
    assert f"which ended by {number.name}" in _run(tmp_path).stdout


def test_the_stacks_of_a_silent_crash_are_told(tmp_path):
    """In a thread that blocks the signal: nothing in the process can tell."""
    pattern = Path("/proc/sys/kernel/core_pattern")
    if shutil.which("gdb") is None or not pattern.exists() or pattern.read_text().strip() != "core" \
            or resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("no gdb here, or core files are limited or go elsewhere")
    (tmp_path / "test_it.py").write_text("""
import ctypes, os, resource, signal, threading

def crash():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGSEGV})
    ctypes.string_at(0)

def test(request):
    os.chdir(request.config.rootpath)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    thread = threading.Thread(target=crash)
    thread.start()
    thread.join()
""")
    told = _run(tmp_path).stdout
    assert "Fatal Python error" not in told
    assert "which ended by SIGSEGV" in told and "string_at" in told
