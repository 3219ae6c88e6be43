"""A file over HTTP into an open partial file: goes on where that ends, tries again, and never trusts the server.

The standard library's urllib: proxies by the usual variables (https_proxy, http_proxy, no_proxy), certificates checked
(SSL_CERT_FILE names others). What arrives is not judged here but for its size; `dbnet.fetch` compares the digest.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbnet.errors import DbnetError, short
from dbnet.fetch_address import OTHERWISE, Redirects, shown, split_login
from dbnet.fetch_part import ROOM, read_memo, write_all, write_memo, writing
from dbnet.version import VERSION

#: Called with (bytes there, bytes in all or None).
Progress = Callable[[int, "int | None"], None]
_CHUNK = 1 << 18
#: What a server may get over: it is asked again.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_WORDS = {401: "wants a login", 403: "refuses it", 404: "has no such file", 407: "the proxy wants a login",
          410: "no longer has it"}


@dataclass(frozen=True)
class Pace:
    """timeout: seconds without an answer or a byte. tries: in a row that each bring less than `brought` bytes. pause:
    seconds before the second, doubled for each further one. limit: bytes that no published file reaches. slowest: bytes
    a second over `timeout`.
    """

    timeout: float = 30
    tries: int = 5
    pause: float = 1
    limit: int = 1 << 30
    slowest: int = 100
    brought: int = 1 << 20


class _BrokenError(Exception):
    """This attempt is over; another one may do better. wait: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0):
        super().__init__(reason)
        self.wait = wait


@dataclass
class _Transfer:
    """One file on its way. stream: the partial file, unbuffered. memo: beside it, which version the bytes are of."""

    url: str
    stream: io.FileIO
    memo: Path
    pace: Pace
    progress: Progress
    total: int | None = None
    from_start: bool = False
    answered: bool = False
    in_parts: bool = False

    @property
    def have(self) -> int:
        return os.fstat(self.stream.fileno()).st_size

    def request(self) -> urllib.request.Request:
        """For what is missing, if the bytes that are there are of the same version, and else for all."""
        address, login = split_login(self.url)
        headers = {"User-Agent": f"dbnet-parity/{VERSION}", "Accept": "*/*"}  # http.client asks for it unpacked
        if self.from_start or not self.have:
            self.restart()
        else:
            headers["Range"] = f"bytes={self.have}-"
            memo = read_memo(self.memo)
            if memo.get("url") == address and isinstance(memo.get("validator"), str):
                headers["If-Range"] = memo["validator"]
        request = urllib.request.Request(address, headers=headers)
        if login:  # not sent on to where a redirect leads
            request.add_unredirected_header("Authorization", login)
        return request

    def restart(self) -> None:
        self.from_start = self.in_parts = False
        with writing(self.stream.name):
            self.stream.seek(0)
            self.stream.truncate()
            self.memo.unlink(missing_ok=True)

    def attempt(self, opener: urllib.request.OpenerDirector) -> None:
        """Raises _BrokenError if it may be tried again, DbnetError if not."""
        with _told(self), opener.open(self.request(), timeout=self.pace.timeout) as response:
            self._begin(response)
            self._receive(response)
        if self.total is not None and self.have != self.total:
            raise _BrokenError(f"the connection broke off after {self.have:,} of {self.total:,} bytes")

    def _begin(self, response: Any) -> None:
        self.answered = True
        coding = response.headers.get("Content-Encoding", "identity").lower()
        if coding not in ("identity", ""):
            raise DbnetError(f"{shown(self.url)}: comes packed ({short(coding, 40)}), which it was asked not to; "
                             f"{OTHERWISE}")
        length = response.length
        if response.status == 206:
            self._check_range(response.headers.get("Content-Range", ""))
        elif response.status == 200:
            if self.have:  # another version, or a server that knows no ranges
                self.restart()
            self.total = length
            with writing(self.memo):
                write_memo(self.memo, shown(self.url), _validator(response.headers))
        else:
            raise DbnetError(f"{shown(self.url)}: answered {response.status} and no file; {OTHERWISE}")
        if (self.total or 0) > self.pace.limit:
            raise DbnetError(f"{shown(self.url)}: is said to have {short(f'{self.total:,}', 40)} bytes, which is no "
                             f"published file; {OTHERWISE}")
        disk = os.fstatvfs(self.stream.fileno())
        if (missing := (self.total or 0) - self.have) > disk.f_bavail * disk.f_frsize:
            raise DbnetError(f"{self.stream.name}: the disk has no room for the {missing:,} bytes that are missing; "
                             f"{ROOM}")
        self.stream.seek(0, os.SEEK_END)

    def _check_range(self, told: str) -> None:
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", told.strip())
        if match is None or int(match[1]) != self.have:
            self.from_start = True
            raise _BrokenError(f"the server sent another part than it was asked for ({told[:40]!r})")
        self.in_parts = True
        self.total = None if match[3] == "*" else int(match[3])

    def _receive(self, response: Any) -> None:
        window, before = time.monotonic(), self.have
        done = before
        while chunk := response.read1(_CHUNK):
            done += len(chunk)
            if done > (self.pace.limit if self.total is None else self.total):
                self.restart()  # none of it can be right
                raise DbnetError(f"{shown(self.url)}: sends more than {self.total or self.pace.limit:,} bytes; "
                                 f"{OTHERWISE}")
            with writing(self.stream.name):
                write_all(self.stream, chunk)
            self.progress(done, self.total)
            if (spent := time.monotonic() - window) > self.pace.timeout:
                if done - before < self.pace.slowest * spent:
                    raise _BrokenError(f"only {done - before:,} bytes came in {spent:.0f} s")
                window, before = time.monotonic(), done


def download(url: str, stream: io.FileIO, memo: Path, pace: Pace, progress: Progress,
             tell: Callable[[str], None]) -> bool:
    """Fills `stream` (read and write, unbuffered) with the file at `url`, beginning at its end.

    tell: gets a line for every further try. Returns whether it came in several parts. Raises DbnetError; what has
    arrived then stays in the stream.
    """
    transfer = _Transfer(url, stream, memo, pace, progress)
    opener = urllib.request.build_opener(Redirects())
    failures = 0
    while True:
        before = transfer.have
        try:
            transfer.attempt(opener)
            return transfer.in_parts
        except _BrokenError as error:
            failures = 1 if transfer.have - before >= pace.brought else failures + 1
            if failures >= pace.tries:
                raise DbnetError(f"{shown(url)}: {error}, {failures} times; {_kept(transfer.have)}") from error
            wait = min(max(error.wait, pace.pause * 2 ** (failures - 1)), 60)
            tell(f"{error}; trying again in {wait:g} s")
            time.sleep(wait)


@contextlib.contextmanager
def _told(transfer: _Transfer) -> Iterator[None]:
    """Failures of an attempt as _BrokenError or DbnetError."""
    where = shown(transfer.url)
    try:
        yield
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            _refused(transfer, error)
    except urllib.error.URLError as error:
        raise _unreachable(transfer, error.reason) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise DbnetError(f"{where}: cannot be asked for ({short(error, 80)}); {OTHERWISE}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_broken_words(error, transfer)) from error


def _refused(transfer: _Transfer, error: urllib.error.HTTPError) -> None:
    where = shown(transfer.url)
    if error.code == 416:
        match = re.fullmatch(r"bytes \*/(\d{1,18})", error.headers.get("Content-Range", "").strip())
        if match and int(match[1]) == transfer.have:  # all of it was there already
            transfer.total, transfer.in_parts = transfer.have, True
            return
        transfer.from_start = True
        raise _BrokenError("the server has fewer bytes than are here") from error
    if error.code in _PASSING:
        wait = error.headers.get("Retry-After", "")
        raise _BrokenError(f"the server answered {error.code}", float(wait) if wait.isascii() and wait.isdigit() else 0)
    if "infinite loop" in str(error.msg) or error.code in (301, 302, 303, 307, 308):
        raise DbnetError(f"{where}: sends on in a circle, or nowhere that can be followed ({error.code}); {OTHERWISE}"
                         ) from error
    words = _WORDS.get(error.code, f"is refused: {short(error.reason, 80)}")
    raise DbnetError(f"{where}: {words} ({error.code}); {OTHERWISE}") from error


def _unreachable(transfer: _Transfer, reason: object) -> Exception:
    """Before an answer came. A name that is unknown, a closed door or a wrong certificate is not asked twice, unless
    the server has answered before.
    """
    where = shown(transfer.url)
    proxy = _proxy_words(where)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DbnetError(f"{where}: the server's certificate cannot be trusted ({reason.verify_message}); behind a "
                          f"proxy with one of its own SSL_CERT_FILE names it")
    if isinstance(reason, TimeoutError):
        return _BrokenError("no connection in time")
    if transfer.answered or (isinstance(reason, ConnectionError) and reason.errno != errno.ECONNREFUSED):
        return _BrokenError("there was no connection any more")
    if isinstance(reason, socket.gaierror):
        return DbnetError(f"{where}: the host is not known here ({reason.strerror}); is there a network? {proxy}; "
                          f"{OTHERWISE}")
    words = reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
    return DbnetError(f"{where}: no connection ({short(words, 120)}); {proxy}; {OTHERWISE}")


def _proxy_words(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or ""):
        return f"it was asked for through the proxy of {parts.scheme}_proxy"
    return "a proxy goes into https_proxy and http_proxy"


def _broken_words(error: Exception, transfer: _Transfer) -> str:
    of = f"{transfer.have:,}{f' of {transfer.total:,}' if transfer.total else ''} bytes"
    if isinstance(error, TimeoutError):
        return f"nothing came for {transfer.pace.timeout:g} s after {of}"
    if isinstance(error, http.client.HTTPException) and not isinstance(
            error, (http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return f"what answers does not speak HTTP ({type(error).__name__})"
    return f"the connection broke off after {of}"


def _kept(count: int) -> str:
    return f"{count:,} bytes are kept, and the same command goes on from there" if count else "nothing has arrived"


def _validator(headers: http.client.HTTPMessage) -> str | None:
    """What If-Range may carry: a strong ETag, else the date."""
    etag = headers.get("ETag", "").strip()
    return etag if etag.startswith('"') else headers.get("Last-Modified")
