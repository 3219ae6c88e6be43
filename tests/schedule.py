"""Which file of tests runs in which of pytest-xdist's processes, also when one of them has crashed.

As `--dist loadfile`, which after a crash hands out the finished files again: nothing comes back for those, and the run
waits for ever (pytest-xdist 3.8).
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

#: Seconds within which a core file is one of the process that has just crashed.
RECENT = 60


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files | None:
    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: pytest.TestReport) -> None:
    """Tells how the process ended, which xdist does not: by which signal, whether memory ran short, and what each
    thread did if it left a core file (`ulimit -c unlimited`) and gdb is there."""
    node = report.node  # type: ignore[attr-defined]
    report.longrepr = "\n".join([f"{report.longrepr}, which ended by {_end(node.gateway)}",
                                 *_stacks(Path(node.config.rootpath))])


def _end(gateway: Any) -> str:
    code = gateway._io.wait()
    told = f"exit({code})" if code is None or code >= 0 else signal.Signals(-code).name
    counts = Path("/proc/vmstat")
    lines = counts.read_text().splitlines() if counts.exists() else []
    return ", ".join([told, *(line for line in lines if line.startswith("oom_kill "))])


def _stacks(folder: Path) -> list[str]:
    """Of all threads of a process that has left its core file in the folder just now; faulthandler shows neither a
    thread that blocks the signal nor one whose stack, or stack for signals, is used up or gone."""
    lines: list[str] = []
    for path in (folder / "core", *folder.glob("core.[0-9]*")):
        if shutil.which("gdb") and path.is_file() and time.time() - path.stat().st_mtime < RECENT:
            command = ["gdb", "-batch", "-nx", "-iex", "set auto-load python-scripts off", "-ex", "bt 40",
                       "-ex", "thread apply all bt 12", sys.executable, path]
            with contextlib.suppress(subprocess.TimeoutExpired):  # an exception here would end the whole run
                told = subprocess.run(command, capture_output=True, check=False, timeout=120).stdout
                lines += told.decode(errors="replace").splitlines()
    return [line[:200] for line in lines if not line.startswith("[New LWP")]


class Files(LoadFileScheduling):
    """File by file; what crashed has failed, and is not tried again."""

    def remove_node(self, node: Any) -> str | None:
        """Of a process that has ended: the test in which it crashed, None if it had done all that it was given."""
        left = {file: tests for file, tests in self.assigned_work.pop(node).items() if not all(tests.values())}
        if not left:
            return None
        tests = next(iter(left.values()))  # they run in the order in which they were given
        crashed = next(test for test, done in tests.items() if not done)
        tests[crashed] = True
        self.workqueue.update((file, tests) for file, tests in left.items() if not all(tests.values()))
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def schedule(self) -> None:
        """A process runs a test when it knows the next one, so a new one needs two files if the first has one test."""
        super().schedule()
        for node in self.nodes:
            self._reschedule(node)
