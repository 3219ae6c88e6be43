"""Which layers have to stay float32: the smallest set that was found, and what is left of the drift with it.

Each layer alone is put into half precision first, which gives an order. A set is then the shortest beginning of that
order that is enough, less what it can do without; it is the smallest that this way finds, not of all there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dbnet.precision import always_float32
from dbnet.sample import Sample
from evaluation.detect import probability_map
from evaluation.precision import Drift, Images, PrecisionReport, Setup, input_of, measure, worst_images

#: Images that the search runs on: those with the largest drift.
WORST = 2
#: The part of an image that each layer alone is tried on: height and width in pixels.
PART = (416, 640)
#: Runs that are spent on making the set smaller, and on making it larger where all images ask for more.
PRUNING, WIDENING = 16, 4
#: Whether a drift is small enough.
Aim = Callable[[Drift], bool]


@dataclass(frozen=True, eq=False)
class KeptSet:
    """A set of layers that stay float32, in the order of the network; the drift of all images with it; whether that is
    what was aimed at.
    """

    keep: tuple[str, ...]
    drift: Drift
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"keep_float32": list(self.keep), "met": self.met, "drift": self.drift.to_dict()}


@dataclass(frozen=True, eq=False)
class Search:
    """alone: layer -> how far the probability is off where that layer alone is in half precision; infinite where it is
    no number; empty where the sets were found without. for_range: what overflows, None if nothing does. for_boxes:
    keeps every box. for_goal: keeps the probabilities within the goal too. layers: among which it was searched. tried:
    networks that were run.
    """

    alone: dict[str, float]
    for_range: KeptSet | None
    for_boxes: KeptSet
    for_goal: KeptSet
    layers: int
    tried: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None stands for infinite."""
        return {"for_range": self.for_range.to_dict() if self.for_range else None,
                "for_boxes": self.for_boxes.to_dict(), "for_goal": self.for_goal.to_dict(),
                "layers": self.layers, "tried": self.tried,
                "alone": {name: error if np.isfinite(error) else None for name, error in self.alone.items()}}


class Searcher:
    """step: told of every network that is tried, before it is run, in words."""

    def __init__(self, report: PrecisionReport, images: Images, step: Callable[[str], object] = lambda _what: None):
        self.report, self.images, self.step, self.tried = report, images, step, 0
        self.setup: Setup = report.setup
        self.reference = _Remembered(self.setup.open("float32"))
        fixed = always_float32(self.setup.model.record.spec)
        self.layers = [layer for layer in self.setup.layers if layer not in fixed]
        self.worst = worst_images(report.drift, images, WORST)
        self.alone: dict[str, float] = {}

    def search(self, samples: Sequence[Sample] = (), protocols: Sequence[str] = ()) -> Search:
        """samples, protocols: for the F-scores with the sets. Raises DbnetError if no image can be used."""
        goal, drift = self.report.goal, self.report.drift
        scored = (samples, protocols)
        needed, for_range = [name for name in self.layers if name in self.needed()], None
        if needed:
            found = self._run(needed, self.images, *scored)
            for_range = KeptSet(tuple(needed), found, not found.nonfinite)
        for_boxes = KeptSet((), drift, True) if drift.same_boxes() else self._found(Drift.same_boxes, 0, scored)
        for_goal = for_boxes
        if not for_boxes.drift.within(goal):
            for_goal = self._found(lambda found: found.within(goal), len(for_boxes.keep), scored)
        return Search(self.alone, for_range, for_boxes, for_goal, len(self.layers), self.tried)

    def _found(self, aim: Aim, least: int, scored: tuple[Sequence[Sample], Sequence[str]]) -> KeptSet:
        """least: layers that are known to be too few, or just enough for less. What overflows may be all that it is."""
        needed = [name for name in self.layers if name in self.needed()]
        if needed and self._meets(needed, aim):
            keep = needed
        else:
            order = self._order()
            keep = order[:self._shortest(order, max(least, len(needed)), aim)]
        return self._on_all(self._pruned(keep, aim), aim, *scored)

    def _order(self) -> list[str]:
        """What overflows first, then by what each layer alone does."""
        self.alone = self.alone or self._alone()
        needed = self.needed()
        return sorted(self.layers, key=lambda name: (name not in needed, -self.alone[name]))

    def _alone(self) -> dict[str, float]:
        part = _part_of(self.setup, self.reference, self.worst[0][1])
        exact = probability_map(self.reference, part)
        found = {}
        for name in self.layers:
            runner = self._opened([other for other in self.layers if other != name], f"{name} alone in half precision")
            far = np.abs(np.asarray(runner.run(part)["probability"])[0, 0] - exact).max()
            found[name] = float(far) if np.isfinite(far) else float("inf")
        return found

    def needed(self) -> set[str]:
        """The layers whose weights or outputs overflow, those before an operator that does, and those that take what
        does: they would make it infinite again.
        """
        found, last = set(), ""
        for counts in self.report.layers:
            last = counts.name if counts.is_layer else last
            if counts.overflows and last in self.layers:
                found.add(last)
            if counts.taken.overflows and counts.name in self.layers:
                found.add(counts.name)
        return found

    def _shortest(self, order: list[str], least: int, aim: Aim) -> int:
        """How many of the order are enough on the worst images: doubled until they are, then halved between."""
        below, length = least - 1, least
        while length < len(order) and not self._meets(order[:length], aim):
            below, length = length, min(len(order), max(length + 1, 2 * length - least))
        while length - below > 1:
            middle = (below + length) // 2
            if self._meets(order[:middle], aim):
                length = middle
            else:
                below = middle
        return length

    def _pruned(self, keep: list[str], aim: Aim) -> list[str]:
        """Without the parts that are not needed: halves first, then quarters, ..., from the end of the order."""
        budget, size = PRUNING, max(len(keep) // 2, 1)
        while keep and size and budget > 0:
            for begin in range(len(keep) - size, -1, -size):
                rest = keep[:begin] + keep[begin + size:]
                budget -= 1
                if budget >= 0 and self._meets(rest, aim):
                    keep = rest
            size //= 2
        return keep

    def _on_all(self, keep: list[str], aim: Aim, samples: Sequence[Sample], protocols: Sequence[str]) -> KeptSet:
        """With all images, which may ask for more layers than the worst did."""
        drift = self._run(keep, self.images, samples, protocols)
        for _ in range(WIDENING):
            if aim(drift) or len(keep) == len(self.layers):
                break
            rest = [name for name in self._order() if name not in keep]
            keep = keep + rest[:max(1, len(self.layers) // 8)]
            drift = self._run(keep, self.images, samples, protocols)
        return KeptSet(tuple(name for name in self.layers if name in set(keep)), drift, aim(drift))

    def _meets(self, keep: Sequence[str], aim: Aim) -> bool:
        return aim(self._run(keep, self.worst))

    def _run(self, keep: Sequence[str], images: Images, samples: Sequence[Sample] = (),
             protocols: Sequence[str] = ()) -> Drift:
        runner = self._opened(keep, f"{len(keep)} layers in float32")
        return measure(self.setup, self.reference, runner, images, samples, protocols)

    def _opened(self, keep: Sequence[str], what: str) -> Any:
        self.step(what)
        self.tried += 1
        return self.setup.open(self.setup.precision, keep)


class _Remembered:
    """A runner that remembers what it gave for the last few inputs, since the search asks for the same again."""

    def __init__(self, runner: Any):
        self._runner = runner
        self._known: dict[int, dict[str, np.ndarray]] = {}
        self.name, self.device, self.spec = runner.name, runner.device, runner.spec

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        key = hash((images.shape, images.tobytes()))
        if key not in self._known:
            if len(self._known) > WORST:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._runner.run(images)
        return self._known[key]

    def environment(self) -> dict[str, Any]:
        told: dict[str, Any] = self._runner.environment()
        return told


def _part_of(setup: Setup, reference: Any, path: str) -> np.ndarray:
    """The part of an image that has most text, as the network takes it: (1, 3, h, w) float32, at most `PART`."""
    tensor = input_of(setup, path)
    found = probability_map(reference, tensor)
    top, left = np.unravel_index(int(found.argmax()), found.shape)
    slices = []
    for centre, side, most in zip((top, left), found.shape, PART, strict=True):
        length = min(side, most)
        begin = min(max(int(centre) - length // 2, 0), side - length)
        slices.append(slice(begin, begin + length))
    return np.ascontiguousarray(tensor[:, :, slices[0], slices[1]])
