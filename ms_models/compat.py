"""Everything that differs between MindSpore's versions, from 2.3.1 on, and between the machines it runs on.

Run here on 2.7 and 2.10 on CPUs. The branches for versions before 2.5, Ascend and NVIDIA's cards follow the
documentation: 2.3.1 has no wheel for this kind of machine, and there was no such device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import communication, nn, ops

from dbnet import signals
from dbnet.cann import find_cann
from dbnet.errors import DbnetError
from dbnet.launch import Launch
from dbnet.running import Device, DeviceKind

#: Where oneDNN looks for the newest instruction set it may use; the second is its name before version 2.
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")

#: How a device computes: `exact` float32 in float32, and repeatably; `default` as it does where nobody says anything;
#: `fp16` in float16 wherever an operator has it, which is Ascend's own way.
Arithmetic = Literal["exact", "default", "fp16"]

_TARGETS: dict[DeviceKind, str] = {"cpu": "CPU", "gpu": "GPU", "ascend": "Ascend"}
_together: list[Device] = []  # the device with which others were found: MindSpore takes it once then
_applied: list[str] = []  # the limit that `cure_avx512` has set in this process
_graphs: list[bool] = []  # whether one has run in this process
_NEEDS = {"gpu": "a MindSpore built for CUDA", "ascend": "CANN and the Ascend driver"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps MindSpore's own lines from standard error: it logs what it is about to raise, over several lines."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def kept_signals() -> Iterator[None]:
    """Around what compiles or runs a graph: see `dbnet.signals`. When the first graph of a process has run, a thread of
    MindSpore's takes SIGINT once more, up to 10 ms later (2.10), which is waited for.
    """
    with signals.kept_signals():
        yield
        if not _graphs:
            time.sleep(0.1)
            _graphs.append(True)


def set_device(device: Device | None) -> Device:
    """Makes a device MindSpore's own for this process and returns it; None: the one set before, or the best present.

    Raises DbnetError if it is not there, or another one is already in use.
    """
    if device is None:
        return set_device(Device(best_kind()))
    if _together == [device]:
        return device
    target = _TARGETS[device.kind]
    try:
        with quiet():
            if hasattr(ms, "set_device"):  # from 2.5 on
                ms.set_device(*((target,) if device.kind == "cpu" else (target, device.index)))
            else:
                ms.set_context(device_target=target, device_id=device.index)
    except (RuntimeError, ValueError) as error:
        needs = f"it needs {_NEEDS[device.kind]} on this machine; " if device.kind in _NEEDS else ""
        raise DbnetError(f"MindSpore {ms.__version__} cannot use {target}: {first_sentence(error)}; {needs}"
                         f"use --device cpu or another runner") from error
    return device


def best_kind() -> DeviceKind:
    """Of the device set before, or of MindSpore's default, the best that its package and the machine have."""
    target = ms.get_context("device_target")
    return next(kind for kind, name in _TARGETS.items() if name == target)


def come_together(launch: Launch, device: Device) -> None:
    """Waits for the other processes, with this device from now on. Raises RuntimeError or ValueError if they cannot be
    had."""
    if launch.launcher == "mpirun" and device.kind == "cpu":
        _be_found(launch)
    with quiet():
        communication.init()
    _together.append(device)


def _be_found(launch: Launch) -> None:
    """MindSpore's processes on CPUs find each other through one more, which msrun starts and mpirun does not.

    The port follows from the number of mpirun's job, unless MS_SCHED_PORT names one.
    """
    if launch.local_size < launch.size:
        raise ValueError("mpirun over several machines is for Ascend; on CPUs use msrun")
    job = zlib.crc32(os.environ.get("PMIX_NAMESPACE", "").encode())
    known = {"MS_WORKER_NUM": str(launch.size), "MS_SCHED_HOST": "127.0.0.1",
             "MS_SCHED_PORT": os.environ.get("MS_SCHED_PORT", str(10240 + job % 20000))}
    # Else MindSpore takes MPI for its own means of communication, which its CPU package has not.
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))}
    if launch.rank == 0:
        program = f"from {__name__} import serve; serve()"
        subprocess.Popen([sys.executable, "-c", program], env={**others, **known, "MS_ROLE": "MS_SCHED"},
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in os.environ.keys() - others.keys():
        del os.environ[name]
    os.environ.update(known, MS_ROLE="MS_WORKER", MS_NODE_ID=str(launch.rank))
    # Who asks before it is there is put off by MindSpore for a minute.
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(known["MS_SCHED_PORT"])), 1):
            return
        time.sleep(0.1)


def serve() -> None:
    """Helps the workers find each other until they have ended, and ends the process."""
    with quiet():
        ms.set_context(device_target="CPU")
        try:
            communication.init()
        except RuntimeError:  # one of them has failed, and said why
            sys.exit(1)


def let_go(launch: Launch) -> None:
    """Has msrun's scheduler end, for a process that cannot train: it waits until all have met, for ever."""
    if launch.launcher == "msrun":
        with contextlib.suppress(DbnetError, RuntimeError, ValueError):
            come_together(launch, set_device(Device("cpu")))
        part()


def part() -> None:
    """Leaves the others."""
    with quiet(), contextlib.suppress(RuntimeError):  # some of them are gone
        communication.release()


def first_sentence(error: BaseException) -> str:
    """Of an exception of MindSpore's, which run over dozens of lines."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).split(". ")[0].rstrip(".:")


def set_arithmetic(kind: DeviceKind, how: Arithmetic) -> dict[str, Any]:
    """Has a device compute so, once in a process and before its first operator; what now holds, for the record.

    Raises DbnetError for `fp16` on another device than Ascend.
    """
    if how == "exact":
        return keep_float32(kind)
    settings: dict[str, Any] = {"precision_mode": None, "hf32": None, "tf32": None, "deterministic": None}
    if how == "fp16" and kind != "ascend":
        raise DbnetError(f"fp16 is a precision mode of Ascend, and this device is {_TARGETS[kind]}; leave it out")
    if how == "fp16" and hasattr(ms, "set_device"):  # from 2.5 on
        settings["precision_mode"] = _configured(ms.device_context.ascend.op_precision.precision_mode, "force_fp16")
    elif how == "fp16":
        ms.set_context(ascend_config={"precision_mode": "force_fp16"})
        settings["precision_mode"] = "force_fp16"
    elif kind == "ascend":
        settings |= {"precision_mode": "default", "hf32": "default"}
    elif kind == "gpu":
        settings |= {"tf32": "default"}
    return settings


def keep_float32(kind: DeviceKind) -> dict[str, Any]:
    """Has a device compute float32 in float32 (not in float16, HF32 or TF32) and repeatably.

    Returns what now holds, for the record. What the user has configured before stays.
    """
    settings: dict[str, Any] = {"precision_mode": None, "hf32": None, "tf32": None, "deterministic": None}
    if kind == "cpu":
        return settings
    if not hasattr(ms, "set_device"):  # before 2.5
        ms.set_context(deterministic="ON")
        if kind == "ascend":
            ms.set_context(ascend_config={"precision_mode": "must_keep_origin_dtype", "conv_allow_hf32": False,
                                          "matmul_allow_hf32": False})
            return settings | {"precision_mode": "must_keep_origin_dtype", "hf32": False, "deterministic": True}
        ms.set_context(gpu_config={"conv_allow_tf32": False, "matmul_allow_tf32": False})
        return settings | {"tf32": False, "deterministic": True}
    settings["deterministic"] = _configured(ms.set_deterministic, True)
    if kind == "ascend":
        precision = ms.device_context.ascend.op_precision
        settings["precision_mode"] = _configured(precision.precision_mode, "must_keep_origin_dtype")
        settings["hf32"] = _configured(precision.conv_allow_hf32, False)
        _configured(precision.matmul_allow_hf32, False)
    else:
        precision = ms.device_context.gpu.op_precision
        settings["tf32"] = _configured(precision.conv_allow_tf32, False)
        _configured(precision.matmul_allow_tf32, False)
    return settings


def _configured(setter: Any, value: Any) -> Any:
    try:
        setter(value)
    except RuntimeError:  # MindSpore takes each of these once per process
        return "set before by this process"
    return value


def be_repeatable() -> None:
    """Has every operator add up in the same order each time, on all devices of this process."""
    if hasattr(ms, "set_deterministic"):  # from 2.5 on
        _configured(ms.set_deterministic, True)
    else:
        ms.set_context(deterministic="ON")


def set_jit_level(cell: nn.Cell, level: str) -> None:
    """`O0`, `O1` or `O2` for the graph of one cell, before its first call."""
    cell.set_jit_config(ms.JitConfig(jit_level=level))


def device_name(device: Device) -> str | None:
    """Of the chip, as MindSpore names an NPU; None for others, and where it does not tell."""
    hal = getattr(ms, "hal", None)
    if device.kind != "ascend" or hal is None:
        return None
    try:
        return str(hal.get_device_name(device.index))
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None


def cann_version() -> str | None:
    """CANN's, as its installation tells it; None without."""
    found = find_cann(os.environ)
    return found.version if found else None


def cann_wanted() -> list[str]:
    """The versions of CANN that this MindSpore says it works with, as `Cann.compiler` has them; none if it is mute."""
    try:
        from mindspore.run_check._check_version import AscendEnvChecker
        return [str(version) for version in AscendEnvChecker(None).version]
    except (ImportError, AttributeError, TypeError):  # a part that no document promises
        return []


def has_avx512() -> bool:
    """True if this machine's processor has AVX-512 (read from Linux; elsewhere False)."""
    path = Path("/proc/cpuinfo")
    return path.is_file() and "avx512f" in path.read_text(errors="replace").split()


def cure_avx512() -> bool:
    """Has MindSpore's oneDNN use AVX2 in this process; call it before MindSpore's first operator.

    On processors with AVX-512 MindSpore 2.10 falls back to oneDNN's reference convolution, which takes 100 times as
    long. oneDNN reads its limit once, at its first operator, so one tiny convolution under the limit is enough; the
    variable is then removed again, because torch's own oneDNN is fast with AVX-512 and reads the same one. Results
    move by about 3e-6. A limit the user has set is left alone: `ONEDNN_MAX_CPU_ISA=DEFAULT` keeps oneDNN's choice.
    Returns whether the limit holds.
    """
    if _applied:
        return True
    if any(name in os.environ for name in ISA_VARIABLES) or not has_avx512():
        return False
    if ms.get_context("device_target") != "CPU":
        return False
    os.environ[ISA_VARIABLES[0]] = "AVX2"
    try:
        one = ms.Tensor(np.ones((1, 1, 1, 1), np.float32))
        with signals.kept_signals():
            ops.Conv2D(out_channel=1, kernel_size=1)(one, one).asnumpy()  # waits until it has run
    finally:
        del os.environ[ISA_VARIABLES[0]]
    _applied.append("AVX2")
    return True


def isa_limit() -> str | None:
    """The newest instruction set that MindSpore's oneDNN may use, as far as the user or `cure_avx512` has set it."""
    return next((os.environ[name] for name in ISA_VARIABLES if name in os.environ), _applied[0] if _applied else None)
