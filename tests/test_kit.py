"""`dbnet kit`: the folder that it makes, and run.py in it, started as on an NPU host, with nothing of the suite."""

from __future__ import annotations

import ast
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from converters.load import load_model
from dbnet.preprocess import prepare, read_image
from dbnet.record import read_fields
from dbnet.spec import STAGES, PixelFormat
from parity import kit_start
from parity.kit import LIMIT
from parity.kit_plan import steps_of
from parity.trace import PIXELS
from parity.trace_file import read_traces
from parity.traced import open_trace
from tests import detecting
from tests.bare import bare_python
from tests.opaque_models import detector
from tests.running import command, dbnet

pytest.importorskip("mindspore")
pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]
PIXELS_OF = "mindocr,size=64x96"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A kit of two photographs, with torch's reference, in a folder with a name to stumble over."""
    folder = tmp_path_factory.mktemp("kit")
    detecting.write_model(folder / "model+1.safetensors")
    detecting.write_photos(folder / "photos a+b", 2)
    done = dbnet("kit", folder / "model+1.safetensors", "--images", folder / "photos a+b", "--out", folder / "the kit",
                 "--runner", "torch", "--pixels", PIXELS_OF)
    assert re.search(r"the kit: model\+1.safetensors, 2 images, \d+ MB; kit [0-9a-f]{16}; reference by torch",
                     done.stdout)
    return folder / "the kit"


@pytest.fixture
def kit(made, tmp_path) -> Path:
    """A copy of it, to damage and to run in."""
    return Path(shutil.copytree(made, tmp_path / "a kit+1"))


def run(kit: Path, *arguments: object, python: Path | str = sys.executable, **environ: str,
        ) -> subprocess.CompletedProcess[str]:
    """`python run.py ...` from another folder, with nothing of the suite in reach."""
    clean = {"PATH": os.defpath, "HOME": str(kit), "OMP_NUM_THREADS": "1", **environ}
    done = subprocess.run([python, "-I", str(kit / "run.py"), *map(str, arguments)], cwd=kit.parent, text=True,
                          capture_output=True, timeout=500, env=clean, stdin=subprocess.DEVNULL, check=False)
    assert "Traceback" not in done.stderr
    return done


# The folder -----------------------------------------------------------------------------------------------------------


def test_the_inputs_are_exactly_those_of_preprocess(made):
    told = json.loads((made / "kit.json").read_bytes())
    pixels = read_fields(PixelFormat, told["about"]["pixels"])
    assert (pixels.resize, pixels.size) == ("stretch", (64, 96))
    for entry in told["images"]:
        array = np.load(made / entry["file"])
        assert array.dtype == np.float32 and list(array.shape) == entry["shape"] == [1, 3, 64, 96]
        path = made.parent / "photos a+b" / entry["name"]
        assert entry["sha256"] == kit_start.sha256_of(str(path))
        assert np.array_equal(array, prepare(read_image(path), pixels).tensor)


def test_it_holds_what_it_says_and_nothing_of_this_machine(made):
    told = json.loads((made / "kit.json").read_bytes())
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert files == {"kit.json", *told["files"]}
    assert {"run.py", "README.md", "model.ckpt", "reference.trace", "images/tiny.npy"} <= files
    assert kit_start.damage(str(made)) is None
    assert str(made.parent) not in (made / "kit.json").read_text()
    readme = (made / "README.md").read_text().splitlines()
    assert any(f"model+1.safetensors --images ... --pixels {PIXELS_OF}`" in line for line in readme)
    assert len([line for line in readme if re.match(r"\d+\. ", line)]) == 10
    reference = read_traces(made / "reference.trace")
    assert {name: (run.level, len(run.images)) for name, run in reference.items()} == {
        "reference": ("sampled", 2), "reference.tiny": ("full", 1)}
    assert reference["reference"].full(1, "probability") is not None


def test_the_weights_are_a_model_that_mindspore_loads(made):
    import mindspore as ms
    ours = load_model(made.parent / "model+1.safetensors")
    loaded = ms.load_checkpoint(str(made / "model.ckpt"))
    arrays = {name: value.asnumpy() for name, value in loaded.items() if not isinstance(value, str)}
    assert set(arrays) == set(ours.weights)
    assert all(np.array_equal(arrays[name], array) for name, array in ours.weights.items())
    assert load_model(made / "model.ckpt").record.spec.semantics() == ours.record.spec.semantics()


def test_the_same_kit_twice(made, tmp_path):
    again = tmp_path / "again"
    dbnet("kit", made.parent / "model+1.safetensors", "--images", made.parent / "photos a+b", "--out", again,
          "--runner", "torch", "--pixels", PIXELS_OF)
    assert (again / "kit.json").read_bytes() == (made / "kit.json").read_bytes()


def test_a_kit_is_replaced_by_force_and_results_never(made, tmp_path):
    arguments = ("kit", made.parent / "model+1.safetensors", "--images", made.parent / "photos a+b" / "img_1.png",
                 "--out", tmp_path / "k", "--runner", "torch", "--pixels", PIXELS_OF)
    dbnet(*arguments)
    assert "exists already" in command(*arguments).stderr
    dbnet(*arguments, "--force")
    for name in ("npu1.trace", "lib/dbnet/mine.py", "mine/a.png"):
        first = "mine" if name.startswith("mine") else name
        path = tmp_path / "k" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        done = command(*arguments, "--force")
        assert (done.returncode, f"holds {first}, which is not the kit's" in done.stderr) == (3, True)
        path.rename(tmp_path / "carried away")
    (tmp_path / "k" / "mine").rmdir()
    (tmp_path / "k" / "result.trace").write_text("")
    done = command(*arguments, "--force")
    assert (done.returncode, "holds what a run gave (result.trace)" in done.stderr) == (3, True)
    assert not list(tmp_path.glob(".dbnet-kit-*")), "nothing is left beside it"


@pytest.mark.parametrize(("change", "says"), [
    ({"--out": "file"}, "file: is no folder"), ({"--out": "full"}, "full: exists already"),
    ({"--out": "full", "--force": None}, "full: is no kit (a.txt, ...), so it is not replaced"),
    ({"--out": "no/such"}, "no: no such folder"), ({"--images": "empty"}, "no images in this folder"),
    ({"--images": "no.png"}, "no.png: no such file or folder"), ({"--images": "bad"}, "bad.png: not an image"),
    ({"model": "absent.ckpt"}, "absent.ckpt"), ({"model": "opaque.onnx"}, "opaque.onnx: is no network that is known"),
    ({"model": "file"}, "file"),
])
def test_bad_input_is_one_line(made, tmp_path, monkeypatch, change, says):
    monkeypatch.chdir(tmp_path)
    for folder in ("full", "empty", "bad"):
        Path(folder).mkdir()
    Path("file").write_text("x")
    Path("full/a.txt").write_text("x")
    Path("bad/bad.png").write_bytes(b"no picture")
    detector(Path("opaque.onnx"))
    options = {"model": made.parent / "model+1.safetensors", "--images": made.parent / "photos a+b", "--out": "k",
               "--runner": "torch", **change}
    model = options.pop("model")
    done = command("kit", model, *(part for pair in options.items() for part in pair if part is not None))
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1 and says in done.stderr
    assert not Path("k").exists() and not list(Path().glob(".dbnet-kit-*"))


def test_a_folder_with_a_file_that_is_no_image_makes_no_kit(made, tmp_path):
    shutil.copytree(made.parent / "photos a+b", tmp_path / "photos")
    (tmp_path / "photos" / "img_3.png").mkdir()
    (tmp_path / "photos" / "img_4.heic").write_bytes(b"x")
    assert cv2.imread(str(tmp_path / "photos" / "img_1.png")) is not None
    done = command("kit", made.parent / "model+1.safetensors", "--images", tmp_path / "photos", "--out", tmp_path / "k")
    assert done.returncode == 3 and not (tmp_path / "k").exists()
    done = dbnet("kit", made.parent / "model+1.safetensors", "--images", tmp_path / "photos", "--out", tmp_path / "k",
                 "--limit", 1, "--runner", "torch", "--pixels", PIXELS_OF)
    assert "1 image," in done.stdout


# run.py before MindSpore ----------------------------------------------------------------------------------------------


def test_the_starter_is_understood_by_old_interpreters(monkeypatch, capsys):
    source = Path(kit_start.__file__).read_text()
    ast.parse(source, feature_version=(3, 7))
    monkeypatch.setattr(kit_start.sys, "version_info", (3, 9, 18))
    assert kit_start.main() == 3
    assert capsys.readouterr().err == ("run.py: this is Python 3.9; start it with Python 3.10 or newer that has NumPy "
                                       "and MindSpore\n")


@pytest.mark.parametrize(("name", "says"), [
    ("lib/dbnet/spec.py", "lib/dbnet/spec.py: was damaged on the way"),
    ("model.ckpt", "model.ckpt: was damaged on the way"), ("images/00001.npy", "00001.npy: was damaged"),
    ("reference.trace", "reference.trace: was damaged"), ("kit.json", "kit.json: is damaged"),
])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "crlf"])
def test_what_was_damaged_on_the_way_is_told(kit, name, says, how):
    data = bytearray((kit / name).read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    elif how == "cut":
        del data[-1000:]
    elif how == "crlf":
        data = data.replace(b"\n", b"\r\n")
        if name == "kit.json":
            return  # the same JSON
    (kit / name).write_bytes(data)
    if how == "gone":
        (kit / name).unlink()
        says = "cannot be read"
    done = run(kit, "--rehearse")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1 and says in done.stderr
    assert not done.stdout and not (kit / "result.trace.work").exists()


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["--rehearse", "--minutes", "0.1"], 3, "--minutes 0.1 is too little"),
    (["--minutes", "1.9"], 3, "--minutes 1.9 is too little: to start MindSpore and compile for one small picture may "
                              "take 2 min 0 s"),
    (["--minutes", "0"], 2, "is no number of minutes above 0"), (["--minutes", "nan"], 2, "is no number of minutes"),
    (["--device", "tpu"], 2, "unknown device 'tpu'"),
    (["--device", "cuda:0"], 2, "'cuda:0' is neither Ascend nor CPU"),
    (["--device", "Ascend", "--rehearse"], 2, "leave out --device"),
    (["--rehearse", "--out", "{kit}/model.ckpt", "--force"], 3, "model.ckpt: is a file of this kit"),
    (["--rehearse", "--out", "{kit}/kit.json"], 3, "kit.json: is a file of this kit"),
    (["--rehearse", "--out", "{kit}/README"], 3, "README: exists already; add --force"),
    (["--rehearse", "--out", "/no/such/r.trace"], 3, "/no/such: no such folder"),
    (["--rehearse", "--out", "{kit}/lib"], 3, "lib: is a folder"),
])
def test_what_cannot_start_says_so_and_starts_nothing(kit, arguments, code, says):
    (kit / "README").write_text("mine")
    done = run(kit, *(argument.format(kit=kit) for argument in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert not list(kit.glob("*.work"))


def test_an_interpreter_without_numpy(kit, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    done = run(kit, "--rehearse", python=tmp_path / "env" / "bin" / "python")
    assert done.returncode == 3
    assert done.stderr == ("run.py: No module named 'numpy'; start it with the interpreter that has NumPy and "
                           "MindSpore\n")


# run.py with MindSpore ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "settings"), [
    ("exact", {"precision_mode": "must_keep_origin_dtype", "hf32": False, "tf32": None, "deterministic": True}),
    ("fp16", {"precision_mode": "force_fp16", "hf32": None, "tf32": None, "deterministic": None}),
])
def test_the_settings_of_a_mode_exist_in_this_mindspore(how, settings):
    """Their names, not what they do: that needs an NPU. A process for each, as in a kit."""
    program = ("import json\nfrom ms_models import compat\n"
               f"print(json.dumps([compat.set_arithmetic('ascend', how) for how in ('{how}', 'default')]))\n"
               "try:\n    compat.set_arithmetic('cpu', 'fp16')\nexcept compat.DbnetError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, timeout=200,
                          check=True)
    told, refused = done.stdout.splitlines()[-2:]
    assert json.loads(told) == [settings, {"precision_mode": "default", "hf32": "default", "tf32": None,
                                           "deterministic": None}]
    assert refused == "fp16 is a precision mode of Ascend, and this device is CPU; leave it out"


def test_no_npu_is_one_line(kit):
    """The real probe, on a machine without one."""
    done = run(kit, "--device", "Ascend:1")
    assert done.returncode == 3
    assert re.fullmatch(r"run.py: no Ascend NPU is visible to MindSpore [\d.]+: Unsupported device target Ascend"
                        r"( \(Load dynamic library.*\))?; CANN was not found, source its set_env.sh; --device CPU "
                        r"rehearses\n", done.stderr)
    assert "exact: must_keep_origin_dtype, HF32 off" in done.stdout
    assert not list(kit.glob("*.work"))


def test_a_cann_that_does_not_fit_is_one_line(kit, tmp_path):
    (tmp_path / "cann" / "compiler").mkdir(parents=True)
    (tmp_path / "cann" / "compiler" / "version.info").write_text("Version=5.1.0\n")
    done = run(kit, "--preflight", ASCEND_HOME_PATH=str(tmp_path / "cann"))
    assert done.returncode == 3
    assert re.fullmatch(r"run.py: CANN 5.1 \(.*\) does not fit MindSpore [\d.]+, which works with [\d., ]+; source the "
                        r"set_env.sh of one of these, or add --any-cann to try\n", done.stderr)


class Running:
    """A run.py that is at work, and what it has said."""

    def __init__(self, kit: Path, *arguments: object, python: Path | str = sys.executable):
        clean = {"PATH": os.defpath, "HOME": str(kit), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([python, "-I", str(kit / "run.py"), *map(str, arguments)], cwd=kit.parent,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean, bufsize=0)
        self.said = ""

    def until(self, text: str, seconds: float = 200.0) -> None:
        """Waits until it says so."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while text not in self.said:
            ready, _, _ = select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))
            piece = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert piece, f"it did not say {text!r}: {self.said}"
            self.said += piece.decode()

    def workers(self) -> list[int]:
        """Its children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """How it ends on a signal, and all that it said."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=120)
        self.said += out.decode()
        return self.process.returncode, self.said


def _gone(pids: list[int]) -> bool:
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_whatever_ends_it_no_more_than_a_step_is_lost(kit):
    first = Running(kit, "--rehearse", "--minutes", 20)
    first.until("exact: the small picture: ")
    workers = first.workers()
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert workers and _gone(workers), "no process keeps the device"
    assert not (kit / "result.trace").exists()

    second = Running(kit, "--rehearse", "--minutes", 20)
    second.until("default: the small picture: ")
    code, said = second.end(signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert f"1 of {len(steps_of(2, 'cpu'))} steps are done already" in said
    assert "ended by SIGINT; the same command goes on where it stopped" in said and "Traceback" not in said
    runs = read_traces(kit / "result.trace")
    assert set(runs) == {"exact.tiny", "default.tiny"}
    assert runs["exact.tiny"].stages == (PIXELS, *STAGES) and runs["exact.tiny"].level == "full"
    assert runs["exact.tiny"].about["environment"]["arithmetic"] == "exact"
    assert "exact.tiny     1 image: within tolerance: " in said
    assert f"dbnet compare result.trace:RUN MODEL --images IMAGES --pixels {PIXELS_OF}" in said

    elsewhere = json.loads((kit / "result.trace.work" / "exact" / "of.json").read_bytes())
    (kit / "result.trace.work" / "exact" / "of.json").write_text(json.dumps({**elsewhere, "mindspore": "2.3.1"}))
    before = (kit / "result.trace").read_bytes()
    refused = run(kit, "--rehearse", "--minutes", 20)
    assert refused.returncode == 3 and refused.stderr.count("\n") == 1
    assert "holds work of cpu, MindSpore 2.3.1 (mindspore was 2.3.1 and is " in refused.stderr
    assert (kit / "result.trace").read_bytes() == before
    assert (kit / "result.trace.work" / "exact" / "tiny.json").exists(), "nothing is deleted"
    third = Running(kit, "--rehearse", "--minutes", 20, "--force")
    third.until("exact: begins again, mindspore was 2.3.1 and is ")
    third.until(" steps are done already")
    assert "1 of " in third.said
    third.end(signal.SIGKILL)
    assert open_trace(f"{kit / 'result.trace'}:exact.tiny").recorded.images[0].name == "tiny"


@pytest.mark.long
def test_the_hour_in_a_bare_environment(kit, tmp_path):
    """From the preflight to the comparison at home, with NumPy and MindSpore alone; a process dies on the way."""
    python = bare_python(tmp_path / "env", "numpy", "mindspore")
    assert "ready: nothing was started" in run(kit, "--rehearse", "--preflight", python=python).stdout
    hour = Running(kit, "--rehearse", "--minutes", 20, "--out", kit / "my result+1.trace", python=python)
    hour.until("exact: the small picture: ")
    end = time.monotonic() + 60
    while not (workers := hour.workers()) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGSEGV)
    hour.until("to carry back")
    assert hour.process.wait(60) in (0, 3)
    done = run(kit, "--rehearse", "--minutes", 20, "--out", kit / "my result+1.trace", python=python)
    assert done.returncode == 0, done.stdout + done.stderr
    result = kit / "my result+1.trace"
    runs = read_traces(result)
    assert set(runs) == {"exact.tiny", "default.tiny", "exact", "default"}
    assert [len(runs[name].images) for name in ("exact", "default")] == [2, 2]
    assert result.stat().st_size < LIMIT
    assert runs["exact"].about["repeated"] == {"same": ["the small picture", "img_1.png", "img_2.png"], "different": []}
    assert len(runs["default"].about["timing"]["each"]) == 10
    for name in ("exact.tiny", "exact"):
        same = dbnet("compare", f"{result}:{name}", f"{kit / 'reference.trace'}:{name.replace('exact', 'reference')}")
        assert "within tolerance" in same.stdout
    again = run(kit, "--rehearse", "--minutes", 20, "--out", result, python=python)
    assert again.returncode == 0 and "steps are done already" in again.stdout


@pytest.mark.long
def test_no_more_than_the_minutes_that_there_are(kit):
    began = time.monotonic()
    done = run(kit, "--rehearse", "--minutes", 0.5)
    assert done.returncode in (0, 3)
    assert time.monotonic() - began < 30 + 10
    assert "left out for want of time: " in done.stdout or "repeat of img_2.png" in done.stdout
