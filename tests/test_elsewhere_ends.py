"""How a worker ends, and why one does not begin: one line each, and nothing of it stays behind."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import converters
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS
from evaluation import elsewhere
from evaluation.elsewhere import Worker
from evaluation.elsewhere_end import how_it_ended, why_it_did_not_start
from evaluation.runners import open_runner
from parity.data import ROOT
from tests import opaque_models
from tests.elsewhere import THIS, is_gone, kill, wrapped
from tests.running import command

IMAGES = seeded_images(1, 64, 64)
#: A framework that is none, for what an import can do.
FAKE = "import os, sys, time\n__version__ = '0.1'\ndef get_available_providers(): return []\n"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Where workers have their copies."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def copies(folder: Path) -> list[Path]:
    """ONNX Runtime has files of its own there."""
    return list(folder.glob("dbnet-*"))


@pytest.fixture
def model(tmp_path) -> Path:
    pytest.importorskip("onnxruntime")
    return opaque_models.detector(tmp_path / "d.onnx")


def opened(model: Path, python: Path = THIS):
    return open_runner(model, f"onnxruntime@{python}", pixels=opaque_models.BRIGHT)


# Why it does not begin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "told"), [
    ("exit 0", "did not start as a Python with onnxruntime \\(exit code 0\\)"),
    ("echo some words >&2; exit 4", "exit code 4; it said: some words"),
    ("echo dbnet: old 3.8 >&2; exit 1", "is Python 3.8, and 3.10 or newer is needed"),
    ("kill -SEGV $$", "crashed \\(SIGSEGV\\) while it was imported"),
    (f"exec {THIS} -c 'import os, time; os.closerange(3, 999); time.sleep(60)'", "is no Python, or a program in"),
    ("exec /nowhere/python", "exit code 127; it said: .*/nowhere/python")])
def test_what_is_no_python(before, told, tmp_path, temporary, monkeypatch):
    began = time.monotonic()
    monkeypatch.setattr(elsewhere, "PATIENCE", 3.0)
    with pytest.raises(DbnetError, match=told):
        Worker(wrapped(tmp_path / "w", before), "onnxruntime")
    assert time.monotonic() - began < 30
    assert not copies(temporary)


def test_what_cannot_be_started(tmp_path, temporary):
    for name, contents in (("garbage", "garbage"), ("gone", "#!/nowhere/python\n")):
        (tmp_path / name).write_text(contents)
        (tmp_path / name).chmod(0o755)
        with pytest.raises(DbnetError, match="cannot be started"):
            Worker(tmp_path / name, "torch")
    assert not copies(temporary)


@pytest.mark.parametrize(("source", "told"), [
    ("raise ImportError('libx.so is missing')", "does not import \\(ImportError: libx.so is missing\\); install it"),
    ("raise OSError('no libgomp')", "OSError: no libgomp"), ("1 / 0", "exit code 1; it said: ZeroDivisionError"),
    ("", "AttributeError: .*__version__"), ("import os; os.abort()", "crashed \\(SIGABRT\\) while it was imported"),
    ("import os; os.kill(os.getpid(), 9)", "was killed \\(SIGKILL\\), by somebody or for lack of memory"),
    ("import sys; sys.exit('licence expired')", "licence expired")])
def test_a_framework_that_does_not_import(source, told, tmp_path, temporary):
    with pytest.raises(DbnetError, match=told):
        Worker(wrapped(tmp_path / "w", onnxruntime=source), "onnxruntime")
    assert not copies(temporary)


@pytest.mark.parametrize(("limit", "source"), [
    ("START_SECONDS", "sleep 60"), ("IMPORT_SECONDS", "import time; time.sleep(60)")])
def test_one_that_hangs(limit, source, tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(elsewhere, limit, 0.3)
    python = wrapped(tmp_path / "w", source) if "import" not in source else wrapped(tmp_path / "w", torch=source)
    began = time.monotonic()
    with pytest.raises(DbnetError, match="did not come to import torch in time; does it start by hand"):
        Worker(python, "torch")
    assert time.monotonic() - began < 30
    assert not copies(temporary)


def test_an_environment_without_it(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    with pytest.raises(DbnetError, match=re.escape(f"has no numpy; install it there: {python} -m pip install numpy")):
        Worker(python, "torch")
    done = command("detect", "x.jpg", "-m", "x.onnx", "--runner", f"torch@{tmp_path / 'env'}")
    assert done.returncode == 3 and done.stderr.count("\n") == 1  # the image is looked for before
    other = wrapped(tmp_path / "w", f"export PYTHONNOUSERSITE=1\nPYTHONPATH='{tmp_path / 'w'}' exec '{python}' \"$@\"",
                    numpy="__version__ = '2'")
    with pytest.raises(DbnetError, match=r"has no mindspore; install it there: .* -m pip install mindspore"):
        Worker(other, "mindspore")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_an_old_python(version):
    found = sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python"))
    if not found:
        pytest.skip(f"no Python {version} in ~/.pyenv")
    with pytest.raises(DbnetError, match=f"is Python {version}, and 3.10 or newer is needed"):
        Worker(found[0], "torch")


# What does not disturb it ---------------------------------------------------------------------------------------------


def test_what_is_printed_there(model, tmp_path, capfd):
    """Before, while and after it is imported, on standard output, without end."""
    noise = ("import os, threading\nprint('noise', flush=True)\n"
             "def go():\n    while True:\n        os.write(1, b'x' * 1000 + b'\\n')\n"
             "threading.Thread(target=go, daemon=True).start()\n")
    runner = opened(model, wrapped(tmp_path / "w", "echo noise", sitecustomize=noise))
    assert np.array_equal(runner.run(IMAGES)["probability"], opened(model).run(IMAGES)["probability"])
    assert capfd.readouterr() == ("", "")


def test_what_this_process_has_set(tmp_path, monkeypatch):
    """Neither this environment's packages nor its libraries are found there; what a user sets is."""
    names = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH", "PYTHONOPTIMIZE", "VIRTUAL_ENV",
             "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MINE")
    for name in names:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{sys.prefix}/lib/x:/usr/lib/mine")
    fake = (f"{FAKE}import json\n"
            f"__version__ = json.dumps({{n: os.environ.get(n) for n in {names!r}}} | {{'': os.getcwd()}})")
    worker = Worker(wrapped(tmp_path / "w", "unset IGNORED; MYPATH=$PYTHONPATH", onnxruntime=fake), "onnxruntime")
    found = json.loads(worker.about["version"])
    assert found.pop("") != os.getcwd(), "frameworks write into the folder they run in"
    assert found == {"PYTHONPATH": str(tmp_path / "w"), "PYTHONHOME": None, "PYTHONSTARTUP": None,
                     "PYTHONSAFEPATH": None, "PYTHONOPTIMIZE": None, "VIRTUAL_ENV": None,
                     "LD_LIBRARY_PATH": "/usr/lib/mine", "OMP_NUM_THREADS": "1", "MINE": "1"}


# How it ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "told"), [
    (signal.SIGSEGV, "crashed \\(SIGSEGV\\)"), (signal.SIGKILL, "was killed \\(SIGKILL\\), by somebody or for lack of"),
    (signal.SIGTERM, "was ended by somebody \\(SIGTERM\\)"), (40, "was ended by signal 40")])
def test_a_signal(number, told, model, temporary):
    runner = opened(model)
    environment = runner.environment()
    kill(runner.ort.worker, number)
    for before in ("", "not run: "):
        with pytest.raises(DbnetError, match=f"^{before}onnxruntime of {THIS} {told}"):
            runner.run(IMAGES)
    assert runner.environment() == environment, "a report says it even so"
    assert not copies(temporary)


def test_in_the_middle_of_its_work(tmp_path):
    pytest.importorskip("torch")
    spec = SPECS["dbnet_mobilenetv3"]
    converters.save_weights(seeded_weights(spec), tmp_path / "m.pth", spec=spec)
    runner = open_runner(tmp_path / "m.pth", f"torch@{THIS}", "cpu")
    import threading
    threading.Timer(0.5, os.kill, (runner.worker.pid, signal.SIGSEGV)).start()
    with pytest.raises(DbnetError, match="crashed \\(SIGSEGV\\)"):
        runner.run(np.zeros((8, 3, 736, 1280), np.float32))
    with pytest.raises(DbnetError, match=r"not run: torch of .* before"):
        runner.narrowed(("c2",))


def test_an_exception_that_nobody_foresaw():
    pytest.importorskip("onnxruntime")
    worker = Worker(THIS, "onnxruntime")
    with pytest.raises(DbnetError, match=r"ended in the middle of its work \(exit code 1; it said: KeyError: 'nothing"):
        worker.call("nothing of the kind", {})


@pytest.mark.parametrize("text", ["raise", "answer"])
def test_words_for_every_end(text):
    """No status, and control characters of a program's."""
    for status in (None, 0, 1, -11, -9, -64):
        for line in (why_it_did_not_start(THIS, "torch", status, ["a\x1b[2J"], text),
                     how_it_ended("torch", THIS, status, ["a\x1b[2J"], text)):
            assert str(THIS) in line and "\x1b" not in line


@pytest.mark.parametrize(("words", "told"), [
    (["Traceback (most recent call last):", "TypeError: For 'Conv2D', so and so", "- C++ Call Stack:", "ccsrc/a.cc:1"],
     "TypeError: For 'Conv2D', so and so"),
    (["some.module.OwnError: first", "During handling", "ValueError: last", "x"], "ValueError: last"),
    (["no exception", "terminate called"], "terminate called")])
def test_the_line_that_says_most(words, told):
    assert how_it_ended("torch", THIS, 1, words, "").endswith(f"it said: {told})")


#: What is interrupted, in a process of its own: nothing that other tests have left there can lose the signal.
INTERRUPTED = """
import faulthandler, os, signal, sys
from pathlib import Path
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_images
from evaluation import elsewhere
from evaluation.runners import open_runner
from tests.elsewhere import THIS, is_gone

faulthandler.register(signal.SIGUSR1, all_threads=True)
elsewhere.PATIENCE = 0.2
runner = open_runner(Path(sys.argv[1]), f"onnxruntime@{THIS}", pixels=sys.argv[2])
pid = runner.ort.worker.pid
os.kill(pid, signal.SIGSTOP)
print(pid, flush=True)
try:
    runner.run(seeded_images(1, 64, 64))
except KeyboardInterrupt:
    print("interrupted", is_gone(pid))
try:
    runner.run(seeded_images(1, 64, 64))
except DbnetError as error:
    print(error)
"""


def test_an_interrupt(model):
    """What comes after it must not be the answer to what was asked before."""
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, model, opaque_models.BRIGHT], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        pid = int(process.stdout.readline() or 0)
        assert pid, process.communicate()[1]
        time.sleep(0.5)  # until it waits for the answer
        process.send_signal(signal.SIGINT)
        try:
            out, told = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            state = Path(f"/proc/{process.pid}/status").read_text()
            process.send_signal(signal.SIGUSR1)
            time.sleep(1)
            process.kill()
            pytest.fail(f"it waits for ever: {process.communicate()} {state}")
        finally:
            if not is_gone(pid, 0.1):
                os.kill(pid, signal.SIGKILL)
    assert (told, process.returncode) == ("", 0)
    assert out.startswith("interrupted True\nnot run: onnxruntime of ") and "was interrupted before" in out


def test_nothing_stays(model, temporary):
    runner = opened(model)
    pid = runner.ort.worker.pid
    assert len(copies(temporary)) == 1
    del runner
    gc.collect()
    assert not Path(f"/proc/{pid}").exists(), "not even a zombie"
    assert not copies(temporary)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit()"])
def test_it_ends_with_its_parent(end, model, temporary):
    """Also if the parent has no time to say so."""
    program = (f"import os, sys, time, threading\nfrom pathlib import Path\nfrom evaluation.elsewhere import Worker\n"
               f"worker = Worker(Path({str(THIS)!r}), 'onnxruntime')\nprint(worker.pid, flush=True)\n{end}\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=False,
                          timeout=120)
    assert is_gone(int(done.stdout)), done.stderr
    assert done.stderr == ""
    end_of_wait = time.monotonic() + 5
    while copies(temporary) and time.monotonic() < end_of_wait:
        time.sleep(0.05)
    assert not copies(temporary)


def test_it_ends_with_its_parent_in_the_middle_of_its_work(tmp_path, temporary):
    noted = tmp_path / "pid"
    busy = f"import os, time\nopen({str(noted)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    python = wrapped(tmp_path / "w", onnxruntime=busy)
    program = f"from pathlib import Path\nfrom evaluation.elsewhere import Worker\n" \
              f"Worker(Path({str(python)!r}), 'onnxruntime')"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) as parent:
        end = time.monotonic() + 60
        while not (noted.exists() and noted.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        parent.kill()
    assert is_gone(int(noted.read_text()))
    assert not copies(temporary)


# In commands ----------------------------------------------------------------------------------------------------------


def test_compare_goes_on_without_it(tmp_path, monkeypatch):
    """A crash in one step is told as what stopped it; what was compared before stays."""
    pytest.importorskip("onnxruntime")
    spec = SPECS["dbnet_mobilenetv3"]
    converters.save_weights(seeded_weights(spec), tmp_path / "m.onnx", spec=spec)
    call = Worker.call

    def crashing(self, do, arrays, **header):
        if do == "run" and len(arrays) > 1:  # stages from given maps
            kill(self)
        return call(self, do, arrays, **header)

    monkeypatch.setattr(Worker, "call", crashing)
    model = tmp_path / "m.onnx"
    done = command("compare", model, model, "--runner-b", f"onnxruntime@{THIS}", "--json", tmp_path / "r.json")
    assert done.returncode == 3 and done.stderr.count("crashed (SIGSEGV)") == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["unfinished"].startswith("comparing the stages: onnxruntime of")
    assert report["verdict"] is None
    assert report["b"]["environment"]["process"] == "its own"


def test_detect_tells_of_every_image(model, photos, monkeypatch, tmp_path):
    call, calls = Worker.call, []

    def crashing(self, do, arrays, **header):
        calls.append(do)
        if len(calls) == 4:  # opening, trying and the first image go well
            kill(self)
        return call(self, do, arrays, **header)

    monkeypatch.setattr(Worker, "call", crashing)
    done = command("detect", photos, "-m", model, "--runner", f"onnxruntime@{THIS}", "--pixels", opaque_models.BRIGHT,
                   "--json", tmp_path / "d.json")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert done.stderr.count("crashed (SIGSEGV)") == 2 and done.stderr.count("not run: ") == 1
    assert len(json.loads((tmp_path / "d.json").read_text())["images"]) == 1
