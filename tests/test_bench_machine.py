"""What `dbnet bench` says of a machine's accelerators, by the tools of their makers."""

from __future__ import annotations

import pytest

from dbnet.cli.bench_print import told_card
from evaluation.benching import machine

NVIDIA = """case "$1" in
--query*) printf 'NVIDIA H100 80GB HBM3, 550.54.15, 81559 MiB\\nNVIDIA H100 80GB HBM3, 550.54.15, 81559 MiB\\n';;
*) echo '| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4     |';;
esac"""
ASCEND = """cat <<'END'
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 92.1        43                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3317 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | Warning       | 91.0        44                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3317 / 65536         |
+===========================+===============+====================================================+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 12345         | python                   | 3317                    |
END"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Puts a tool of that name and source before all others."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def put(name: str, source: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{source}\n")
        (tmp_path / name).chmod(0o755)

    return put


def test_cards_of_nvidia_are_counted(tools):
    tools("nvidia-smi", NVIDIA)
    [card] = machine.machine(None, {})["accelerators"]
    assert card == {"name": "NVIDIA H100 80GB HBM3", "count": 2, "driver": "550.54.15", "firmware": None,
                    "cuda": "12.4", "memory": "81559 MiB"}
    assert told_card(card) == "2 x NVIDIA H100 80GB HBM3 (driver 550.54.15, CUDA 12.4)"


def test_cards_of_ascend_stand_with_driver_firmware_and_cann(tools, tmp_path, monkeypatch):
    tools("npu-smi", ASCEND)
    (tmp_path / "firmware").write_text("Version=7.3.0.1.231\nfirmware_version=1.0\n")
    (tmp_path / "driver").write_text("Version=24.1.rc2\n")
    (tmp_path / "cann").mkdir()
    (tmp_path / "cann/version.cfg").write_text("runtime_running_version=[7.3.0.1.231:8.0.RC2]\n")
    monkeypatch.setattr(machine, "_FIRMWARE", tmp_path / "firmware")
    monkeypatch.setattr("dbnet.running._ASCEND_DRIVER", tmp_path / "driver")
    [card] = machine.machine(None, {"ASCEND_HOME_PATH": str(tmp_path / "cann")})["accelerators"]
    assert card == {"name": "Ascend 910B3", "count": 2, "driver": "24.1.rc2", "firmware": "7.3.0.1.231",
                    "cann": "8.0.RC2"}
    assert told_card(card) == "2 x Ascend 910B3 (driver 24.1.rc2, firmware 7.3.0.1.231, CANN 8.0.RC2)"


@pytest.mark.parametrize("source", ["exit 9", "echo NVIDIA-SMI has failed", "kill -9 $$", "printf '\\377,\\376'"])
def test_a_tool_that_fails_tells_of_no_card(tools, source):
    tools("nvidia-smi", source)
    tools("npu-smi", source)
    assert machine.machine(None, {})["accelerators"] == []


def test_the_rest_is_of_this_machine():
    told = machine.machine("a label", {})
    assert told["label"] == "a label" and told["cores"] >= 1 and told["memory_bytes"] > 1e8 and told["cpu"]
    assert machine.busy() >= 0
