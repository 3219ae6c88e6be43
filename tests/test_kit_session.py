"""The process of a kit's run that MindSpore is in, and what ends a run beside its steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbnet.errors import DbnetError
from dbnet.running import Device
from parity import kit_preflight, kit_session

ROOT = Path(__file__).resolve().parents[1]
KIT = {"images": [{"name": "a.png", "shape": [1, 3, 64, 64]}], "limit": 19_000_000, "about": {"file": "m.ckpt"},
       "spec": "a network", "files": {}, "digest": "k" * 64}


@pytest.fixture
def kit(tmp_path) -> Path:
    """What of a kit the start of a run needs; its lib/ are our own modules."""
    (tmp_path / "a kit").mkdir()
    (tmp_path / "a kit" / "lib").symlink_to(ROOT)
    (tmp_path / "a kit" / "kit.json").write_text(json.dumps(KIT))
    return tmp_path / "a kit"


@pytest.mark.parametrize(("program", "says"), [
    ("raise OSError('libascendcl.so: cannot open shared object file')",
     "MindSpore does not import: libascendcl.so: cannot open shared object file; try "),
    ("raise RuntimeError('Get acltdt handle failed')", "MindSpore does not import: Get acltdt handle failed; try "),
    ("import no_such_part", "MindSpore does not import: No module named 'no_such_part'; try "),
    ("import os; os.write(2, b'libhccl: undefined symbol\\n'); os.abort()",
     "MindSpore could not be asked: its process ended (SIGABRT, libhccl: undefined symbol); try "),
])
def test_a_mindspore_that_does_not_start_says_why(kit, tmp_path, monkeypatch, program, says):
    (tmp_path / "fake" / "mindspore").mkdir(parents=True)
    (tmp_path / "fake" / "mindspore" / "__init__.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    checks, _ = kit_preflight.look(KIT, kit, tmp_path / "r.trace", Device("cpu"), "cpu", False, {},
                                   time.monotonic() + 60)
    with pytest.raises(DbnetError, match=re.escape(says)) as raised:
        kit_preflight.refuse(checks)
    assert "has not" not in str(raised.value)


FAKED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1] + "/lib")
sys.dont_write_bytecode = True
from parity import kit_run
from parity.kit_hour import Hour
kit_run._preflight = lambda *_: {"device": "cpu"}
"""


@pytest.mark.parametrize(("program", "code", "says"), [
    ("Hour.run = lambda self, steps: None\nkit_run._conclude = lambda *_: os.kill(os.getpid(), signal.SIGTERM)",
     143, r"run.py: ended by SIGTERM; what was done is kept in .*result\.trace\.work, and the same command goes on "
          r"where it stopped\n"),
    ("def full(self, steps):\n    self.told += ['a: failed: ' + 'x' * 90] * 20\n"
     "    raise kit_run.DbnetError('the disk is full')\nHour.run = full",
     3, r"run.py: nothing was recorded, so there is no result: a: failed: x{90} \(and 20 more, above\)\n"),
    ("def full(self, steps):\n    raise kit_run.DbnetError('the disk is full')\nHour.run = full\n"
     "kit_run._conclude = lambda *_: 0", 3, ""),
])
def test_what_ends_it_beside_the_steps_is_one_line_and_loses_nothing(kit, program, code, says):
    program = f"{FAKED}{program}\nsys.exit(kit_run.run(sys.argv[1], ['--rehearse']))"
    done = subprocess.run([sys.executable, "-c", program, str(kit)], text=True, capture_output=True, timeout=100,
                          check=False, cwd=kit.parent)
    assert done.returncode == code, done.stderr
    assert re.fullmatch(says, done.stderr), done.stderr
    assert ("the disk is full" in done.stdout) == (code == 3)


FORKS = ("import os, sys, time\nchild = os.fork()\nif not child:\n time.sleep(60); os._exit(0)\n"
         "open('child', 'w').write(str(child))\n")


def _ended(pid: int) -> bool:
    """It is gone, or waits only for whoever adopts it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_process_that_forks_and_aborts_costs_no_wait_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kit_session, "PROGRAM", FORKS + "os.write(2, b'undefined symbol\\n')\nos.abort()")
    session, began = kit_session.Session(tmp_path, {}, None), time.monotonic()
    with pytest.raises(kit_session.GoneError, match=r"its process ended \(SIGABRT, undefined symbol\)"):
        session.ask(None, began + 40)
    assert time.monotonic() - began < 15
    assert _eventually_ended(tmp_path)


@pytest.mark.parametrize("kindly", [False, True])
def test_who_is_ended_takes_its_children_along(tmp_path, monkeypatch, kindly):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kit_session, "PROGRAM", FORKS + "print('{}', flush=True)\nsys.stdin.read()")
    session = kit_session.Session(tmp_path, {}, tmp_path / "log")
    assert session.ask(None, time.monotonic() + 30) == {}
    session.end(kindly)
    session.end()
    assert _eventually_ended(tmp_path)


def test_a_process_that_stays_silent_is_ended_in_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kit_session, "PROGRAM", FORKS + "time.sleep(60)")
    session, began = kit_session.Session(tmp_path, {}, None), time.monotonic()
    with pytest.raises(kit_session.LateError):
        session.ask(None, began + 1.5)
    assert 1.4 < time.monotonic() - began < 10
    assert _eventually_ended(tmp_path)


def _eventually_ended(folder: Path) -> bool:
    child, end = int((folder / "child").read_text()), time.monotonic() + 10
    while not _ended(child) and time.monotonic() < end:
        time.sleep(0.05)
    return _ended(child)
