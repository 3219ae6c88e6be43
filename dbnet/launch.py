"""How a process learns that it is one of several: from what its launcher has left in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dbnet.errors import DbnetError
from dbnet.running import DeviceKind, parse_device

#: What to type, for messages.
COMMANDS = ("torchrun --nproc_per_node=N -m dbnet train ... (PyTorch), msrun --worker_num=N --local_worker_num=N "
            "python -m dbnet train ... or mpirun -n N python -m dbnet train ... (MindSpore)")


class BrokenOffError(DbnetError):
    """The processes cannot compute together any more, because one of them is gone: which one shows elsewhere."""


@dataclass(frozen=True)
class Launch:
    """launcher: its name. backend: the framework that it is for. rank: from 0, None if only the framework will know.
    size: processes in all. local_rank, local_size: the same on this machine. host: where process 0 can be found, or
    nothing."""

    launcher: str
    backend: Literal["torch", "mindspore"]
    rank: int | None
    size: int
    local_rank: int
    local_size: int
    host: str = ""


def find_launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What has started this process, None for nobody. Raises DbnetError for variables that make no sense."""
    given = os.environ if environment is None else environment
    for find in (_torchrun, _msrun, _mpirun, _rank_table):
        launch = find(given)
        if launch is not None:
            _check(launch)
            return launch
    return None


def is_scheduler() -> bool:
    """Whether this is the process that msrun starts beside the workers, in which MindSpore only helps them find each
    other."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def own_device(text: str | None, best: DeviceKind, launch: Launch) -> str:
    """The device of this process: the one of its place on the machine. text: what was asked for; best: the kind that
    there is. Raises DbnetError if one for all was named, other than the CPU."""
    kind = best if text is None else parse_device(text).kind
    if text is not None and ":" in text and kind != "cpu" and launch.local_size > 1:
        raise DbnetError(f"--device {text} names one device, and {launch.launcher} started {launch.local_size} "
                         f"processes here; give --device {text.partition(':')[0]}, and each takes its own")
    if kind == "cpu":
        return "cpu"
    if text is not None and ":" in text:
        return text
    return f"{kind}:{launch.local_rank}"


def _torchrun(given: Mapping[str, str]) -> Launch | None:
    if given.get("WORLD_SIZE", "") == "" or ("RANK" not in given and given["WORLD_SIZE"] == "1"):
        return None
    size = _number(given, "WORLD_SIZE")
    return Launch("torchrun", "torch", _number(given, "RANK"), size, _number(given, "LOCAL_RANK", "0"),
                  _number(given, "LOCAL_WORLD_SIZE", str(size)), given.get("MASTER_ADDR", ""))


def _msrun(given: Mapping[str, str]) -> Launch | None:
    if "MS_ROLE" not in given:
        return None
    size = _number(given, "MS_WORKER_NUM")
    rank = _number(given, "MS_NODE_ID") if given.get("MS_NODE_ID", "").isdigit() else None
    local = _number(given, "DEVICE_ID", "0")
    host = given.get("MS_SCHED_HOST", "")
    return Launch("msrun", "mindspore", rank, size, local, size, host)


def _mpirun(given: Mapping[str, str]) -> Launch | None:
    if "OMPI_COMM_WORLD_SIZE" not in given:
        return None
    size = _number(given, "OMPI_COMM_WORLD_SIZE")
    return Launch("mpirun", "mindspore", _number(given, "OMPI_COMM_WORLD_RANK"), size,
                  _number(given, "OMPI_COMM_WORLD_LOCAL_RANK", "0"),
                  _number(given, "OMPI_COMM_WORLD_LOCAL_SIZE", str(size)))


def _rank_table(given: Mapping[str, str]) -> Launch | None:
    """Scripts that start MindSpore's processes by themselves, each with its number."""
    if given.get("RANK_SIZE", "") in ("", "1") or not given.get("RANK_TABLE_FILE"):
        return None
    size = _number(given, "RANK_SIZE")
    return Launch("a rank table", "mindspore", _number(given, "RANK_ID"), size, _number(given, "DEVICE_ID", "0"), size)


def _number(given: Mapping[str, str], name: str, default: str = "") -> int:
    text = given.get(name, default)
    if not (text.isascii() and text.isdigit()):
        raise DbnetError(f"{name} is {text!r}, and should be a number: this is one of several processes, but not as a "
                         f"launcher starts them; use {COMMANDS}")
    return int(text)


def _check(launch: Launch) -> None:
    if launch.size < 1 or (launch.rank is not None and launch.rank >= launch.size):
        raise DbnetError(f"{launch.launcher}: process {launch.rank} of {launch.size} cannot be; use {COMMANDS}")
