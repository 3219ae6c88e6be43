"""What --runner names: typing it wrong is a matter of usage, an interpreter that is not there is told in one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from dbnet.__main__ import cli
from dbnet.cli.options import RunnerType
from dbnet.errors import DbnetError
from dbnet.onnx_providers import PROVIDERS, provider_of, short_name
from dbnet.runner_names import FRAMEWORKS, RUNNERS, VARIANTS, RunnerName, RunnerNameError, find_python, parse_runner
from tests.running import command


@pytest.fixture
def program(tmp_path) -> Path:
    """An environment's folder with an interpreter that is a link, as in a venv."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return python


@pytest.mark.parametrize("name", RUNNERS)
def test_a_framework_of_this_environment(name):
    assert parse_runner(name) == RunnerName(name)
    assert str(parse_runner(name)) == name


@pytest.mark.parametrize(("text", "written"), [
    *((f"{name}:{variant}", None) for name, variants in VARIANTS.items() for variant in variants),
    ("mindspore:o1", "mindspore:O1"), ("mindspore:MINDIR", "mindspore:mindir"), ("torch:Compile", "torch:compile"),
    ("openvino:AUTO", "openvino:auto"), ("onnxruntime:CANNExecutionProvider", "onnxruntime:cann"),
    ("onnxruntime:CUDA", "onnxruntime:cuda"), ("onnxruntime:tensorrtexecutionprovider", "onnxruntime:tensorrt"),
    ("onnxruntime:DirectML", "onnxruntime:dml"), ("onnxruntime:npu", "onnxruntime:cann"),
    ("onnxruntime:NewExecutionProvider", "onnxruntime:NewExecutionProvider")])
def test_a_variant(text, written, program):
    found = parse_runner(text)
    assert str(found) == found.here == (written or text) and found.python is None
    assert parse_runner(str(found)) == found
    there = parse_runner(f"{text}@{program}")
    assert there == RunnerName(found.framework, program, found.variant) and parse_runner(str(there)) == there
    assert found.says_device == (found.framework not in ("torch", "mindspore"))


@pytest.mark.parametrize("name", PROVIDERS)
def test_providers_have_one_name(name):
    provider = provider_of(name)
    assert short_name(name) == short_name(provider.name) == short_name(provider.name.upper()) == name
    for kind in provider.kinds or ("cpu",):
        settings = provider.settings(kind, 1)
        assert settings[0][0] == provider.name and all(isinstance(value, str) for value in settings[0][1].values())
        assert ("1" in settings[0][1].get("device_id", "") + settings[0][1].get("device_type", "")) == (kind != "cpu")


def test_frameworks_come_first():
    assert RUNNERS[:len(FRAMEWORKS)] == FRAMEWORKS == ("torch", "mindspore", "onnxruntime")
    assert set(VARIANTS) == set(RUNNERS)


@pytest.mark.parametrize("text", ["env/bin/python", "./env/bin/python", "env", "env/", "link/../env/bin/python",
                                  "~/env/bin/python", "{tmp}/env/bin/python", "a@b/bin/python"])
def test_an_interpreter_of_another(text, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "env").symlink_to(tmp_path / "env")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")  # link/.. is elsewhere, not here
    (tmp_path / "a@b").symlink_to(tmp_path / "env")
    found = parse_runner(f"mindspore@{text.format(tmp=tmp_path)}")
    assert found.framework == "mindspore"
    assert found.python is not None and found.python.is_absolute()
    assert found.python.name == "python" and found.python.is_symlink(), "a link that is followed loses the environment"
    assert os.path.samefile(found.python, program)
    assert parse_runner(str(found)) == found


def test_a_command_of_the_path(program, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.chdir(tmp_path)
    assert find_python("python") == program


@pytest.mark.parametrize(("text", "told"), [
    ("foo", "unknown runner 'foo'"), ("foo@/x", "unknown runner 'foo@/x'"), ("@/x/python", "write torch@/x/python"),
    ("", "unknown runner ''"), ("Torch", "did you mean torch?"), ("torch@", "the interpreter is missing"),
    ("onnxruntme", "did you mean onnxruntime?"), ("ort", "did you mean onnxruntime?"), ("cv2", "did you mean opencv?"),
    ("pytorch:compile", "did you mean torch?"), (":compile", "unknown runner ':compile'; choose from torch"),
    ("mindspore:O3", "mindspore has graph, O0, O1, O2, mindir"), ("torch:", "a colon and no variant after it"),
    ("torch:compiled", "did you mean torch:compile?"), ("opencv:cpu", "opencv has none: write opencv"),
    ("onnxruntime:cuad", "did you mean onnxruntime:cuda?"), ("onnxruntime:ExecutionProvider", "unknown runner variant"),
    ("openvino:GPU:1", "--runner openvino:gpu --device NAME:1"), ("torch:compile:x", "unknown runner variant"),
    ("mindspore_lite:npu", "mindspore_lite has cpu, ascend"), ("torch:compile@", "write torch:compile@/path/to/env"),
    ("torch:O1", "torch has eager, compile"), ("torch: compile", "unknown runner variant"),
    ("torch@  ", "the interpreter is missing"), ("torch@a\0b", "is no path")])
def test_slips(text, told):
    with pytest.raises(RunnerNameError, match=told):
        parse_runner(text)
    if "\0" not in text:
        done = command("detect", "x.jpg", "-m", "x.ckpt", "--runner", text)
        assert done.returncode == 2 and told in " ".join(done.stderr.split())


@pytest.mark.parametrize(("text", "told"), [
    ("{tmp}/missing", "there is no such interpreter"), ("{tmp}/gone", "a link to /nowhere/python, which is gone"),
    ("{tmp}/plain", "may not be run"), ("{tmp}/empty", "a folder without bin/python"),
    ("no-such-command-anywhere", "there is no such interpreter"), ("~nobody-of-that-name/python", "looked up"),
    ("a" * 300, "File name too long")])
def test_what_is_not_there(text, told, tmp_path, monkeypatch):
    (tmp_path / "gone").symlink_to("/nowhere/python")
    (tmp_path / "plain").touch(mode=0o644)
    (tmp_path / "empty").mkdir()
    text = text.format(tmp=tmp_path)
    with pytest.raises(DbnetError, match=told) as failure:
        find_python(text)
    assert not isinstance(failure.value, RunnerNameError) and len(str(failure.value)) < 600
    for arguments in (["detect", "x.jpg", "-m", "x.ckpt", "--runner"], ["compare", "a.ckpt", "b.ckpt", "--runner-b"],
                      ["evaluate", "x.ckpt", "--root", ".", "--runner"]):
        done = command(*arguments, f"torch@{text}")
        assert done.returncode == 3 and told in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["detect", "compare", "evaluate"])
def test_every_command_says_so(name):
    text = " ".join(command(name, "--help").stdout.split())
    assert f"{'|'.join(RUNNERS)}][:VARIANT][@PYTHON]" in text and "another environment" in text


def test_names_are_completed():
    found = ShellComplete(cli, {}, "dbnet", "_X").get_completions(["detect", "--runner"], "")
    assert [item.value for item in found] == ["auto", *RUNNERS]
    for incomplete, wanted in [("mindspore:", ["graph", "O0", "O1", "O2", "mindir"]), ("torch:C", ["compile"]),
                               ("opencv:", []), ("nobody:", [])]:
        found = ShellComplete(cli, {}, "dbnet", "_X").get_completions(["detect", "--runner"], incomplete)
        assert [item.value for item in found] == [f"{incomplete.partition(':')[0]}:{name}" for name in wanted]
    assert RunnerType().convert("torch", None, None) == "torch"
    with pytest.raises(click.BadParameter):
        RunnerType().convert("auto", None, None)
