"""Whether a machine can do what a kit is for, told line by line before anything is started."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbnet.cann import HOMES, Cann, find_cann
from dbnet.errors import DbnetError, short
from dbnet.running import Device
from parity.kit_plan import told_seconds
from parity.kit_session import LEAST_PATIENCE, PATIENCE, GoneError, LateError, Session
from parity.trace import machine

#: Seconds in which MindSpore is imported and asked for its device. An NPU's driver takes its time at first.
ASKING = 300.0
#: Which NPUs a process sees, counted anew from 0.
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
#: What of the surroundings moves a CPU's last bits, beside its cores.
_CPU_VARIABLES = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
#: Bytes of a probability map's pixel in the work so far, in each mode, and what an image's statistics and samples take.
MAP_BYTES, ROWS_BYTES = 4, 300_000
#: Floats that all stages of the widest network have for each pixel of the image, more than once while they are copied.
FLOATS_PER_PIXEL = 60 * 4
#: Bytes that MindSpore takes before it has done anything.
MINDSPORE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Check:
    """One line. problem: why nothing may be started, with what to do; None if it is well."""

    name: str
    told: str
    problem: str | None = None


def look(kit: dict[str, Any], folder: Path, result: Path, device: Device, text: str, any_cann: bool,
         environ: Mapping[str, str], until: float) -> tuple[list[Check], dict[str, Any]]:
    """The checks, and what identifies this place in results. text: the device as MindSpore's runner takes it. until:
    when there must be an answer, by `time.monotonic()`.

    Whatever needs MindSpore is asked in a process of its own.
    """
    asked = _ask(folder, text, until)
    cann = find_cann(environ)
    version = asked.get("mindspore")
    checks = [Check("python", f"{platform.python_version()} on {platform.machine()}, {platform.system()}"),
              Check("numpy", str(asked.get("numpy", "not asked"))),
              Check("mindspore", str(version or "none"), None if version else _unasked(asked))]
    if version:
        checks += [_cann(cann, device, asked, any_cann), _device(cann, device, asked, environ)]
    checks += [*_room(kit, result, device)]
    identity = {"device": text, "mindspore": version, "numpy": asked.get("numpy"), "driver": asked.get("driver"),
                "chip": asked.get("chip"), "cann": cann.version if cann and device.kind == "ascend" else None}
    return checks, identity | _surroundings(device, environ)


def _surroundings(device: Device, environ: Mapping[str, str]) -> dict[str, Any]:
    """What else decides on the bits: under other threads a repeat compares nothing."""
    if device.kind == "ascend":
        return {VISIBLE: environ.get(VISIBLE)}
    here = machine()
    return {key: here[key] for key in ("processor", "cores")} | {name: environ.get(name) for name in _CPU_VARIABLES}


def _unasked(asked: dict[str, Any]) -> str:
    """Why MindSpore has not answered, and what to do."""
    if asked.get("absent"):
        return (f"{asked['error']}; start run.py with the interpreter that has MindSpore: {sys.executable} has not")
    return (f"{asked['error']}; try {sys.executable} -c 'import mindspore', and source CANN's set_env.sh if that fails")


def settings_told(kind: str, jit_level: str | None) -> list[Check]:
    """Under which settings it will run."""
    level = jit_level or "MindSpore's own choice"
    if kind != "ascend":
        return [Check("settings", f"exact and default are the same on this device; jit level: {level}")]
    return [Check("settings", f"exact: must_keep_origin_dtype, HF32 off for convolutions and products, deterministic; "
                              f"default: nothing set; fp16: force_fp16; jit level: {level}")]


def _ask(folder: Path, device: str, until: float) -> dict[str, Any]:
    began = time.monotonic()
    end = min(began + ASKING, until)
    session = None
    try:
        session = Session(folder, {"do": "preflight", "device": device, "parent": os.getpid()}, None)
        told = session.ask(None, end)
        session.end(kindly=True, patience=min(PATIENCE, max(until - time.monotonic(), LEAST_PATIENCE)))
        return told
    except LateError:
        return {"error": f"MindSpore did not answer within {told_seconds(max(end - began, 0.0))}"}
    except GoneError as error:
        return {"error": f"MindSpore could not be asked: {error}"}
    finally:
        if session is not None:
            session.end()


def _cann(cann: Cann | None, device: Device, asked: dict[str, Any], any_cann: bool) -> Check:
    wanted = asked["cann_wanted"]
    if cann is None:
        return Check("cann", "not needed" if device.kind != "ascend" else
                     f"not found: {' and '.join(HOMES)} name no folder (source .../set_env.sh)")
    told = f"{cann.version} in {cann.home}"
    if device.kind != "ascend" or cann.compiler is None or not wanted or cann.compiler in wanted:
        return Check("cann", told)
    problem = (f"CANN {cann.compiler} ({cann.home}) does not fit MindSpore {asked['mindspore']}, which works with "
               f"{', '.join(wanted)}; source the set_env.sh of one of these, or add --any-cann to try")
    return Check("cann", f"{told}, and MindSpore works with {', '.join(wanted)}", None if any_cann else problem)


def _device(cann: Cann | None, device: Device, asked: dict[str, Any], environ: Mapping[str, str]) -> Check:
    driver = f", driver {asked['driver']}" if asked["driver"] else ""
    if device.kind == "ascend" and environ.get(VISIBLE):
        driver += f", {VISIBLE}={short(environ[VISIBLE])}"
    name = "CPU" if device.kind == "cpu" else f"Ascend:{device.index}"
    if asked["device"] is None:
        return Check("device", name + (f", {asked['chip']}" if asked["chip"] else "") + driver)
    if device.kind != "ascend":
        return Check("device", f"no {name}", f"{asked['device']}; choose another --device")
    where = f"CANN was not found, source its set_env.sh{driver}" if cann is None else f"CANN is {cann.version}{driver}"
    return Check("device", "no Ascend NPU", f"no Ascend NPU is visible to MindSpore {asked['mindspore']}: "
                                            f"{asked['device']}; {where}; --device CPU rehearses")


def _room(kit: dict[str, Any], result: Path, device: Device) -> list[Check]:
    """Of the disk for the work so far, and of memory for the largest image."""
    pixels = [entry["shape"][2] * entry["shape"][3] for entry in kit["images"]]
    modes = 3 if device.kind == "ascend" else 2
    needed = modes * sum(size * MAP_BYTES + ROWS_BYTES for size in pixels) + 3 * kit["limit"]
    free = shutil.disk_usage(result.parent).free
    checks = [Check("disk", f"{_bytes(free)} free, {_bytes(needed)} needed", None if free >= needed else
                    f"{result.parent}: has {_bytes(free)} free, and the work needs {_bytes(needed)}; name another "
                    f"--out")]
    memory = _memory()
    wanted = MINDSPORE_BYTES + 4 * FLOATS_PER_PIXEL * max(pixels)
    if memory is None:
        return [*checks, Check("memory", f"not known, {_bytes(wanted)} needed")]
    return [*checks, Check("memory", f"{_bytes(memory)} free, {_bytes(wanted)} needed", None if memory >= wanted else
                           f"{_bytes(memory)} of memory are free, and the largest image needs {_bytes(wanted)}; end "
                           f"other programs, or make the kit of smaller images (--pixels)")]


def _memory() -> int | None:
    """Free bytes of memory; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def refuse(checks: list[Check]) -> None:
    """Raises DbnetError with the first problem."""
    problem = next((check.problem for check in checks if check.problem), None)
    if problem is not None:
        raise DbnetError(problem)
