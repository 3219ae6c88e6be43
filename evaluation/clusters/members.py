"""The workers of a team as the driver knows them, and what Ray says when one is gone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from evaluation.clusters.pieces import Piece, Pieces


@dataclass(frozen=True, eq=False)
class Call:
    """ref: Ray's, of the answer. piece: what is worked on, one `of` these; None before the first."""

    ref: Any
    piece: Piece | None = None
    of: Pieces | None = None

    @property
    def alone(self) -> bool:
        """A worker was lost over it before, and whose fault it is shall be known."""
        return self.piece is not None and self.piece.lost > 0


@dataclass(eq=False)
class Member:
    """A worker. calls: those under way, the first of them is being done. about, told: what it says of its node and of
    its runner, once it has.
    """

    actor: Any
    calls: deque[Call] = field(default_factory=deque)
    about: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] | None = None
    slot: int = 0

    @property
    def name(self) -> str:
        return f"worker {self.about['pid']} on node {self.about['host']}" if self.about else "a worker"


def lost_kinds(ray: Any) -> tuple[type[BaseException], ...]:
    """Of Ray's exceptions those that say that a worker, its node or what it gave is gone."""
    names = ("RayActorError", "WorkerCrashedError", "NodeDiedError", "ObjectLostError", "OutOfMemoryError",
             "LocalRayletDiedError", "RaySystemError", "ActorUnschedulableError", "TaskUnschedulableError")
    return tuple(getattr(ray.exceptions, name) for name in names if hasattr(ray.exceptions, name))


def how_lost(error: BaseException) -> str:
    """In a few words of ours: Ray takes a page."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "OutOfMemory" in text or "memory pressure" in text:
        return "Ray ended it, for its node was short of memory"
    if "node has died" in text or "NodeDied" in type(error).__name__ or "node failed" in text or "node was" in text:
        return "its node left the cluster"
    return "its process was killed, or crashed"
