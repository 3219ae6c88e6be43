"""Every bad input of the command line: one line, exit code 3, the target untouched, nothing half-written."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import converters
from converters.check import weight_map
from converters.formats import codec
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from tests.running import command

SMALL = "db_mv3_paddle"


def process(*arguments, **kwargs) -> subprocess.CompletedProcess:
    """In a process of its own; `command` for the many that need none."""
    return subprocess.run([sys.executable, "-m", "dbnet", *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, check=False, **kwargs)


def require_refused(done: subprocess.CompletedProcess, *words: str, code: int = 3) -> None:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("dbnet: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    weights = seeded_weights(SPECS[SMALL])
    for suffix in ("ckpt", "pth", "onnx", "safetensors"):
        converters.save_weights(weights, folder / f"m.{suffix}", spec=SMALL)
    return {suffix: folder / f"m.{suffix}" for suffix in ("ckpt", "pth", "onnx", "safetensors")}


def write(path: Path, tensors: dict, kind: str = "pth") -> Path:
    with path.open("w+b") as stream:
        codec(kind).write(stream, tensors, None)
    return path


def torch_names() -> dict[str, np.ndarray]:
    return weight_map("torch", SPECS[SMALL]).inverse(seeded_weights(SPECS[SMALL]))


@pytest.mark.parametrize("suffix", ["ckpt", "pth", "onnx", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_truncated(tmp_path, good, suffix, share):
    raw = good[suffix].read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(raw[:int(len(raw) * share)])
    done = command("convert", tmp_path / f"a.{suffix}", tmp_path / ("b.pth" if suffix != "pth" else "b.ckpt"))
    require_refused(done, f"a.{suffix}", *(["empty"] if share == 0 else []))
    assert [p.name for p in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_truncated_between_two_records(tmp_path):
    weights = seeded_weights(SPECS["dbnet_mobilenetv3"])
    names = list(weights)
    write(tmp_path / "a.ckpt", {name: weights[name] for name in names[:200]}, "ckpt")
    require_refused(command("convert", tmp_path / "a.ckpt", tmp_path / "b.pth"), " missing", names[200])


@pytest.mark.parametrize(("name", "content", "word"), [
    ("a.pth", b"<!DOCTYPE html><html>sign in</html>", "web page"),
    ("a.ckpt", b"\n\n<html>404</html>" + b" " * 100, "web page"),
    ("a.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
    ("a.safetensors", b"random text that is nothing at all", "no format"),
    ("a.pth", b"\x1f\x8b\x08\x00" + b"\0" * 60, "archive"),
])
def test_not_weights(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    require_refused(command("convert", tmp_path / name, tmp_path / "b.safetensors"), name, word)


@pytest.mark.parametrize(("is_a", "named"), [
    ("ckpt", "pth"), ("pth", "ckpt"), ("onnx", "ckpt"), ("safetensors", "onnx"), ("pth", "safetensors")])
def test_wrong_suffix(tmp_path, good, is_a, named):
    (tmp_path / f"a.{named}").write_bytes(good[is_a].read_bytes())
    require_refused(command("convert", tmp_path / f"a.{named}", tmp_path / "b.safetensors"), f"a.{named}")


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("name", ["a.pth", "a.pdparams"])
def test_a_pickle_that_would_run_code(tmp_path, name):
    data = pickle.dumps({"state_dict": Evil()}, protocol=2)
    if name.endswith("pth"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")
    else:
        (tmp_path / name).write_bytes(data)
    done = process("convert", tmp_path / name, tmp_path / "b.ckpt", cwd=tmp_path, env={
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    require_refused(done, name, "system")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("change", "words"), [
    ("shape", ["of another shape", "neck.out.1.weight"]), ("nan", ["NaN or Inf", "neck.out.1.weight"]),
    ("inf", ["NaN or Inf"]), ("missing", ["1 missing", "neck.out.1.weight"]),
    ("extra", ["1 unexpected", "neck.out.7.weight"]), ("negative", ["negative variance"]),
    ("integer", ["of another type", "int32"])])
def test_faulty_tensors(tmp_path, change, words):
    tensors, name = torch_names(), "neck.out.1.weight"
    changed = tensors[name].copy()
    if change == "shape":
        tensors[name] = changed[:, :5]
    elif change in ("nan", "inf"):
        changed.flat[77] = np.nan if change == "nan" else -np.inf
        tensors[name] = changed
    elif change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["neck.out.7.weight"] = changed
    elif change == "integer":
        tensors[name] = np.ones(changed.shape, np.int32)
    else:
        tensors["head.segm.1.running_var"] = -tensors["head.segm.1.running_var"]
    write(tmp_path / "a.pth", tensors)
    require_refused(command("convert", tmp_path / "a.pth", tmp_path / "b.ckpt"), "a.pth", *words)
    assert not (tmp_path / "b.ckpt").exists()


def test_training_state_beside_the_weights(tmp_path):
    weights = seeded_weights(SPECS[SMALL])
    tensors = dict(weights)
    tensors.update({f"ema.{n}": a * np.float32(0.5) for n, a in weights.items() if not n.endswith("variance")})
    tensors.update({f"ema.{n}": a for n, a in weights.items() if n.endswith("variance")})
    tensors.update({f"moments.{n}": a * 0 for n, a in weights.items() if n.endswith(("weight", "gamma", "beta"))})
    write(tmp_path / "a.ckpt", tensors, "ckpt")
    require_refused(command("convert", tmp_path / "a.ckpt", tmp_path / "b.pth"), "training file", "--take plain",
                    "--take ema")
    assert not (tmp_path / "b.pth").exists()
    for take, factor in (("plain", 1.0), ("ema", 0.5)):
        done = command("convert", tmp_path / "a.ckpt", tmp_path / f"{take}.pth", "--take", take)
        assert done.returncode == 0, done.stderr
        loaded = converters.load_weights(tmp_path / f"{take}.pth")
        assert np.array_equal(loaded["neck.out.0.weight"], weights["neck.out.0.weight"] * np.float32(factor))


def test_target_exists(tmp_path, good):
    (tmp_path / "b.pth").write_text("mine")
    require_refused(command("convert", good["ckpt"], tmp_path / "b.pth"), "--force")
    assert (tmp_path / "b.pth").read_text() == "mine"
    assert command("convert", good["ckpt"], tmp_path / "b.pth", "--force").returncode == 0


def test_a_failing_conversion_leaves_a_forced_target_alone(tmp_path, good):
    (tmp_path / "b.pth").write_text("mine")
    (tmp_path / "a.ckpt").write_bytes(good["ckpt"].read_bytes()[:-1000])
    require_refused(command("convert", tmp_path / "a.ckpt", tmp_path / "b.pth", "--force"))
    assert (tmp_path / "b.pth").read_text() == "mine"


@pytest.mark.parametrize("link", [False, True])
def test_source_is_target(tmp_path, good, link):
    source = tmp_path / "a.ckpt"
    source.write_bytes(good["ckpt"].read_bytes())
    target = source
    if link:
        target = tmp_path / "b.ckpt"
        target.symlink_to(source)
    before = source.read_bytes()
    require_refused(command("convert", source, target, "--force"), "source itself")
    assert source.read_bytes() == before


def test_no_such_folder_or_file(tmp_path, good):
    require_refused(command("convert", good["ckpt"], tmp_path / "no" / "b.pth"), "no such folder")
    require_refused(command("convert", tmp_path / "no.ckpt", tmp_path / "b.pth"), "no.ckpt", "cannot be read")
    require_refused(command("convert", tmp_path, tmp_path / "b.pth"), "is a folder")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX resource limits")
def test_full_disk(tmp_path, good):
    """A file size limit makes the kernel refuse the write, as a full disk does."""
    script = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
              "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)); sys.argv[0] = 'dbnet';"
              "from dbnet.__main__ import main; main()")
    for suffix in ("pth", "onnx", "safetensors", "ckpt"):
        source = good["safetensors" if suffix == "ckpt" else "ckpt"]
        done = subprocess.run([sys.executable, "-c", script, "convert", str(source), str(tmp_path / f"b.{suffix}")],
                              capture_output=True, text=True, timeout=60, check=False)
        require_refused(done, "could not be written", "nothing was changed")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_unwritable_folder(good):
    if os.geteuid() == 0:  # root may write anywhere, so ask as nobody, who must be able to read the rest
        script = ("import os, sys; from dbnet.__main__ import main; import converters.convert, converters.pth_file,"
                  "converters.ckpt_file, dbnet.cli.convert, numpy; os.seteuid(65534); main()")
        command = [sys.executable, "-c", script]
    else:
        command = [sys.executable, "-m", "dbnet"]
    with tempfile.TemporaryDirectory() as name:  # every pytest that starts locks pytest's own folder again
        folder = Path(name)
        shutil.copy(good["ckpt"], folder / "a.ckpt")
        folder.chmod(0o555)
        done = subprocess.run([*command, "convert", str(folder / "a.ckpt"), str(folder / "b.pth")], capture_output=True,
                              text=True, timeout=60, check=False)
        folder.chmod(0o755)
    require_refused(done, "no permission")


@pytest.mark.parametrize("shape", [(100, 100), (0, 32), (736, 1281), (-32, 64)])
def test_sizes_must_be_multiples_of_32(tmp_path, good, shape):
    done = command("export", good["ckpt"], tmp_path / "b.onnx", "--data-shape", *shape)
    require_refused(done, "multiples of 32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["convert"], ["nonsense"], ["convert", "a.ckpt", "b.pth", "--frobnicate"],
                                       ["compare", "a.ckpt"], ["convert", "a", "b", "--set", "x"]])
def test_wrong_usage_is_exit_2(arguments):
    done = command(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_unknown_names_are_told(tmp_path, good):
    require_refused(command("convert", good["ckpt"], tmp_path / "b.pth", "--to", "mmocr9"), "choose one of")
    require_refused(command("convert", good["ckpt"], tmp_path / "b.pth", "--spec", "dbnet_r18"), "dbnet_resnet18")
    require_refused(command("convert", good["ckpt"], tmp_path / "b.bin"), "choose .ckpt")
