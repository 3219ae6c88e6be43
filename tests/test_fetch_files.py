"""What is there already, folders to copy from, disks that do not want a file, and two processes that want the same."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from dbnet.errors import DbnetError
from dbnet.fetch import Means, cache_folder, fetch, is_right
from dbnet.fetch_http import Pace
from dbnet.fetch_part import locked
from tests import fetch_server as wire
from tests.fetch_server import BODY, Client, Server, sending

pytestmark = pytest.mark.usefixtures("no_proxies")


def test_a_right_file_is_not_fetched_again(client):
    with Server() as server:
        client(server)
        assert client(server).how == "cached"
    assert len(server.asked) == 1
    assert fetch(client.entry, Means(client.cache, offline=True)).how == "cached"


def test_a_wrong_file_in_the_cache_is_told_and_replaced(client):
    client.cache.mkdir()
    client.target.write_bytes(BODY[:-1])
    with pytest.raises(DbnetError, match=r"SHA-256 begins .*--offline forbids"):
        fetch(client.entry, Means(client.cache, offline=True))
    with Server(wire.answering(404)) as server:
        with pytest.raises(DbnetError, match="404"):
            client(server)
        assert client.target.read_bytes() == BODY[:-1]
        assert client(server).how == "downloaded"
    assert "fetched again" in client.notes[-1] and client.target.read_bytes() == BODY


def test_out_is_another_place_and_a_foreign_file_stays(client, tmp_path):
    out = tmp_path / "mine.ckpt"
    out.write_bytes(b"mine")
    with Server() as server:
        with pytest.raises(DbnetError, match=r"exists, and its SHA-256.*--force"):
            client(server, out=out)
        assert out.read_bytes() == b"mine" and not server.asked
        fetch(client.entry, Means(client.cache, mirror=server.url, force=True), out)
    assert out.read_bytes() == BODY and client.left() == []
    client.cache.mkdir()
    shutil.copy(out, client.target)
    again = tmp_path / "again.ckpt"
    assert fetch(client.entry, Means(client.cache, offline=True), again).how == "copied"
    assert again.read_bytes() == BODY
    with pytest.raises(DbnetError, match="no such folder"):
        fetch(client.entry, Means(client.cache, offline=True), tmp_path / "a/b.ckpt")


def test_a_folder_is_never_changed(client, tmp_path):
    folder = tmp_path / "usb"
    (folder / "a/b").mkdir(parents=True)
    (folder / client.entry.file).write_bytes(b"<html>")
    (folder / "a/b" / client.entry.file).write_bytes(BODY)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    notes: list[str] = []
    means = Means(client.cache, folder, tell=notes.append)
    assert fetch(client.entry, means).how == "copied"
    assert client.target.read_bytes() == BODY and is_right(client.target, client.entry)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert len(notes) == 1 and "web page" in notes[0]
    client.target.unlink()
    assert fetch(client.entry, Means(client.cache, folder / "a/b" / client.entry.file)).how == "copied"


@pytest.mark.parametrize(("content", "words"), [
    (None, "is not there"), (BODY[:9], r"is there, but its SHA-256.*9 bytes")])
def test_a_folder_without_it(client, tmp_path, content, words):
    if content:
        (tmp_path / client.entry.file).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DbnetError, match=words):
        fetch(client.entry, Means(client.cache, tmp_path))
    with pytest.raises(DbnetError, match="no such folder"):
        fetch(client.entry, Means(client.cache, tmp_path / "nowhere"))
    assert client.left() == [] and not client.cache.exists()


def test_a_source_that_changes_while_it_is_copied(client, tmp_path, monkeypatch):
    (tmp_path / client.entry.file).write_bytes(BODY)
    monkeypatch.setattr("dbnet.fetch._copy", lambda source, target: target.write(b"half"))
    with pytest.raises(DbnetError, match="changed while it was copied"):
        fetch(client.entry, Means(client.cache, tmp_path))
    assert client.left() == []


def test_offline_means_it(client):
    with Server() as server, pytest.raises(DbnetError, match="is not there, and --offline"):
        fetch(client.entry, Means(client.cache, mirror=server.url, offline=True))
    assert not server.asked and not client.cache.exists()


# The disk ------------------------------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be(client, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with Server() as server, pytest.raises(DbnetError, match=r"cannot be created .*--cache"):
        client(server)


@pytest.mark.parametrize("obstacle", ["target", "part"])
def test_a_folder_in_the_way(client, obstacle):
    getattr(client, obstacle).mkdir(parents=True)
    with Server() as server, pytest.raises(DbnetError, match=r"is a folder|cannot be written \(Is a directory"):
        client(server)


def test_a_full_disk(client, monkeypatch):
    def full(stream, chunk):
        stream.write(chunk[:100])
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("dbnet.fetch_http.write_all", full)
    with Server() as server, pytest.raises(DbnetError, match=r"cannot be written .the disk is full.; make room"):
        client(server)
    assert client.part.read_bytes() == BODY[:100]


def test_no_room_is_told_before(client, monkeypatch):
    room = os.statvfs_result((4096, 4096, 9, 9, 9, 9, 9, 9, 0, 255))
    monkeypatch.setattr("os.fstatvfs", lambda _: room)
    with Server() as server, pytest.raises(DbnetError, match="no room for the 300,001 bytes"):
        client(server)
    assert client.left() == []


def test_a_link_is_followed(client, tmp_path):
    client.cache.mkdir()
    client.target.symlink_to(tmp_path / "real.ckpt")
    with Server() as server:
        client(server)
    assert client.target.is_symlink() and (tmp_path / "real.ckpt").read_bytes() == BODY


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DBNET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache/dbnet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache/dbnet"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/dbnet")
    monkeypatch.setenv("DBNET_CACHE", "here")
    assert cache_folder() == Path("here") and cache_folder(Path("x")) == Path("x")


# Two at once ---------------------------------------------------------------------------------------------------------


def test_two_at_once_fetch_it_once(client):
    clients = [Client(client.cache.parent, client.entry) for _ in range(4)]

    def slowly(handler):
        time.sleep(0.3)
        wire.properly(handler)

    hows: list[str] = []
    with Server(slowly) as server:
        threads = [threading.Thread(target=lambda one=one: hows.append(one(server).how)) for one in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert sorted(hows) == ["cached", "cached", "cached", "downloaded"] and len(server.asked) == 1
    assert client.left() == [client.entry.file]
    assert sum("another process is fetching" in note for one in clients for note in one.notes) == 3


def test_one_that_fails_leaves_its_bytes_to_the_next(client):
    first, second = Client(client.cache.parent, client.entry), client
    with Server(sending(1000)) as server:
        with pytest.raises(DbnetError):
            first(server, Pace(tries=1))
        second(server)
    assert server.asked[1][1]["Range"] == "bytes=1000-"


def test_one_that_holds_on_and_writes_nothing(client):
    client.cache.mkdir()
    with locked(client.part, 1, print), Server() as server:
        with pytest.raises(DbnetError, match="another process holds it"):
            client(server, Pace(timeout=0.1))
        assert not server.asked


def test_without_locks(client, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")
    monkeypatch.setattr("fcntl.flock", none)
    with Server() as server:
        assert client(server).how == "downloaded"
