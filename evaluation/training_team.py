"""One training in several processes: who has started them, how they come together, and how they end together."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import installed, require
from dbnet.launch import COMMANDS, Launch, find_launch
from dbnet.recipe import Recipe
from dbnet.sample import Sample
from evaluation.training_folder import SUFFIXES
from evaluation.training_parts import StoppedError
from evaluation.training_peers import Peers, connect
from evaluation.training_resume import differences

#: backend -> the package of its half, which can be imported where the framework is installed.
HALVES = {"torch": "torch_reference", "mindspore": "ms_models"}


class World(Protocol):
    """What both halves have: `torch_reference.world.World`, `ms_models.world.World`."""

    rank: int
    size: int
    device: str

    def total(self, values: np.ndarray) -> np.ndarray: ...

    def leave(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Team:
    """backend: the framework. device: of this process, None for the best. world: None for a process alone.
    local_size: processes on this machine. repeatable: the framework is to compute the same each time."""

    backend: str
    device: str | None = None
    peers: Peers = field(default_factory=Peers)
    world: World | None = None
    local_size: int = 1
    repeatable: bool = False

    @property
    def rank(self) -> int:
        return self.peers.rank

    @property
    def size(self) -> int:
        return self.peers.size

    def check_alike(self, settings: Mapping[str, str], samples: Sequence[Sample]) -> None:
        """Raises DbnetError, in all processes, if one of them has another recipe, or other images by name and label:
        their pixels are not looked at."""
        ours = dict(settings) | {"--deterministic": str(self.repeatable)}
        (first, count, digest), *others = self.peers.exchange([ours, len(samples), _digest(samples)])
        for rank, (theirs, images, other) in enumerate(others, 1):
            told = list(differences(first, theirs, "{} is {}, and {}"))
            if told:
                raise DbnetError(f"processes 0 and {rank} have different recipes: {'; '.join(told[:3])}; start "
                                 f"all with the same command")
            if (images, other) != (count, digest):
                raise DbnetError(f"process {rank} of {self.size} has other images than process 0 ({images}, and not "
                                 f"{count}), or with other labels, or in another order; all need the same data set")


def _digest(samples: Sequence[Sample]) -> str:
    """Of all names, outlines and flags, in order."""
    found = hashlib.sha256()
    for sample in samples:
        found.update(f"{sample.name}\0{[polygon.shape for polygon in sample.polygons]}\0".encode())
        for array in (*sample.polygons, sample.ignore):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@contextlib.contextmanager
def joined(recipe: Recipe, backend: str | None, device: str | None, repeatable: bool = False) -> Iterator[Team]:
    """The team of this process, for as long as it trains. If it fails in there, all do.

    repeatable: the framework is to compute the same each time. Raises DbnetError if `system.distribute` and what has
    started this process do not go together, and PeerError if another process has failed.
    """
    launch = launch_of(recipe)
    if launch is not None and launch.backend == "mindspore":
        os.environ.setdefault("GLOG_v", "3")  # else it tells, once imported, of every attempt to find the others
    backend = choose_backend(backend, launch)
    half = HALVES[backend]
    if repeatable:
        importlib.import_module(f"{half}.train").be_repeatable()
    if launch is None:
        yield Team(backend, device, repeatable=repeatable)
        return
    world: World = importlib.import_module(f"{half}.world").World(launch, device)
    peers = connect(world.rank, world.size, _host(launch), world.total)
    try:
        yield Team(backend, world.device, peers, world, launch.local_size, repeatable)
        peers.exchange()
    except DbnetError as error:
        told = peers.wait() if isinstance(error, StoppedError) and peers.rank else peers.fail(error)
        if told is None or told is error:
            raise
        raise told from error
    finally:
        peers.close()
    world.leave()


def launch_of(recipe: Recipe) -> Launch | None:
    """What has started this process as one of several; None for one alone. Raises DbnetError if the recipe does not
    go together with it."""
    launch, wanted = find_launch(), recipe.get("system.distribute")
    if launch is None and wanted:
        raise DbnetError(f"{recipe.where('system.distribute')}: True is a training in several processes, and this is "
                         f"one; start it with {COMMANDS}, or give -o system.distribute=False")
    if launch is None or (launch.size == 1 and launch.launcher != "msrun"):  # which waits until its processes have met
        return None
    if not wanted and launch.size > 1:
        raise DbnetError(f"{launch.launcher} started {launch.size} processes, and system.distribute is False; give -o "
                         f"system.distribute=True to share one training among them (train.loader.batch_size is of "
                         f"each), or start one process without {launch.launcher}")
    return launch


def choose_backend(name: str | None, launch: Launch | None = None) -> str:
    """The one of that name, or the launcher's, or the one that is installed. Raises DbnetError if it is not."""
    if launch is not None:
        if name is not None and name != launch.backend:
            raise DbnetError(f"{launch.launcher} starts {launch.backend}, not {name}; use {COMMANDS}")
        name = name or launch.backend
    name = name or next((backend for backend in SUFFIXES if installed(backend)), "torch")
    require(name)  # says what to install
    return name


def _host(launch: Launch) -> str:
    """Where the other processes find the first one."""
    if launch.local_size == launch.size and launch.launcher != "msrun":
        return "127.0.0.1"
    return launch.host or socket.gethostname()
