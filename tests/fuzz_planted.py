"""Readers that do what none may do: `python -m tests.fuzzing --table tests.fuzz_planted` must find each of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from tests.fuzz_reader import Reader

#: What stays open.
_LEFT: list[Any] = []


def _refused(path: Path) -> None:
    raise DbnetError(f"{path}: is damaged")


def _key(path: Path) -> None:
    raise KeyError(path.read_bytes()[0])


def _caught(path: Path) -> None:
    """Even where the reader takes everything for damage."""
    try:
        (path.parent / "evil").write_text("x")
    except BaseException as error:
        raise DbnetError(f"{path}: is damaged") from error


def _hang(_path: Path) -> None:
    end = time.process_time() + 60
    while time.process_time() < end:
        sum(range(1000))


def _slow(_path: Path) -> None:
    """Between the limit and the alarm."""
    end = time.process_time() + 0.5
    while time.process_time() < end:
        sum(range(1000))


def _stuck(_path: Path) -> None:
    """In C, where no signal handler of Python's runs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
    _hang(_path)


def _memory(path: Path) -> None:
    np.ones(2**25).sum()
    _refused(path)


def _claim(_path: Path) -> None:
    np.zeros(2**40, np.uint8)


def _open_file(path: Path) -> None:
    _LEFT.append(path.open("rb"))


def _says(text: str) -> Callable[[Path], None]:
    def say(path: Path) -> None:
        message = DbnetError("")
        message.args = (text.replace("FILE", str(path)),)
        raise message
    return say


def _crash(_path: Path) -> None:
    """As a C library does, without an audit event."""
    signal.raise_signal(signal.SIGSEGV)


#: What is planted -> (the reader, what the harness says of it).
PLANTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "key": (_key, "raised KeyError: '120'"),
    "exits": (lambda path: sys.exit(0), "raised SystemExit"),
    "warning": (lambda path: warnings.warn("odd", stacklevel=1), "raised UserWarning: 'odd'"),
    "system": (lambda path: os.system("true"), "asked for os.system (b'true',)"),
    "spawn": (lambda path: subprocess.run(["true"], check=False), "asked for subprocess.Popen"),
    "compile": (lambda path: compile(path.read_text(), "file", "exec"), "asked for compile"),
    "import": (lambda path: __import__("this"), "asked for import ('this',"),
    "passwd": (lambda path: Path("/etc/passwd").read_bytes(), "asked for open ('/etc/passwd', 'r', 524288)"),
    "writes": (lambda path: (path.parent / "evil").write_text("x"), "evil', 'w', 524865)"),
    "caught": (_caught, "evil', 'w', 524865)"),
    "itself": (lambda path: path.write_text("x"), "x.bin', 'w', 524865)"),
    "removes": (Path.unlink, "asked for os.remove"),
    "lists": (lambda path: os.listdir(path.parent), "asked for os.listdir"),
    "socket": (lambda path: socket.socket(), "asked for socket.__new__"),
    "hang": (_hang, "took more than 0.6 s"), "slow": (_slow, "took 0.5 s"),
    "memory": (_memory, "took 25"),
    "claim": (_claim, "raised MemoryError: 'Unable to allocate 1.00 TiB"),
    "left open": (_open_file, "left 1 files open"),
    "two lines": (_says("FILE: a\nb"), "said what cannot be printed"),
    "cursor": (_says("FILE: \x1b[2J"), "said what cannot be printed"),
    "long": (_says("FILE: " + "a" * 500), "characters"),
    "nameless": (_says("is damaged"), "said without the file's name"),
    "kills": (lambda path: os.kill(os.getpid(), signal.SIGSEGV), "asked for os.kill"),
    "crashes": (_crash, "the process ended with -11"), "stuck": (_stuck, "the process ended with -24"),
    "refuses": (_refused, ""), "reads": (Path.read_bytes, ""),
}


def _reader(read: Callable[[Path], object], seconds: float) -> Reader:
    def call(path: Path, _chance: Random) -> int:
        read(path)
        return 0
    same = (lambda chance, data, others: data,)
    return Reader(("x.bin",), lambda: [b"x"], same, call, share=1, warm=False, seconds=seconds)


#: A virtual machine may take a second to give a process 256 MiB for the first time.
READERS = {name: _reader(read, 10 if name == "memory" else 0.4) for name, (read, _) in PLANTED.items()}
