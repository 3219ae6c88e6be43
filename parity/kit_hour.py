"""The steps of a kit's run, one after the other, while there is time."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.kit_plan import TIMED_RUNS, TINY, Pace, Step, counted, told_seconds
from parity.kit_say import say
from parity.kit_session import LEAST_PATIENCE, PATIENCE, GoneError, LateError, Session
from parity.kit_store import Work

#: Seconds kept for writing the result: at least, and for each image.
CLOSING, CLOSING_EACH = 3.0, 0.05
#: A session that fails so often in a row is given up.
MOST_FAILURES = 2


class Hour:
    """kit: kit.json. device, jit_level: as `ms_models.runner` takes them. end: by `time.monotonic()`. first: seconds
    that the first step may take. told: what was left out or failed, a line each. broken: whether a step failed.
    """

    def __init__(self, kit: dict[str, Any], folder: Path, work: Work, device: str, jit_level: str | None, end: float,
                 first: float):
        self.told: list[str] = []
        self.broken = False
        self._kit, self._folder, self._work = kit, folder, work
        self._job = {"do": "serve", "folder": str(folder), "device": device, "jit_level": jit_level,
                     "parent": os.getpid()}
        self._end = end - CLOSING - CLOSING_EACH * len(kit["images"])
        self._pace = Pace(first)
        self._session: Session | None = None
        self._name = ""
        self._left: list[tuple[Step, float]] = []
        self._failures: dict[str, int] = {}

    def run(self, steps: Sequence[Step]) -> None:
        """Does what is not done yet and still fits."""
        done = [step for step in steps if self._work.done(step) is not None]
        for step in done:
            self._learn(step, self._work.done(step) or {})
        if done:
            say(f"{len(done)} of {len(steps)} steps are done already")
        for step in steps:
            if step not in done and self._possible(step):
                self._step(step)
        self._part()
        self._tell_left()

    def stopped(self, why: str) -> None:
        """Something that is no step's own fault has ended it, a full disk."""
        self.broken = True
        self.told.append(why)
        say(why)

    def _part(self) -> None:
        """Ends the process that is at work in good order, while there is time."""
        if self._session is not None:
            patience = min(PATIENCE, max(self._end - time.monotonic(), LEAST_PATIENCE))
            self._session.end(kindly=True, patience=patience)

    def close(self) -> None:
        """Ends the process that is at work."""
        if self._session is not None:
            self._session.end()
            self._session = None

    def _possible(self, step: Step) -> bool:
        """Whether a step can still be done in time, and what it needs is there."""
        if self._failures.get(step.session, 0) >= MOST_FAILURES:
            return False
        if step.kind == "repeat" and self._work.done(Step(step.mode, "record", step.image, "")) is None:
            return False
        needed = self._pace.of(step, self._pixels(step), step.session != self._name)
        if needed <= self._end - time.monotonic():
            return True
        self._left.append((step, needed))
        return False

    def _step(self, step: Step) -> None:
        began = time.monotonic()
        fresh = step.session != self._name or self._session is None  # so that it has to compile
        try:
            if fresh:
                self._start(step)
            assert self._session is not None
            given = self._session.ask(self._order(step), self._end)
        except LateError:
            self._session, self._name = None, ""
            self._left.append((step, time.monotonic() - began))
            return
        except GoneError as error:
            self._session, self._name = None, ""
            self._fail(step, str(error))
            return
        if "error" in given:
            self._fail(step, given["error"])
            return
        self._failures[step.session] = 0
        given |= {"pixels": self._pixels(step), "fresh": fresh}
        given["seconds"] = time.monotonic() - began
        self._work.save(step, given)
        self._learn(step, given)
        say(f"{step.told(self._names)}: {told_seconds(given['seconds'])}")

    def _start(self, step: Step) -> None:
        """A process for the step's session. Raises GoneError."""
        self._part()
        self._name = step.session
        stages = "probability" if step.kind == "timing" else "all"
        self._session = Session(self._folder, {**self._job, "mode": step.mode, "stages": stages},
                                self._work.folder / "mindspore.log")
        ready = self._session.ask(None, self._end)
        if "error" in ready:
            self._part()
            raise GoneError(ready["error"])
        self._pace.starts.append(ready["seconds"])

    def _order(self, step: Step) -> dict[str, Any]:
        recorded = Step(step.mode, "record", step.image, "")
        return {"kind": step.kind, "image": step.image, "trace": str(self._work.path(recorded, ".trace")),
                "level": "full" if step.image == TINY else "sampled", "runs": TIMED_RUNS}

    def _learn(self, step: Step, given: dict[str, Any]) -> None:
        """How long it took, for the estimates of what comes."""
        if step.kind != "record":
            return
        pixels, first, kept = int(given["pixels"]), float(given["first"]), float(given["kept"])
        if step.image == TINY:
            second = float(given["second"])
            self._pace.compiling.append(max(first - second, 0.0))
            self._pace.small.append((pixels, second, kept))
        elif not given["fresh"]:
            self._pace.images.append((pixels, first, kept))

    def _fail(self, step: Step, why: str) -> None:
        self.broken = True
        self._failures[step.session] = self._failures.get(step.session, 0) + 1
        given_up = self._failures[step.session] >= MOST_FAILURES
        line = f"{step.told(self._names)}: failed: {why}" + ("; the rest of it is given up" if given_up else "")
        self.told.append(line)
        say(line)

    def _tell_left(self) -> None:
        """One line for each mode and kind of step that was left out."""
        groups: dict[str, list[tuple[Step, float]]] = {}
        for step, needed in self._left:
            kind = "" if step.kind == "record" else f"{step.kind} of "
            groups.setdefault(f"{step.mode}: {kind}", []).append((step, needed))
        for name, group in groups.items():
            need = told_seconds(sum(needed for _step, needed in group))
            what = counted([step.of(self._names) for step, _needed in group])
            self.told.append(f"left out for want of time: {name}{what}, about {need}; the same command goes on with it")

    def _pixels(self, step: Step) -> int:
        entry = self._kit["tiny"] if step.image == TINY else self._kit["images"][step.image]
        return int(entry["shape"][2] * entry["shape"][3])

    @property
    def _names(self) -> list[str]:
        return [entry["name"] for entry in self._kit["images"]]
