"""Finding a Ray cluster, or starting one on this machine, and leaving nothing of it behind."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbnet.errors import DbnetError, short
from dbnet.extras import require
from dbnet.signals import ended_as_by_interrupt
from dbnet.silence import silent_stderr
from evaluation.clusters.remains import end_all_with, of_their_own
from evaluation.clusters.restraint import put_off, told_by_nobody, uninterrupted, within
from evaluation.graph_files import cores

#: Seconds for a head to answer at all, and then for Ray to have joined its cluster.
ANSWER_SECONDS, JOIN_SECONDS = 5.0, 9.0
#: Seconds for leaving or ending it, which waits for a head that may be gone.
LEAVE_SECONDS = 10.0
#: Of the clusters that this process starts: nobody else on the machine may run code in them.
_TOKEN = secrets.token_hex(32)
#: Where our packages are.
_ROOT = Path(__file__).resolve().parents[2]
#: Bytes of shared memory of a cluster that we start: pieces and their results are small.
STORE_BYTES = 2**27
_FORM = re.compile(r"(ray://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*):(\d{1,5})", re.ASCII)
_HINT = "write HOST:PORT of its head (6379 unless told otherwise), ray://HOST:10001, auto or local"
#: How HTTP/2 begins, which gRPC is: the client's preface, and a SETTINGS frame without settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4)


class AddressError(DbnetError):
    """A text that is no address of a cluster: a slip of whoever typed it."""


@dataclass(frozen=True)
class OnRay:
    """A cluster, as a user asks for it. address: see `check_address`. workers: at most; None for as many as have room.
    """

    address: str
    workers: int | None = None


def check_address(text: str) -> str:
    """`auto`, `local`, `host:port` or `ray://host:port`. Raises AddressError."""
    match = _FORM.fullmatch(text)
    if text not in ("auto", "local") and (match is None or not 0 < int(match[3]) < 65536):
        raise AddressError(f"{short(text)!r} is no address of a Ray cluster; {_HINT}")
    return text


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, joined to the cluster; one that is `local` is started here and ends with this. A program that
    has joined one already is left in it.

    Raises DbnetError without Ray, for an address that does not answer, and for another version of Ray or Python there.
    """
    check_address(address)
    ray = require("ray")
    if ray.is_initialized():
        yield ray
        return
    with told_by_nobody(), ended_as_by_interrupt(), contextlib.ExitStack() as stack:
        if address == "local":
            stack.enter_context(_local(ray))
        else:
            _join(ray, address)
            stack.callback(uninterrupted, lambda: within(LEAVE_SECONDS, ray.shutdown))
        yield ray


# Joining --------------------------------------------------------------------------------------------------------------


def _join(ray: Any, address: str) -> None:
    """In a thread of its own: Ray itself would wait for minutes, and hear no Ctrl-C."""
    found = _running() if address == "auto" else address
    if found is not None:
        _check_answer(found, f"--ray {address}" + (f" ({found})" if found != address else ""))
    with silent_stderr():  # its part in C++ says every second that it tries
        caught = within(JOIN_SECONDS, lambda: ray.init(
            address=address if found is None else found, log_to_driver=False, logging_level=logging.CRITICAL,
            configure_logging=False))
    if not caught.ended:
        raise _closed(address, f"{JOIN_SECONDS:.0f} s")
    if caught.error is not None:
        raise _refused(address, caught.error) from caught.error


def _refused(address: str, error: BaseException) -> DbnetError:
    """Ray's own words, in a line."""
    text = " ".join(str(error).split())
    if "ray[client]" in text:
        return DbnetError(f"--ray {address}: needs gRPC here: pip install 'ray[client]'; or give HOST:PORT of the "
                          f"head, from a node of the cluster")
    if "ersion mismatch" in text or "ersions" in text:
        return DbnetError(f"--ray {address}: Ray or Python is of another version there: {short(text, 400)}; install "
                          f"the same on all, for other versions give other digits")
    if "uthenticat" in text:
        return DbnetError(f"--ray {address}: lets nobody in ({short(text, 120)}); have both the same token, "
                          f"RAY_AUTH_TOKEN or ~/.ray/auth_token (ray get-auth-token)?")
    if "Failed to connect to Ray cluster" in text:
        return _closed(address, short(text, 120))
    if "Could not find any running Ray instance" in text:
        return DbnetError(f"--ray {address}: no cluster runs on this machine; start one (ray start --head), or {_HINT}")
    if "expects this IP address" in text or "node_ip_address" in text or "aylet" in text:
        return DbnetError(f"--ray {address}: this machine is no node of the cluster; make it one (ray start "
                          f"--address={address}), or use ray://HOST:10001 ({short(text, 200)})")
    return DbnetError(f"--ray {address}: cannot be joined ({type(error).__name__}: {short(text)}); {_HINT}")


def _closed(address: str, why: str) -> DbnetError:
    """Ray tries again and again alike, whatever the reason."""
    return DbnetError(f"--ray {address}: answers, and does not let this machine in ({why}), or is no cluster; {_HINT}; "
                      f"if it is one, is RAY_AUTH_TOKEN (or ~/.ray/auth_token) the same there?")


def _running() -> str | None:
    """The cluster that `auto` means, where it can be told: RAY_ADDRESS, or what `ray start` has left."""
    given = os.environ.get("RAY_ADDRESS", "")
    with contextlib.suppress(OSError):
        given = given or Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster").read_text().strip()
    return given if _FORM.fullmatch(given) else None


def _check_answer(address: str, told: str) -> None:
    """Raises DbnetError unless a server that speaks gRPC answers there."""
    _, host, port = _FORM.fullmatch(address).groups()  # type: ignore[union-attr]
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as there:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            there.sendall(_PREFACE)
            there.settimeout(ANSWER_SECONDS)
            answer = there.recv(9)
    except socket.gaierror as error:
        raise DbnetError(f"{told}: there is no machine {host} ({error.strerror}); {_HINT}") from error
    except (OSError, UnicodeError) as error:
        why = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
        raise DbnetError(f"{told}: cannot be reached ({why}); is the cluster up (ray status), and the port open from "
                         f"here? {_HINT}") from error
    if len(answer) < 9 or answer[3] != 4:  # no SETTINGS frame
        hint = " (8265 is the dashboard's)" if port == "8265" else ""
        raise DbnetError(f"{told}: answers, and is no head of a Ray cluster{hint}; {_HINT}")


def is_alive(address: str) -> bool:
    """Whether the head of a cluster still answers."""
    match = _FORM.fullmatch(address)
    if match is None:
        return True
    with contextlib.suppress(OSError), socket.create_connection((match[2].strip("[]"), int(match[3])), ANSWER_SECONDS):
        return True
    return False


# Our own --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _local(ray: Any) -> Iterator[None]:
    """A cluster of this machine's cores, without dashboard, without reports to anybody, in a folder of its own."""
    names = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS", "PYTHONPATH")
    before = {name: os.environ.get(name) for name in names}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = _TOKEN  # else Ray would put one into the user's home
    os.environ.pop("RAY_ADDRESS", None)
    if not _ROOT.name.endswith("-packages"):  # a checkout, which the workers find too, whatever leads to it here
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), before["PYTHONPATH"])))
    folder = tempfile.mkdtemp(prefix="dbnet-", dir=_short_folder())
    try:
        with put_off(), of_their_own(folder):  # broken off in the middle, Ray forgets what it has started
            ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL,
                     configure_logging=False, object_store_memory=STORE_BYTES, _temp_dir=folder)
        yield
    except (RuntimeError, ConnectionError, ValueError, OSError) as error:
        if ray.is_initialized():
            raise
        raise DbnetError(f"--ray local: Ray could not start here ({short(error)}); is there memory, and room in "
                         f"{tempfile.gettempdir()}?") from error
    finally:
        uninterrupted(lambda: _end(ray, folder))
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end(ray: Any, folder: str) -> None:
    try:
        within(LEAVE_SECONDS, ray.shutdown)
    finally:
        end_all_with(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str:
    """Where Ray's sockets lie, whose paths have 107 bytes at most, 65 of them its own."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= 25 else "/tmp"
