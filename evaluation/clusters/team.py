"""Workers on a cluster: started, checked, given pieces, and replaced when they are lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbnet.errors import DbnetError, short
from dbnet.runner_names import RunnerName
from evaluation.clusters import process
from evaluation.clusters.connecting import is_alive
from evaluation.clusters.files import ImageFile, image_file
from evaluation.clusters.members import Call, Member, how_lost, lost_kinds
from evaluation.clusters.pieces import ABSENT, MOST, Piece, Pieces
from evaluation.clusters.places import Place
from evaluation.clusters.versions import check_same, distributions_of

#: A piece's work, from the places of its first image and of the one after its last, and its files.
Make = Callable[[int, int, Sequence[ImageFile]], Any]
#: Pieces that a worker has: while it works on one, the next one's images are on their way.
QUEUE = 2
#: Workers that may be lost one after the other before any is ready.
STARTS = 3
#: Seconds without any worker, because none has room; and between two looks at a head that is silent.
PATIENCE, LOOK_SECONDS = 120.0, 5.0
#: Seconds for all workers that have room to begin, once the first one has: they are compared before any work is done.
GRACE = 10.0
#: Looks in a row at a head that does not answer.
_LOOKS = 3


class Team:
    """count: workers, as far as they have room. opening: see `remote.Opening`. pinned: each keeps to cores of its own.
    most: images of a piece. head: the address by which the cluster's is seen from here, where it is not its own.

    told: what the first worker says of its runner; the others have said the same. ready: workers that were at once.
    nodes: of those that were ready, and their processors. pieces: that were done. notes: workers that were lost.
    """

    def __init__(self, ray: Any, place: Place, who: RunnerName, opening: Any, count: int, pinned: bool = False,
                 most: int = MOST, head: str | None = None):
        self._ray, self.place, self._who, self._opening, self._pinned = ray, place, who, opening, pinned
        self._distributions = distributions_of(who)
        self._here = process.versions(self._distributions)
        ray.cloudpickle.register_pickle_by_value(process)
        try:
            self._actors = ray.remote(process.Process)
            self._members = [self._hired() for _ in range(count)]
        finally:
            ray.cloudpickle.unregister_pickle_by_value(process)
        self._size, self._most, self.notes = count, most, list[str]()
        self.ready, self.nodes = 0, dict[str, str]()
        self.first: Member | None = None
        self._failed_starts = 0
        self._blind: set[str] = set()
        self._head = head or str(getattr(ray.get_runtime_context(), "gcs_address", ""))
        self.pieces = 0

    @property
    def told(self) -> dict[str, Any]:
        assert self.first is not None and self.first.told is not None, "start() comes first"
        return self.first.told

    def start(self) -> None:
        """Returns when a worker is ready, and every other one that has a node has been compared with this machine.
        Raises DbnetError."""
        until: float | None = None
        while self.first is None or any(member.told is None for member in self._members):
            self._wait(None, until)
            if until is None and any(member.about for member in self._members):
                until = time.monotonic() + GRACE
            if until is not None and time.monotonic() >= until and self.first is not None and not any(
                    member.about and member.told is None for member in self._members):
                return

    def map(self, images: Sequence[Path], make: Make) -> Generator[Any, None, None]:
        """The results of images, in their order. make: what a worker is to do with those from a place up to another,
        whose files these are. Raises DbnetError at an image that cannot be read or that is every worker's end, after
        the results before it.
        """
        pieces = Pieces(len(images), self._size, lambda i: str(images[i]), self._most)
        while True:
            yield from pieces.ready()
            if not pieces.left:
                return
            self._hand_out(pieces, images, make)
            self._wait(pieces)

    def close(self) -> None:
        """Ends the workers, those that have not begun too."""
        for member in self._members:
            with contextlib.suppress(*lost_kinds(self._ray), RuntimeError, ValueError, ConnectionError):
                self._ray.kill(member.actor, no_restart=True)
        self._members = []

    # ----

    def _hired(self) -> Member:
        actor = self._actors.options(**self.place.options(), max_restarts=0, max_task_retries=0).remote()
        member = Member(actor)
        member.calls.append(Call(actor.about.remote(self._distributions)))
        return member

    def _hand_out(self, pieces: Pieces, images: Sequence[Path], make: Make) -> None:
        """The workers that have least first, so that none gets two pieces while another has none."""
        for depth in range(1, QUEUE + 1):
            for member in self._members:
                busy = len(member.calls)
                if member.told is None or busy >= depth or any(call.alone for call in member.calls):
                    continue
                if (piece := pieces.next(idle=not busy)) is None:
                    continue
                files: list[ImageFile] = []
                for place in range(piece.first, piece.last):
                    try:
                        files.append(image_file(images[place], member.about["node"] in self._blind))
                    except DbnetError as error:
                        pieces.unreadable(place, str(error))
                        break
                if files:
                    piece = replace(piece, last=piece.first + len(files))
                    work = make(piece.first, piece.last, files)
                    member.calls.append(Call(member.actor.work.remote(work), piece, pieces))

    def _wait(self, pieces: Pieces | None, until: float | None = None) -> None:
        """Until something comes of a worker, or that time. Raises DbnetError if the cluster is gone, or has no room for
        any.
        """
        silent, begin = 0, time.monotonic()
        while True:
            waiting = {member.calls[0].ref: member for member in self._members if member.calls}
            assert waiting, "work is left, and nobody does any"
            seconds = LOOK_SECONDS if until is None else min(LOOK_SECONDS, max(0.1, until - time.monotonic()))
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=seconds)
            if ready:
                self._came(waiting[ready[0]], pieces)
            if ready or (until is not None and time.monotonic() >= until):
                return
            silent = 0 if is_alive(self._head) else silent + 1
            if silent == _LOOKS:
                raise self._beheaded()
            if not any(member.about for member in self._members) and time.monotonic() - begin > PATIENCE:
                raise DbnetError(f"no node of the Ray cluster has had room for a worker with {self.place} for "
                                 f"{PATIENCE:.0f} s; is it busy (ray status)? fewer --threads need less; with --save "
                                 f"the same command goes on from what is done")

    def _came(self, member: Member, pieces: Pieces | None) -> None:
        """The first call of a worker has ended."""
        call = member.calls[0]
        try:
            answer = self._ray.get(call.ref)
        except lost_kinds(self._ray) as error:
            self._replace(member, pieces, how_lost(error))
            return
        except self._ray.exceptions.RayTaskError as error:  # a bug of ours, or a node that is not whole
            raise RuntimeError(f"{member.name}: {short(str(error).strip().splitlines()[-1])}") from error
        member.calls.popleft()
        if call.piece is not None:
            if pieces is not None and call.of is pieces:  # else of a list of images that was given up
                self._done(member, call.piece, answer, pieces)
        elif not member.about:
            check_same(self._here, answer, self._who, self.first.about if self.first else None)
            member.about = answer
            others = {other.slot for other in self._members
                      if other is not member and other.about.get("node") == answer["node"]}
            member.slot = next(i for i in range(len(others) + 1) if i not in others)
            self._open(member)
        else:
            self._opened(member, answer)

    def _opened(self, member: Member, answer: Mapping[str, Any]) -> None:
        """Raises DbnetError for a model that does not open there, or is another than elsewhere."""
        if answer.get(ABSENT):
            self._blind.add(member.about["node"])
            self._open(member)
            return
        if "error" in answer:
            raise DbnetError(f"node {member.about['host']}: {answer['error']}")
        if self.first is not None:
            self._check_alike(member, answer)
        member.told, self._failed_starts = dict(answer), 0
        self.first = self.first or member
        self.ready = max(self.ready, sum(each.told is not None for each in self._members))
        self.nodes[member.about["node"]] = member.about["processor"]

    def _check_alike(self, member: Member, answer: Mapping[str, Any]) -> None:
        assert self.first is not None and self.first.told is not None
        ours, theirs = self.first.told, answer
        told, other = ({**each["environment"], "model": each["digest"]} for each in (ours, theirs))
        skipped = {"threads"} if self.place.card else set()
        for key in {**told, **other}.keys() - skipped:
            if told.get(key) != other.get(key):
                raise DbnetError(f"node {member.about['host']}: {key} is {short(other.get(key), 60)} there and "
                                 f"{short(told.get(key), 60)} on node {self.first.about['host']}; they would not give "
                                 f"the same digits: use nodes of one kind")

    def _done(self, member: Member, piece: Piece, answer: Any, pieces: Pieces) -> None:
        if answer == ABSENT:
            self._blind.add(member.about["node"])
            pieces.back(piece)
            return
        self.pieces += 1
        pieces.done(piece, answer)

    def _replace(self, member: Member, pieces: Pieces | None, how: str) -> None:
        """A lost worker: what it was doing counts as lost over it, what was waiting does not."""
        if not is_alive(self._head):  # else Ray would wait for it, and then end this process
            raise self._beheaded()
        self._members.remove(member)
        with contextlib.suppress(*lost_kinds(self._ray), RuntimeError, ValueError):
            self._ray.kill(member.actor, no_restart=True)
        if member.told is None:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise DbnetError(f"{self._failed_starts} workers were lost one after the other before they were ready: "
                                 f"{member.name}: {how}; does the model run there alone?")
        self._members.append(self._hired())
        given = [call.piece for call in member.calls if call.piece is not None and call.of is pieces]
        if given and pieces is not None:
            for piece in reversed(given[1:]):
                pieces.back(piece)
            images = pieces.told(given[0])
            self.notes.append(f"{member.name} was lost ({how}), and {images} done again by another")
            pieces.lost(given[0], how)
        elif member.told is not None:
            self.notes.append(f"{member.name} was lost ({how}), without a loss")

    def _open(self, member: Member) -> None:
        threads = self.place.threads
        opening = self._opening.for_node(member.about["node"] in self._blind)
        cores = (member.slot * threads, threads) if self._pinned else None
        member.calls.append(Call(member.actor.open.remote(opening, cores)))

    def _beheaded(self) -> DbnetError:
        self._members = []  # nobody is there to end them; they end by themselves
        return DbnetError(f"the head of the Ray cluster ({self._head}) does not answer any more; with --save the same "
                          f"command goes on from what is done")
