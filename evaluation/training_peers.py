"""What the processes of one training tell each other beside gradients: that they are ready, are to end, or have failed.

Over sockets of their own, so that all can wait for the first one however long its validation takes, and none waits for
one that is gone.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.launch import BrokenOffError

#: How long processes of a launcher may take to reach each other, one that fails waits to be heard, and one whose
#: exchange breaks off waits to see who is gone, in seconds.
CONNECT_SECONDS, HEARD_SECONDS, LOOK_SECONDS = 300.0, 10.0, 1.0
_SECRET, _NAME, _RANK = 16, 255, 4  # bytes of an address, and of a number
_STRANGERS = 64  # that may be silent at the same time
_FAILED, _FOLLOWS = "failed", "follows"


class PeerError(DbnetError):
    """Another process has failed. is_told: it, or the first one, says so. follows: only because a third one has.
    said: what the process of that rank has said."""

    def __init__(self, message: str, is_told: bool = False, follows: bool = False, said: str = "", rank: int = 0):
        super().__init__(message)
        self.is_told, self.follows, self.said, self.rank = is_told, follows, said, rank


class Peers:
    """All processes of a training. Without others every exchange is with itself.

    connections: of the first process to all others in order; of another one to the first.
    """

    def __init__(self, rank: int = 0, size: int = 1, connections: Sequence[Connection] = ()):
        self.rank, self.size, self._connections = rank, size, connections

    def exchange(self, message: Any = None) -> list[Any]:
        """What each process has to say (JSON values), in order, told to all. Waits for all.

        Raises PeerError if one has failed.
        """
        if self.size == 1:
            return [message]
        if self.rank:
            self._send(self._connections[0], {"say": message})
            answer = self._received(0)
        else:
            heard = [message, *(self._received(rank)["say"] for rank in range(1, self.size))]
            answer = {"all": heard}
            for connection in self._connections:
                self._send(connection, answer)
        found: list[Any] = answer["all"]
        return found

    def given(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays of the first process, in all of them; what the others give is left alone.

        Raises PeerError if one has failed.
        """
        about = [[name, str(array.dtype), array.shape] for name, array in arrays.items()]
        table = self.exchange(None if self.rank else about)[0]
        if self.rank:
            return {name: np.frombuffer(self._bytes(0), dtype).reshape(shape).copy() for name, dtype, shape in table}
        for array in arrays.values():
            for rank, connection in enumerate(self._connections, 1):
                try:
                    connection.send_bytes(np.ascontiguousarray(array).tobytes())
                except OSError as error:
                    raise self._gone(rank) from error
        return dict(arrays)

    def fail(self, error: DbnetError) -> PeerError | None:
        """Has the others end too.

        Returns what holds in place of the error: that another process has failed before, or that the first one tells.
        """
        earlier = error if isinstance(error, PeerError) else None
        if earlier is None or earlier.follows:
            follows = earlier is not None or isinstance(error, BrokenOffError)
            earlier = self._failed_before(LOOK_SECONDS if follows else 0.0) or earlier
        if earlier is not None and (self.rank or not str(earlier).endswith(f": {error}")):  # not what all have found
            if earlier.follows and not self.rank:
                self._tell_others(earlier.said, earlier.rank)
            return earlier
        if not self.rank:
            self._tell_others(str(error), 0)
            return None
        self._send(self._connections[0], {_FAILED: str(error), "rank": self.rank,
                                          _FOLLOWS: isinstance(error, BrokenOffError)})
        return self._told(HEARD_SECONDS)

    def wait(self) -> PeerError | None:
        """Until the first process ends, and whether it has told why."""
        return self._told(None)

    def _told(self, seconds: float | None) -> PeerError | None:
        try:
            if self._connections[0].poll(seconds):
                self._received(0)
        except PeerError as error:
            return error if error.is_told else None
        return None

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _failed_before(self, seconds: float) -> PeerError | None:
        """Who has failed without having been listened to: this process's own failure may follow from it. seconds: to
        wait for one that has not itself failed because of a third one."""
        left: dict[Any, int] = {connection: 0 if self.rank else place for place, connection
                                in enumerate(self._connections, 1) if not connection.closed}
        end, found = time.monotonic() + seconds, None
        while left:
            ready = wait(list(left), max(0.0, end - time.monotonic()))
            if not ready:
                break
            for connection in ready:
                try:
                    self._received(left[connection])
                except PeerError as error:
                    if not error.follows:
                        return error
                    found = found or error
                    del left[connection]
        return found

    def _received(self, rank: int) -> dict[str, Any]:
        message = json.loads(self._bytes(rank))
        if _FAILED in message:
            found = PeerError(f"process {message['rank']} of {self.size}: {message[_FAILED]}", bool(self.rank),
                              bool(message.get(_FOLLOWS)), message[_FAILED], message["rank"])
            if not self.rank and not found.follows:  # who is told ends: `fail` first looks who is gone
                self._tell_others(found.said, rank)
            raise found
        return dict(message)

    def _bytes(self, rank: int) -> bytes:
        try:
            return self._connections[max(rank - 1, 0)].recv_bytes()
        except (EOFError, OSError) as error:
            raise self._gone(rank) from error

    def _gone(self, rank: int) -> PeerError:
        gone = PeerError(f"process {rank} of {self.size} has ended without a word; look at what it has printed")
        if not self.rank:
            self._tell_others(str(gone), rank)
        return gone

    def _tell_others(self, line: str, rank: int) -> None:
        for connection in self._connections:
            self._send(connection, {_FAILED: line, "rank": rank})

    @staticmethod
    def _send(connection: Connection, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it is gone, which the next one who listens to it will notice
            connection.send_bytes(json.dumps(message).encode())


def connect(rank: int, size: int, host: str, total: Callable[[np.ndarray], np.ndarray]) -> Peers:
    """The peers of a process. host: where the first one can be reached. total: adds (N,) float32 up over all, which is
    how the others learn of its port. Raises DbnetError if they do not reach each other."""
    secret = secrets.token_bytes(_SECRET)
    server = None
    if not rank:
        server = socket.create_server(("127.0.0.1" if host == "127.0.0.1" else "", 0), backlog=size + 16)
        address = secret + server.getsockname()[1].to_bytes(2, "big") + host.encode()
    else:
        address = b""
    shared = total(np.frombuffer(address.ljust(_SECRET + 2 + _NAME, b"\0"), np.uint8).astype(np.float32))
    address = np.rint(shared).astype(np.uint8).tobytes()
    try:
        if server is None:
            return Peers(rank, size, [_reach(address, rank)])
        with server:
            return Peers(0, size, _accepted(server, secret, size))
    except OSError as error:
        raise DbnetError(f"process {rank} of {size} does not reach the others at {host} ({error.strerror or error}); "
                         f"is there a firewall between the machines?") from error


def _reach(address: bytes, rank: int) -> Connection:
    port = int.from_bytes(address[_SECRET:_SECRET + 2], "big")
    host = address[_SECRET + 2:].rstrip(b"\0").decode()
    link = socket.create_connection((host, port), CONNECT_SECONDS)
    link.sendall(address[:_SECRET] + rank.to_bytes(_RANK, "big"))
    return _connection(link)


def _connection(link: socket.socket) -> Connection:
    link.settimeout(None)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(link.detach())


def _accepted(server: socket.socket, secret: bytes, size: int) -> list[Connection]:
    """One connection for each other process, by its number. Strangers are sent away, and none of them, silent or slow,
    keeps the others waiting. Raises TimeoutError."""
    found: dict[int, Connection] = {}
    heard: dict[socket.socket, bytes] = {}  # of those that have not yet said who they are, the oldest first
    end = time.monotonic() + CONNECT_SECONDS
    server.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        try:
            while len(found) < size - 1:
                ready = selector.select(max(0.0, end - time.monotonic()))
                if not ready or time.monotonic() > end:
                    raise TimeoutError("nobody came for too long")
                for key, _ in ready:
                    if key.fileobj is server:
                        _let_in(server, selector, heard, size)
                        continue
                    link: Any = key.fileobj
                    if link in heard and _has_said(link, heard):
                        selector.unregister(link)
                        _take(link, heard.pop(link), secret, size, found)
        finally:
            for link in heard:
                link.close()
    return [found[rank] for rank in range(1, size)]


def _let_in(server: socket.socket, selector: selectors.BaseSelector, heard: dict[socket.socket, bytes],
            size: int) -> None:
    """One more; of too many that say nothing the oldest goes."""
    with contextlib.suppress(BlockingIOError, ConnectionError):  # it has changed its mind
        link, _ = server.accept()
        link.setblocking(False)
        heard[link] = b""
        selector.register(link, selectors.EVENT_READ)
        if len(heard) > size + _STRANGERS:
            oldest = next(iter(heard))
            selector.unregister(oldest)
            del heard[oldest]
            oldest.close()


def _has_said(link: socket.socket, heard: dict[socket.socket, bytes]) -> bool:
    """Whether it has said who it is, or is gone."""
    try:
        more = link.recv(_SECRET + _RANK - len(heard[link]))
    except BlockingIOError:
        return False
    except OSError:
        more = b""
    heard[link] += more
    return not more or len(heard[link]) == _SECRET + _RANK


def _take(link: socket.socket, said: bytes, secret: bytes, size: int, found: dict[int, Connection]) -> None:
    rank = int.from_bytes(said[_SECRET:], "big")
    if hmac.compare_digest(said[:_SECRET], secret) and 0 < rank < size and rank not in found:
        found[rank] = _connection(link)
    else:
        link.close()
