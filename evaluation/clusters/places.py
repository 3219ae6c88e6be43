"""What a worker needs of a node: Ascend's cards are Ray's resource `NPU`, NVIDIA's its `GPU`, everything else runs on
CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbnet.errors import DbnetError
from dbnet.onnx_providers import PROVIDERS
from dbnet.runner_names import RunnerName
from dbnet.running import parse_device

#: Ray's names.
CPU, GPU, NPU = "CPU", "GPU", "NPU"
#: kind of device -> resource.
_RESOURCES = {"gpu": GPU, "ascend": NPU, "cpu": CPU}
#: Which cards a framework takes where nobody says which, the best first.
_OWN = {"mindspore": (NPU, GPU), "torch": (GPU,)}
#: What each framework calls the card that Ray gives to a worker, of which it sees no other.
_NAMES = {("mindspore", NPU): "ascend", ("torch", NPU): "npu", ("mindspore_lite", NPU): "ascend",
          ("onnxruntime", NPU): "npu"}


@dataclass(frozen=True)
class Place:
    """threads: of the CPU, all of one node. card: `GPU`, `NPU` or None. device: as the worker's runner is told, None
    where its name says it.
    """

    threads: int
    card: str | None = None
    device: str | None = None

    @property
    def needs(self) -> dict[str, float]:
        """By Ray's names."""
        return {CPU: float(self.threads)} | ({self.card: 1.0} if self.card else {})

    def options(self) -> dict[str, Any]:
        """For an actor of Ray."""
        return {"num_cpus": self.threads, "num_gpus": 1 if self.card == GPU else 0,
                "resources": {NPU: 1} if self.card == NPU else {}}

    def __str__(self) -> str:
        many = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return many if self.card is None else f"{many} and 1 {self.card}"


def place_for(who: RunnerName, device: str | None, threads: int | None, nodes: Sequence[Mapping[str, float]]) -> Place:
    """nodes: the resources of each, by Ray's names. threads: default 1.

    Raises DbnetError for a card that no node has, and for one of several by its number.
    """
    count = threads or 1
    there = {name for node in nodes for name in (GPU, NPU) if node.get(name, 0) >= 1}
    wanted = _asked_for(who, device)
    if wanted is None:
        wanted = next((card for card in _OWN.get(who.framework, ()) if card in there), CPU)
    if wanted == CPU:
        return Place(count, None, None if who.says_device else "cpu")
    if wanted not in there:
        raise DbnetError(f"no node of the cluster has Ray's resource {wanted}; start Ray on those with cards "
                         f"(ray start ... {'--num-gpus=N' if wanted == GPU else '--resources=' + _AS_JSON}), or give "
                         f"--device cpu")
    return Place(count, wanted, None if who.says_device else _NAMES.get((who.framework, wanted), "cuda"))


_AS_JSON = """'{"NPU": N}'"""


def _asked_for(who: RunnerName, device: str | None) -> str | None:
    """The resource that a user names, None for no word of it."""
    if device is not None:
        if who.framework == "openvino":  # cards of Intel's, which Ray does not know
            return CPU
        asked = parse_device(device)
        if asked.index:
            raise DbnetError(f"--device {device}: on a cluster Ray gives each worker a card of its own, so none is "
                             f"chosen by its number; write {device.partition(':')[0]}")
        return _RESOURCES[asked.kind]
    if who.framework == "onnxruntime":
        kinds = PROVIDERS[who.variant].kinds if who.variant in PROVIDERS else ()
        return _RESOURCES[kinds[0]] if kinds else CPU
    if who.framework == "mindspore_lite" and who.variant == "ascend":
        return NPU
    return None


def room(place: Place, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers have room on the nodes, were they empty."""
    return sum(int(min(node.get(name, 0) // amount for name, amount in place.needs.items())) for node in nodes)


def check_room(place: Place, nodes: Sequence[Mapping[str, float]]) -> int:
    """The same. Raises DbnetError for none."""
    if count := room(place, nodes):
        return count
    told = [", ".join(f"{int(node.get(name, 0))} {name}" for name in (CPU, GPU, NPU)
                      if node.get(name, 0) or name == CPU) for node in nodes]
    shown = "; ".join(told[:4]) + (f"; and {len(told) - 4} more" if len(told) > 4 else "")
    raise DbnetError(f"no node of the cluster has room for a worker with {place} (nodes: {shown or 'none'}); give "
                     f"fewer --threads, or add a node")
