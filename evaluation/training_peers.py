"""What the processes of one training tell each other beside gradients: that they are ready, are to end, or have failed.

Over sockets of their own, so that all can wait for the first one however long its validation takes, and none waits for
one that is gone.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from dbnet.errors import DbnetError

#: How long processes of a launcher may take to reach each other, and one that fails waits to be heard, in seconds.
CONNECT_SECONDS, HEARD_SECONDS = 300.0, 10.0
_SECRET, _NAME = 16, 255  # bytes of an address
_FAILED = "failed"


class PeerError(DbnetError):
    """Another process has failed. is_told: it, or the first one, says so."""

    def __init__(self, message: str, is_told: bool = False):
        super().__init__(message)
        self.is_told = is_told


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
        earlier = error if isinstance(error, PeerError) else self._failed_before()
        if earlier is not None and (self.rank or not str(earlier).endswith(f": {error}")):  # not what all have found
            return earlier
        if not self.rank:
            self._tell_others(str(error), 0)
            return None
        self._send(self._connections[0], {_FAILED: str(error), "rank": self.rank})
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

    def _failed_before(self) -> PeerError | None:
        """Who has failed without having been listened to: this process's own failure may follow from it."""
        for place, connection in enumerate(self._connections):
            rank = 0 if self.rank else place + 1
            try:
                while connection.poll(0):
                    self._received(rank)
            except PeerError as error:
                return error
            except OSError:
                continue
        return None

    def _received(self, rank: int) -> dict[str, Any]:
        message = json.loads(self._bytes(rank))
        if _FAILED in message:
            found = PeerError(f"process {message['rank']} of {self.size}: {message[_FAILED]}", is_told=bool(self.rank))
            if not self.rank:
                self._tell_others(message[_FAILED], rank)
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
    link.settimeout(None)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = Connection(link.detach())
    connection.send_bytes(address[:_SECRET] + rank.to_bytes(4, "big"))
    return connection


def _accepted(server: socket.socket, secret: bytes, size: int) -> list[Connection]:
    """One connection for each other process, by its number; strangers are sent away."""
    found: dict[int, Connection] = {}
    end = time.monotonic() + CONNECT_SECONDS
    while len(found) < size - 1:
        server.settimeout(max(0.01, end - time.monotonic()))
        link, _ = server.accept()
        link.settimeout(None)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(link.detach())
        try:
            said = connection.recv_bytes(_SECRET + 4) if connection.poll(10) else b""
        except (EOFError, OSError):
            said = b""
        rank = int.from_bytes(said[_SECRET:], "big")
        if hmac.compare_digest(said[:_SECRET], secret) and 0 < rank < size and rank not in found:
            found[rank] = connection
        else:
            connection.close()
    return [found[rank] for rank in range(1, size)]
