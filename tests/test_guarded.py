"""A comparison whose process dies in the middle: the reports are written all the same, and say so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import converters
from dbnet.cli import guarded as guard
from dbnet.seeded import seeded_weights
from tests import detecting

pytest.importorskip("onnxruntime")


def started(folder: Path, images: Path, *more: object) -> subprocess.Popen[str]:
    """`dbnet compare` with three reports; what it keeps lies below `folder`/tmp."""
    (folder / "tmp").mkdir()
    model = detecting.write_model(folder / "a.onnx")
    reports = [argument for kind in ("json", "html", "junit") for argument in (f"--{kind}", str(folder / f"r.{kind}"))]
    command = [sys.executable, "-m", "dbnet", "compare", str(model), str(model), "--no-stages", "--images", str(images),
               *reports, *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "TMPDIR": str(folder / "tmp")})


def in_the_middle(folder: Path, running: subprocess.Popen[str]) -> int:
    """Waits until a few images are done, and that is kept; the process at work."""
    for _ in range(1200):
        assert running.poll() is None, running.communicate()
        for kept in (folder / "tmp").glob("dbnet-*/known.json"):
            if json.loads(kept.read_text())["images"]:
                children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
                assert len(children) == 1
                return int(children[0])
        time.sleep(0.05)
    raise AssertionError("nothing was kept in a minute")


@pytest.fixture
def many(tmp_path) -> Path:
    """More images than are done when the process is stopped: links to a few."""
    photos = detecting.write_photos(tmp_path / "few", 3)
    (tmp_path / "many").mkdir()
    for i in range(400):
        (tmp_path / "many" / f"img_{i}.png").hardlink_to(photos[i % 3])
    return tmp_path / "many"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child in Linux's /proc")
@pytest.mark.parametrize(("number", "said"), [(signal.SIGKILL, "the process was killed"),
                                              (signal.SIGSEGV, "a runtime crashed (SIGSEGV)")])
def test_the_process_dies(number, said, tmp_path, many):
    running = started(tmp_path, many)
    os.kill(in_the_middle(tmp_path, running), number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 3
    assert errors.count("\n") == 1 and f"{said}" in errors and "while comparing the images" in errors
    data = json.loads((tmp_path / "r.json").read_text())
    assert said in data["unfinished"] and 0 < len(data["images"]) < 400 and data["verdict"] is None
    assert "doing" not in data
    assert said in (tmp_path / "r.html").read_text() and said in (tmp_path / "r.junit").read_text()
    assert not list((tmp_path / "tmp").glob("dbnet-*"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child in Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_somebody_stops_it(number, tmp_path, many):
    """That is no crash: nothing is written, and no process stays."""
    running = started(tmp_path, many)
    child = in_the_middle(tmp_path, running)
    running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 3 and errors.strip() == "dbnet: interrupted"
    assert not list(tmp_path.glob("r.*")) and not list((tmp_path / "tmp").glob("dbnet-*"))
    assert not Path(f"/proc/{child}").exists()


def test_the_ends_of_a_child(tmp_path):
    """What it raises is its exit code here, and what it says is said once."""
    script = ("import sys, click\nfrom dbnet.cli.guarded import guarded\nfrom dbnet.cli.ending import exit_code_of\n"
              "from dbnet.errors import DbnetError\n"
              "def work(keeper):\n    print('done')\n    {}\n"
              "sys.exit(exit_code_of(lambda: guarded(work, lambda known, how: print(known, how))))\n")
    for line, code, errors in (("pass", 0, ""), ("raise click.exceptions.Exit(1)", 1, ""),
                               ("raise DbnetError('no')", 3, "dbnet: no\n"),
                               ("import os; os.abort()", 0, ""), ("sys.exit(0)", 0, ""), ("1 / 0", 0, "")):
        done = subprocess.run([sys.executable, "-c", script.format(line)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, errors), line
        told = {"import os; os.abort()": "{} a runtime crashed (SIGABRT)\n",
                "sys.exit(0)": "{} a runtime ended the process (exit code 0)\n",
                "1 / 0": "{} internal error, please report it (ZeroDivisionError: division by zero; DBNET_TRACEBACK=1 "
                         "shows where)\n"}
        assert done.stdout.removeprefix("done\n") == told.get(line, "")  # what a crash leaves of it is no matter


@pytest.mark.parametrize("closed", [True, False])
def test_nobody_reads_what_is_printed(closed, tmp_path):
    """The verdict stays, and the reports are written: `| head`, and a standard output that is closed."""
    detecting.write_photos(tmp_path / "photos", 1)
    models = [detecting.write_model(tmp_path / "a.onnx"), tmp_path / "b.onnx"]
    converters.save_weights(seeded_weights(detecting.SPEC, 2031), models[1], spec=detecting.SPEC)
    command = [sys.executable, "-m", "dbnet", "compare", *map(str, models), "--no-stages", "--images",
               str(tmp_path / "photos"), "--html", str(tmp_path / "r.html")]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", closefd=True) as stream:
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command] if closed else command, check=False,
                              stdout=stream, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "</html>" in (tmp_path / "r.html").read_text()


def test_no_room_to_keep_anything(tmp_path):
    """The work matters more."""
    keeper = guard.Keeper(tmp_path / "gone")
    keeper.keep(dict, now=True)
    assert not (tmp_path / "gone").exists()
    (tmp_path / "here").mkdir()
    keeper = guard.Keeper(tmp_path / "here")
    keeper.keep(lambda: {"a": 1})
    keeper.keep(lambda: {"a": 2})  # a moment later
    assert json.loads((tmp_path / "here/known.json").read_text()) == {"a": 1}
    keeper.keep(lambda: {"a": 3}, now=True)
    assert json.loads((tmp_path / "here/known.json").read_text()) == {"a": 3}


def test_within_another_program(capsys):
    """There may be threads, which do not survive a fork; exceptions pass."""
    def work(keeper):
        keeper.keep(dict)
        print(os.getpid())
        raise click.exceptions.Exit(1)

    with pytest.raises(click.exceptions.Exit):
        guard.guarded(work, lambda known, how: None)
    assert capsys.readouterr().out == f"{os.getpid()}\n"
