"""Real Ray clusters of this machine, and work for their workers that no user has."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.clusters.files import ImageFile
from evaluation.clusters.pieces import ABSENT
from parity.data import ROOT

#: What all processes of a cluster of ours have in their environment, so that no other's is ever killed.
MARK = "DBNET_TEST_CLUSTER"
#: One for all: Ray reads it once in a process.
_TOKEN = secrets.token_hex(32)


@dataclass
class Node:
    """A process of `ray start`. environment: what its workers have."""

    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """As an administrator does."""
        self.process.terminate()
        self.process.wait(30)

    def kill(self) -> None:
        """As a power cut does: the node and all of its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@dataclass
class RayCluster:
    """address: of its head."""

    address: str
    folder: Path
    environment: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    def add(self, *options: str, folder: Path | None = None) -> Node:
        """A node; a folder before all others on its workers' path. Returns when it has joined."""
        environment = self.environment | ({"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"} if folder else {})
        node = Node(subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--block", "--disable-usage-stats",
             "--object-store-memory=100000000"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True))
        self.nodes.append(node)
        return node

    def workers(self) -> list[int]:
        """The processes that have a runner, or open one, or are at work with it."""
        return [pid for pid in processes(self.environment[MARK])
                if b"ray::Process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def processes(mark: str) -> list[int]:
    """Those that are alive and were started with it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def ray_cluster(*options: str) -> Iterator[RayCluster]:
    """A cluster with a head and nothing else of this machine's; this process may join it within."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets have short paths
    own = {MARK: secrets.token_hex(8), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN,
           "RAY_memory_monitor_refresh_ms": "0",  # else Ray may kill workers on a machine that is short of memory
           "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS")}
    cluster = RayCluster(f"127.0.0.1:{port}", folder, os.environ | own)
    try:
        os.environ.update({name: own[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")})
        os.environ.pop("RAY_ADDRESS", None)
        cluster.add("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}", *options)
        _wait_for(port, folder / "session_latest/sockets/raylet")
        yield cluster
    finally:
        for node in cluster.nodes[::-1]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.stop()
        for pid in processes(own[MARK]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _wait_for(port: int, raylet: Path, seconds: float = 60) -> None:
    """For the head, and for its own node, which comes later: on a busy machine by longer than a program waits."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            if raylet.exists():
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on {port}, or its node has no {raylet}")


@dataclass(frozen=True)
class Deadly:
    """A piece of work that tells of its images' files, and is the end of its worker at one of that name. seconds: that
    an image takes.
    """

    files: Sequence[ImageFile]
    name: str
    seconds: float = 0.0

    def run(self, _runner: Any) -> Any:
        """(file name, bytes, the worker's process) of each."""
        found = [file.read() for file in self.files]
        if any(data is None for data in found):
            return ABSENT
        for file in self.files:
            time.sleep(self.seconds)
            if file.path.name == self.name:
                os.kill(os.getpid(), signal.SIGKILL)
        return [(file.path.name, len(data), os.getpid()) for file, data in zip(self.files, found, strict=True)
                if data is not None]
