"""Fetching from a server that breaks off, lies and changes, over TLS, and through a proxy."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from dbnet.errors import DbnetError
from dbnet.fetch import Means, fetch
from dbnet.fetch_http import Pace
from tests import fetch_server as wire
from tests.fetch_server import BODY, QUICK, Server, sending

pytestmark = pytest.mark.usefixtures("no_proxies")


@pytest.mark.parametrize(("script", "requests"), [
    ([], 1),
    ([wire.unannounced], 1),
    ([wire.in_chunks(1 << 30)], 1),
    ([sending(1000)], 2),
    ([sending(1000), sending(5), sending(0)], 4),
    ([wire.in_chunks(1000)], 2),
    ([wire.hanging_up], 2),
    ([sending(1000), wire.hanging_up], 3),
    ([sending(1000), wire.without_ranges()], 2),
    ([wire.without_ranges(1000), wire.without_ranges(2000), wire.without_ranges()], 3),
    ([sending(1000), wire.wrong_part], 3),
    ([sending(1000), wire.answering(416)], 3),
    ([wire.answering(500), wire.answering(503, Retry_After=0), wire.answering(429, Retry_After="soon")], 4),
    ([wire.answering(302, Location="/kit/elsewhere.ckpt")], 2),
])
def test_it_arrives_in_the_end(client, script, requests):
    with Server(*script) as server:
        done = client(server)
    assert (done.how, done.path) == ("downloaded", client.target)
    assert client.target.read_bytes() == BODY
    assert client.left() == [client.entry.file]
    assert len(server.asked) == requests
    assert client.target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def test_only_what_is_missing_is_asked_for(client):
    with Server(sending(1000)) as server:
        client(server)
    (path, first), (_, second) = server.asked
    assert path == f"/kit/{client.entry.file}"
    assert "Range" not in first and first["Accept-Encoding"] == "identity"
    assert (second["Range"], second["If-Range"]) == ("bytes=1000-", wire.ETAG)
    assert client.notes == ["the connection broke off after 1,000 of 300,001 bytes; trying again in 0.01 s"]


@pytest.mark.parametrize("pace", [Pace(timeout=0.2, tries=2, pause=0.01), Pace(timeout=0.2, tries=1)])
@pytest.mark.parametrize(("step", "words"), [
    (wire.stalling, "nothing came for 0.2 s"), (wire.trickling, r"only \d+ bytes came in")])
def test_a_server_that_stops_is_given_up(client, step, words, pace):
    began = time.monotonic()
    with Server(step, step) as server, pytest.raises(DbnetError, match=words + ".* bytes are kept"):
        client(server, pace)
    assert time.monotonic() - began < 5
    assert client.part.stat().st_size > 0


@pytest.mark.parametrize(("script", "words"), [
    ([wire.answering(404)], r"has no such file \(404\)"),
    ([wire.answering(403, b"<html>")], r"refuses it \(403\)"),
    ([wire.answering(401)], r"wants a login \(401\)"),
    ([wire.answering(418)], r"\(418\)"),
    ([wire.answering(204)], "answered 204 and no file"),
    ([wire.answering(302, Location="http://127.0.0.1:1/x")], "no connection"),
    ([wire.answering(302, Location="file:///etc/passwd")], "nowhere that can be followed"),
    ([wire.answering(302, Location="ftp://127.0.0.1/x")], "which is not http"),
    ([wire.answering(302)], r"nowhere that can be followed \(302\)"),
    ([wire.packed], r"comes packed \(gzip\)"),
    ([wire.answering(200, b"<!DOCTYPE html><title>Login")], "it is a web page or a message of 27 bytes"),
    ([wire.answering(200, b'\n{"error": "quota"}')], "it is a web page or a message"),
    ([wire.answering(200, b"version https://git-lfs.github.com/spec/v1\noid")], "git-lfs pointer"),
    ([wire.answering(200)], "it is empty"),
    ([wire.answering(200, BODY[:-1] + b"x")], r"its SHA-256 begins with \w{8}, not with"),
    ([wire.answering(200, BODY + b"x")], "its SHA-256 begins"),
    ([wire.answering(200, BODY[:-1])], r"its SHA-256 begins.*300,000 bytes"),
    ([wire.answering(200, b"", Content_Length=1 << 40)], "is said to have 1,099,511,627,776 bytes"),
    ([wire.answering(200, b"", Content_Length="9" * 400)], r"is said to have 9[9,]+ \.\.\. [9,]+ bytes"),
    ([wire.answering(200, BODY, Content_Encoding="x" * 5000)], r"comes packed \(x+ \.\.\. x+\)"),
    ([wire.no_http] * 4, "does not speak HTTP"),
    ([wire.hanging_up] * 4, "broke off after 0 bytes, 4 times; nothing has arrived"),
    ([wire.answering(500)] * 4, "answered 500, 4 times"),
])
def test_a_refusal_is_one_line_and_leaves_nothing(client, script, words):
    with Server(*script) as server, pytest.raises(DbnetError, match=words) as caught:
        client(server)
    assert "\n" not in str(caught.value) and "/kit/" in str(caught.value) and len(str(caught.value)) < 400
    assert client.left() == []


def test_a_circle_of_redirects_ends(client):
    step = wire.answering(301, Location=f"/kit/{client.entry.file}")
    with Server(*[step] * 50) as server, pytest.raises(DbnetError, match="sends on in a circle"):
        client(server)


def test_an_endless_answer_ends(client):
    with Server(wire.endless) as server, pytest.raises(DbnetError, match="sends more than 1,000,000 bytes"):
        client(server, Pace(timeout=5, tries=1, limit=1_000_000))
    assert client.left() == []


def test_what_broke_off_is_gone_on_with_by_the_next_call(client):
    with Server(*[sending(1000)] * 4) as server, pytest.raises(DbnetError, match="4,000 bytes are kept"):
        client(server)
    with Server() as server:
        assert client(server).how == "downloaded"
    [(_, headers)] = server.asked
    # Another address: its version of the file is not known to be the same, the digest will tell.
    assert headers["Range"] == "bytes=4000-" and "If-Range" not in headers
    assert client.target.read_bytes() == BODY and client.left() == [client.entry.file]


def test_a_file_that_changed_meanwhile_is_fetched_whole(client):
    with Server(sending(1000), body=bytes(5000)) as server:
        server.script += [sending(0)] * 3
        with pytest.raises(DbnetError, match="are kept"):
            client(server)
        server.etag, server.body, server.asked[:] = '"second"', BODY, []
        client(server)
    [(_, headers)] = server.asked
    assert (headers["Range"], headers["If-Range"]) == ("bytes=1000-", wire.ETAG)
    assert client.target.read_bytes() == BODY


@pytest.mark.parametrize("kept", [bytes(1000), bytes(len(BODY)), bytes(len(BODY) + 1), b"<html>"], ids=len)
def test_parts_that_do_not_fit_are_fetched_again_at_once(client, kept):
    """Nothing says of which version the kept bytes are."""
    client.cache.mkdir()
    client.part.write_bytes(kept)
    with Server() as server:
        client(server)
    assert client.target.read_bytes() == BODY and client.left() == [client.entry.file]


def test_a_complete_part_needs_nothing(client):
    client.cache.mkdir()
    client.part.write_bytes(BODY)
    with Server() as server:
        client(server)
    assert len(server.asked) == 1 and client.target.read_bytes() == BODY


@pytest.mark.parametrize("memo", [b"\xff", b"[]", b'{"validator": "a\\r\\nX: y", "url": "u"}', b'{"url": 3}',
                                  b"[" * 9999])
def test_a_damaged_note_is_no_matter(client, memo):
    client.cache.mkdir()
    client.part.write_bytes(BODY[:10])
    (client.cache / f"{client.part.name}.json").write_bytes(memo)
    with Server() as server:
        client(server)
    assert "If-Range" not in server.asked[0][1] and client.left() == [client.entry.file]


def test_progress_restarts_the_count_of_tries(client):
    with Server(*[sending(30_000)] * 9) as server:
        client(server, Pace(timeout=5, tries=2, pause=0.01, brought=20_000))
    assert len(server.asked) == 10


def test_a_length_that_is_too_long_is_no_matter(client):
    step = wire.answering(200, BODY, Content_Length=len(BODY) + 10)
    with Server(*[step] * 4) as server:
        client(server)
    assert client.target.read_bytes() == BODY


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key.pem", "-out",
                    folder / "own.pem", "-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, capture_output=True)
    (folder / "both.pem").write_bytes((folder / "own.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return folder / "both.pem"


def secured(server: Server, certificate: Path) -> str:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.url.replace("http:", "https:")


def test_a_certificate_is_checked(client, certificate, monkeypatch):
    with Server() as server:
        address = secured(server, certificate)
        with pytest.raises(DbnetError, match=r"certificate cannot be trusted.*SSL_CERT_FILE"):
            client(address)
        assert not server.asked and client.left() == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert client(address).how == "downloaded"


def test_https_does_not_lead_to_http(client, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Server() as plain, Server(wire.answering(302, Location=f"{plain.url}/x")) as server:
        with pytest.raises(DbnetError, match=r"sends on to http:.*which is not https"):
            client(secured(server, certificate))
        assert not plain.asked


def test_http_may_lead_to_https(client, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Server() as safe:
        address = secured(safe, certificate)
        with Server(wire.answering(307, Location=f"{address}/x")) as server:
            assert client(server).how == "downloaded"


def test_no_server(client):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(DbnetError, match=r"no connection .*refused.*--mirror.*--from"):
        client(address)
    assert client.left() == []


def test_https_is_spoken_and_certificates_are_checked(client):
    with Server() as server, pytest.raises(DbnetError, match="no connection"):
        client(server.url.replace("http:", "https:"))


def test_a_proxy_of_the_environment_is_used(client, monkeypatch):
    with Server() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        client("http://mirror.invalid/base")
        assert proxy.asked[0][0] == f"http://mirror.invalid/base/kit/{client.entry.file}"
        client.target.unlink()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with Server() as server:
            client(server)
        assert len(proxy.asked) == len(server.asked) == 1


def test_a_proxy_is_asked_for_a_tunnel(client, monkeypatch):
    """It refuses one (it knows no CONNECT); the address of the table is https."""
    with Server() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(DbnetError, match=r"https://download\.invalid.*Tunnel.*the proxy of https_proxy;"):
            fetch(client.entry, Means(client.cache, pace=QUICK))


def test_a_login_reaches_the_mirror_only_and_is_never_shown(client):
    with Server() as other, Server(wire.answering(302, Location=f"{other.url}/x")) as server:
        client(server.url.replace("//", "//me:se%63ret@"))
        assert server.asked[0][1]["Authorization"] == "Basic bWU6c2VjcmV0"
        assert "Authorization" not in other.asked[0][1]
        client.target.unlink()
        server.script = [wire.answering(404)]
        with pytest.raises(DbnetError, match=r"http://127[^@]*404") as caught:
            client(server.url.replace("//", "//me:secret@"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mirror", ["", "mirror", "file:///srv", "ftp://u:pw@h/x", "http://", "http://h:99999", "/srv",
                                    "http://h/a b", "http://h/?x=1", "http://h\n", "http://" + "a" * 70 + ".x"])
def test_what_is_no_mirror(client, mirror):
    with pytest.raises(DbnetError, match="is no address of a mirror") as caught:
        client(mirror)
    assert "pw" not in str(caught.value)
