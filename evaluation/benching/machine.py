"""What a benchmark's numbers depend on beside the software: processor, memory, accelerators with their drivers.

Read from what the systems say of themselves; nothing is imported for it.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbnet.cann import find_cann
from dbnet.running import driver_version

#: Seconds for a vendor's own tool.
PATIENCE = 20.0
_NVIDIA = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
_FIRMWARE = Path("/usr/local/Ascend/firmware/version.info")
#: A line of `npu-smi info` with a card: `| 0     910B3 | OK | 92.1 ...`.
_NPU = re.compile(r"^\|\s*\d+\s+(?:\d+\s+)?(\d{3}\w*|Ascend\w*)\s*\|\s*\w+\s*\|")


def machine(label: str | None, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`Bundle.machine`."""
    return {"cpu": _processor(), "cores": cores(), "memory_bytes": os.sysconf("SC_PHYS_PAGES") *
            os.sysconf("SC_PAGE_SIZE"), "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "python": platform.python_version(), "accelerators": [*_nvidia(), *_ascend(environ)], "label": label}


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> float:
    """The load average of the last minute: processes that run or want to."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Hardware|Processor)\s*:\s*(\S.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _nvidia() -> list[dict[str, Any]]:
    cards = Counter(tuple(part.strip() for part in line.split(",")) for line in _said(_NVIDIA).splitlines())
    return [{"name": card[0], "count": count, "driver": card[1], "firmware": None, "cuda": _cuda(), "memory": card[2]}
            for card, count in cards.items() if len(card) == 3]


def _cuda() -> str | None:
    """The newest CUDA that the driver runs."""
    found = re.search(r"CUDA Version:\s*([\d.]+)", _said(("nvidia-smi",)))
    return found[1] if found else None


def _ascend(environ: Mapping[str, str]) -> list[dict[str, Any]]:
    cards = Counter(found[1] for line in _said(("npu-smi", "info")).splitlines() if (found := _NPU.match(line)))
    cann, driver = find_cann(environ), driver_version("ascend")
    if not cards and driver:  # the tool is not there, and the driver is
        cards["Ascend"] = 1
    return [{"name": name if name.startswith("Ascend") else f"Ascend {name}", "count": count, "driver": driver,
             "firmware": _firmware(), "cann": cann.version if cann else None} for name, count in cards.items()]


def _firmware() -> str | None:
    try:
        found = re.search(r"^Version=(\S+)", _FIRMWARE.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def _said(command: tuple[str, ...]) -> str:
    """What a tool prints; nothing if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
