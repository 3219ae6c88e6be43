"""`dbnet fetch` as it is typed: what it prints where, its exit codes, and what a fetched file is good for."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import converters
from converters.load import load_model
from dbnet.cli.fetch import fetch as command
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from tests import fetch_server as wire
from tests.fetch_server import BODY, Server, write_table

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/published.md").read_text(encoding="utf-8")
NAME = f"dbnet_resnet50-{wire.digest(BODY)}.ckpt"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    for name in (*wire.PROXIES, "DBNET_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DBNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dbnet.fetch_http.time.sleep", lambda _: None)


@pytest.fixture
def table(tmp_path) -> Path:
    return write_table(tmp_path)


def run(*arguments, code=0):
    done = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=True)
    failed = isinstance(done.exception, DbnetError)
    assert (3 if failed else done.exit_code) == code, (done.output, done.exception)
    return str(done.exception) if failed else done


def test_the_path_alone_is_on_standard_output(table, tmp_path):
    with Server(wire.sending(1000)) as server:
        done = run("dbnet_resnet50", "--table", table, "--mirror", server.url)
    assert done.stdout == f"{tmp_path}/cache/{NAME}\n"
    assert re.sub(r"\S+/cache/", "", done.stderr).splitlines() == [
        "dbnet: the connection broke off after 1,000 of 300,001 bytes; trying again in 1 s",
        "dbnet_resnet50 icdar15: DBNet with ResNet-50, trained on ICDAR2015, Ascend 910, 1 card",
        "published: f-score 85.05 % by MindOCR's own metric, on ICDAR2015",
        f"downloaded; SHA-256 begins with {wire.digest(BODY)}, as it must",
        f"next: dbnet evaluate -c db_r50_icdar15 {NAME} --root DATASET_ROOT",
        f"      dbnet convert {NAME} dbnet_resnet50.pth"]
    assert run("db_r50_icdar15", "--table", table, "-q", "--offline").stderr == ""
    told = json.loads(run("dbnet_resnet50", "--table", table, "--offline", "--json").stdout)
    assert (told["how"], told["variant"], Path(told["path"]).read_bytes()) == ("cached", "icdar15", BODY)


def test_a_fetched_file_is_a_model(tmp_path):
    weights = seeded_weights(SPECS["db_mv3_paddle"])
    converters.save_weights(weights, tmp_path / "m.ckpt", spec="db_mv3_paddle")
    body = (tmp_path / "m.ckpt").read_bytes()
    with Server(wire.sending(len(body) // 2), body=body) as server:
        done = run("dbnet_resnet50", "--table", write_table(tmp_path, body), "--mirror", server.url)
    assert load_model(Path(done.stdout.strip())).record.spec.name == "db_mv3_paddle"


def test_the_mirror_and_the_cache_of_the_environment(table, tmp_path, monkeypatch):
    monkeypatch.setenv("DBNET_CACHE", str(tmp_path / "elsewhere"))
    with Server() as server:
        monkeypatch.setenv("DBNET_MIRROR", f"{server.url}/base/")
        assert run(NAME, "--table", table).stdout == f"{tmp_path}/elsewhere/{NAME}\n"
    assert server.asked[0][0] == f"/base/kit/{NAME}"


def test_out_is_a_file_or_a_folder(table, tmp_path):
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / NAME).write_bytes(BODY)
    (tmp_path / "models").mkdir()
    where = ["dbnet_resnet50", "--table", table, "--from", tmp_path / "usb"]
    assert run(*where, "-o", tmp_path / "models").stdout == f"{tmp_path}/models/{NAME}\n"
    assert run(*where, "-o", tmp_path / "my.ckpt").stdout == f"{tmp_path}/my.ckpt\n"
    assert "is no folder that exists, and no name of a .ckpt file" in run(*where, "-o", tmp_path / "new", code=3)
    new = f"{tmp_path}/new/models/"
    nothing = ["dbnet_resnet50", "--table", table, "--offline"]
    assert "--offline forbids" in run(*nothing, "-o", new, code=3) and not (tmp_path / "new").exists()
    assert run(*where, "-o", new).stdout == f"{new}{NAME}\n" and run(*where, "-o", new).stdout == f"{new}{NAME}\n"
    (tmp_path / "taken").write_bytes(b"")
    assert "cannot be created (File exists)" in run(*where, "-o", f"{tmp_path}/taken/", code=3)
    (tmp_path / "my.ckpt").write_bytes(b"mine")
    assert "add --force" in run(*where, "-o", tmp_path / "my.ckpt", code=3)
    run(*where, "-o", tmp_path / "my.ckpt", "--force")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["dbnet_resnet50"], 2, "published in 9 variants; add --variant icdar15"),
    (["dbnet_resnet5"], 3, "did you mean dbnet_resnet50"),
    (["dbnet_resnet50", "--variant", "icdar15", "--offline"], 3, "--offline forbids"),
    (["dbnet_resnet50", "--variant", "icdar15", "--from", "/nowhere"], 3, "no such folder"),
    (["dbnet_resnet50", "--from", "a", "--mirror", "http://b"], 2, "give one of them"),
    (["--from", ""], 2, "the path is empty"),
    (["dbnet_resnet50", "--mirror", "b"], 3, "no address of a mirror"),
    (["--out", "x.ckpt"], 2, "--out wants a NAME"),
    (["--force"], 2, "--force wants a NAME"),
    (["--from", "x"], 2, "--from wants a NAME"),
    (["--tries", "5"], 2, "--tries wants a NAME"),
    (["dbnet_resnet50", "--list", "--out", "x.ckpt"], 2, "--list only lists; leave out --out"),
    (["dbnet_resnet50", "--list", "--mirror", "http://x"], 2, "--list only lists; leave out --mirror"),
    (["dbnet_resnet50", "--check", "--force"], 2, "--check only verifies; leave out --force"),
    (["--check", "--list"], 2, "--check only verifies; leave out --list"),
    (["--check", "--variant", "general"], 2, "--variant of --check wants a NAME"),
    (["dbnet_resnet18", "--out", ""], 2, "the path is empty"),
    (["dbnet_resnet18", "--json", "x.txt"], 2, "(x.txt); a file of --json ends in .json, any other is written --json="),
    (["--list", "yolo"], 3, "no published weights"),
    (["--list", "--variant", "yolo"], 3, "has no variant yolo"),
    (["--list", "dbnet_resnet50_td500", "--format", "mindir"], 3, "is not published as .mindir"),
    (["--format", "pth"], 2, "'pth' is not one of"),
    (["--table", "/nowhere.yaml"], 3, "cannot be read (No such file or directory); give a table of downloads in YAML"),
    (["--table", "/dev/null"], 3, "is empty; a table of downloads has recipes with rows"),
    (["--timeout", "0"], 2, "--timeout"),
    (["a", "b"], 2, "unexpected extra argument"),
])
def test_what_is_typed_wrong(arguments, code, words):
    done = run(*arguments, code=code)
    assert words in (done if isinstance(done, str) else done.output)


def test_json_into_a_file_of_any_name(tmp_path):
    run("--json", tmp_path / "a.json")
    run(f"--json={tmp_path / 'a.txt'}")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "a.txt").read_text() != ""


def test_an_interrupt_before_the_first_byte(table, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr("dbnet.fetch.fetch", stopped)
    assert run("dbnet_resnet50", "--table", table, code=3) == "interrupted; nothing was written"


def test_the_list_can_be_narrowed():
    assert len(json.loads(run("dbnet_resnet18", "--list", "--json").stdout)) == 7
    assert len(json.loads(run("--format", "mindir", "--json").stdout)) == 6
    assert len(json.loads(run("--variant", "general", "--json").stdout)) == 4


def test_check(table, tmp_path):
    check = ["--table", table, "--check"]
    assert "holds no published weights" in run(*check).stdout
    assert "is not there; fetch it without --check" in run("dbnet_resnet50", *check, code=3)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / NAME).write_bytes(BODY)
    assert f"{cache / NAME}: right: dbnet_resnet50 icdar15, SHA-256" in run(*check).stdout
    assert run("dbnet_resnet50", *check).stdout == run(*check).stdout
    (tmp_path / "renamed (1).ckpt").write_bytes(BODY)
    assert "right: dbnet_resnet50 icdar15" in run(tmp_path / "renamed (1).ckpt", *check).stdout
    (cache / NAME).write_bytes(BODY[:-1])
    assert f"WRONG: its SHA-256 begins with {wire.digest(BODY[:-1])}, not" in run(*check, code=1).stdout
    assert "WRONG" in run(cache / NAME, *check, code=1).stdout
    (tmp_path / "other").write_bytes(b"<html>")
    assert "WRONG: none of the 1 published files" in run(tmp_path / "other", *check, code=1).stdout
    [told] = json.loads(run(*check, "--json", code=1).stdout)
    assert told["right"] is False and told["name"] == "dbnet_resnet50"
    assert (cache / NAME).read_bytes() == BODY[:-1]  # verified only


def test_what_to_do_next_is_said_of_every_kind(tmp_path, monkeypatch):
    from dbnet.cli.fetch_print import describe
    from dbnet.fetch import Fetched
    from dbnet.published import entries
    printed = []
    monkeypatch.setattr("click.echo", lambda line, err=False: printed.append(line))
    for entry in entries():
        describe(entry, Fetched(Path("a b") / entry.file, "cached"))
    text = "\n".join(printed)
    assert text.count("on 598 images that the seed chose by hand and does not name (a private test set)") == 4
    assert "next: dbnet train -c db_r50_ctw1500 -o model.pretrained='a b/dbnet_resnet50_synthtext-40655acb.ck" in text
    assert "next: dbnet train -c db_mobilenetv3_icdar15 -o model.backbone.pretrained='a b/mobilenet" in text
    assert "next: dbnet detect -m 'a b/dbnetpp_resnet50_ch_en_general-884ba5b9.ckpt' IMAGES" in text
    assert "input (1, 3, 736, 1280)" in text and text.count("next: dbnet inspect") == 6


def test_an_interrupt_keeps_the_bytes(table, tmp_path):
    with Server(wire.stalling) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "dbnet", "fetch", "dbnet_resnet50", "--table", str(table), "--mirror", server.url],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        part = tmp_path / "cache" / f"{NAME}.part"
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size == 1000) and time.monotonic() < deadline:
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=20)
    assert (process.returncode, printed) == (3, "")
    assert errors == (f"dbnet: interrupted; 1,000 bytes are kept in {part}, and the same command goes on from there\n")
    with Server() as server:
        run("dbnet_resnet50", "--table", table, "--mirror", server.url)
    assert (tmp_path / "cache" / NAME).read_bytes() == BODY


def _read(terminal: int) -> bytes:
    """What it shows; nothing when the other end is closed, which Linux tells by an error."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_a_terminal_gets_a_bar(table, tmp_path):
    """And nothing else does; see the test of standard error above."""
    with Server(wire.sending(1000)) as server:
        arguments = [sys.executable, "-m", "dbnet", "fetch", "dbnet_resnet50", "--table", str(table), "--mirror",
                     server.url]
        ours, theirs = os.openpty()
        seen: list[bytes] = []
        reader = threading.Thread(target=lambda: seen.extend(iter(lambda: _read(ours), b"")), daemon=True)
        reader.start()  # else a full terminal would hold the command up
        done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False,
                              env={**os.environ, "TERM": "xterm", "COLUMNS": "200"})
        os.close(theirs)
        reader.join(10)
        os.close(ours)
    shown = b"".join(seen).decode()
    assert (done.returncode, done.stdout.decode()) == (0, f"{tmp_path}/cache/{NAME}\n"), shown
    assert "━" in shown and "trying again" in shown and "kB" in shown


# The page ------------------------------------------------------------------------------------------------------------


def test_the_session_of_the_page_is_real(tmp_path):
    [block] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    parts = re.split(r"^\$ dbnet (.*)\n", block, flags=re.MULTILINE)
    assert len(parts) == 1 + 2 * 3
    for typed, printed in zip(parts[1::2], parts[2::2], strict=True):
        done = subprocess.run([sys.executable, "-m", "dbnet", *shlex.split(typed)], cwd=tmp_path, text=True,
                              capture_output=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""})
        assert done.stdout + done.stderr == printed
        assert done.returncode == (2 if "Usage" in printed else 3)


def test_the_commands_of_the_page_are_understood():
    commands = re.findall(r"^(?:\w+=\S+ )*dbnet fetch ([^#\n]*)", PAGE, re.MULTILINE)
    assert len(commands) > 6
    for typed in commands:
        with command.make_context("fetch", shlex.split(typed)) as context:
            assert set(context.params) >= {"name", "variant"}
