"""A server that misbehaves as it is told, and a table of downloads whose digests fit the bytes that it has."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dbnet.fetch import Fetched, Means, fetch
from dbnet.fetch_http import Pace
from dbnet.published import Entry, entries

BODY = b"\x0a" + np.random.default_rng(7).bytes(300_000)
ETAG = '"first"'
QUICK = Pace(timeout=5, tries=4, pause=0.01)
#: What a test takes out of its environment.
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:8]


def write_table(folder: Path, body: bytes = BODY) -> Path:
    """A table with one row, of one file."""
    table = folder / "table.yaml"
    table.write_text(f"""
db_r50_icdar15:
  - {{network: DBNet, backbone: ResNet-50, data: ICDAR2015, chip: "910", cards: 1, batch_size: 10, ms_per_step: 1,
     img_per_s: 1, fscore: 85.05, downloads: [https://download.invalid/kit/dbnet_resnet50-{digest(body)}.ckpt]}}
""", encoding="utf-8")
    return table


def entry_of(folder: Path, body: bytes = BODY) -> Entry:
    [entry] = entries(write_table(folder, body))
    return entry


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the next step of `server.script` says, and properly when there is none left."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        step = self.server.script.pop(0) if self.server.script else properly
        step(self)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on standard error."""

    def start(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def part(self) -> int | None:
        """The first byte that is asked for; None for all, or if the version is another one."""
        known = self.headers.get("If-Range", ETAG)
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked and known == self.server.etag else None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *script: Callable[[Handler], None], body: bytes = BODY) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.body, self.etag = list(script), body, ETAG
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.ends = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no fault."""

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        self.shutdown()
        self.server_close()


def properly(handler: Handler) -> None:
    sending(len(handler.server.body))(handler)


def sending(count: int) -> Callable[[Handler], None]:
    """At most so many of the bytes that are asked for, all of them announced."""
    def step(handler: Handler) -> None:
        body, start = handler.server.body, handler.part()
        if start is not None and start >= len(body):
            handler.start(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": 0})
            return
        headers: dict[str, object] = {"Content-Length": len(body) - (start or 0), "ETag": handler.server.etag}
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.start(200 if start is None else 206, headers)
        handler.wfile.write(body[start or 0:][:count])
    return step


def without_ranges(count: int = 1 << 30) -> Callable[[Handler], None]:
    def step(handler: Handler) -> None:
        handler.start(200, {"Content-Length": len(handler.server.body)})
        handler.wfile.write(handler.server.body[:count])
    return step


def answering(status: int, body: bytes = b"", **headers: object) -> Callable[[Handler], None]:
    """A header's name has _ for -."""
    def step(handler: Handler) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.start(status, {"Content-Length": len(body)} | named)
        handler.wfile.write(body)
    return step


def unannounced(handler: Handler) -> None:
    """Without a length: the end of the connection is the end of the file."""
    handler.start(200, {"Connection": "close"})
    handler.wfile.write(handler.server.body)


def in_chunks(count: int) -> Callable[[Handler], None]:
    """Chunked, so many bytes of it; broken off unless they are all."""
    def step(handler: Handler) -> None:
        handler.start(200, {"Transfer-Encoding": "chunked", "ETag": handler.server.etag})
        part = handler.server.body[:count]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        if count >= len(handler.server.body):
            handler.wfile.write(b"0\r\n\r\n")
    return step


def endless(handler: Handler) -> None:
    handler.start(200, {"Connection": "close"})
    while not handler.server.ends.is_set():
        handler.wfile.write(bytes(1 << 16))


def stalling(handler: Handler) -> None:
    handler.start(200, {"Content-Length": len(handler.server.body)})
    handler.wfile.write(handler.server.body[:1000])
    handler.wfile.flush()
    handler.server.ends.wait(20)


def trickling(handler: Handler) -> None:
    handler.start(200, {"Content-Length": len(handler.server.body)})
    for i in range(400):
        handler.wfile.write(handler.server.body[i:i + 1])
        handler.wfile.flush()
        if handler.server.ends.wait(0.05):
            return


def packed(handler: Handler) -> None:
    answering(200, gzip.compress(handler.server.body), Content_Encoding="gzip")(handler)


def wrong_part(handler: Handler) -> None:
    """206, but from the beginning."""
    body = handler.server.body
    handler.start(206, {"Content-Length": len(body), "Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"})
    handler.wfile.write(body)


def hanging_up(handler: Handler) -> None:
    handler.close_connection = True


def no_http(handler: Handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")


class Client:
    """Fetches into a cache of its own and keeps the notes."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        self.cache, self.entry = folder / "cache", entry
        self.notes: list[str] = []

    def __call__(self, server: Server | str, pace: Pace = QUICK, out: Path | None = None) -> Fetched:
        mirror = server if isinstance(server, str) else server.url
        return fetch(self.entry, Means(self.cache, mirror=mirror, pace=pace, tell=self.notes.append), out)

    @property
    def target(self) -> Path:
        return self.cache / self.entry.file

    @property
    def part(self) -> Path:
        return self.cache / f"{self.entry.file}.part"

    def left(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir()) if self.cache.exists() else []
