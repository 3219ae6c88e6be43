"""What makes the difference between two models: one part of B after the other in A, and every mixture of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import Prepared, prepare, read_bytes
from dbnet.sample import Detection, Sample
from dbnet.spec import BoxRule, PixelFormat
from evaluation import pictures
from evaluation.compare_maps import Side
from evaluation.detect import probability_map
from evaluation.pipeline import naming
from evaluation.protocols import Protocol, Result
from evaluation.protocols.table import find
from evaluation.shapley import apportioned, shapley
from evaluation.swap_parts import Mixture, Part, mixtures, parts_of

#: F-scores closer than this are equal: they are quotients of the same counts.
NO_DIFFERENCE = 1e-12


@dataclass(frozen=True)
class Share:
    """What one part makes of the difference; None where nothing was measured.

    boxes, fscore: its Shapley value, `*_share` as a fraction of the total (None for a total of 0). They may be
    negative: what one part breaks, another may mend. alone_*: A with this part of B against A, boxes in one of the two
    only and difference in F.
    """

    part: str
    what: str
    boxes: float | None = None
    boxes_share: float | None = None
    fscore: float | None = None
    fscore_share: float | None = None
    alone_boxes: int | None = None
    alone_fscore: float | None = None


@dataclass(frozen=True)
class Attribution:
    """parts: those that differ, the largest share in the boxes first. images: that went through every mixture; failed:
    why the others did not, one line each. labelled: of the images, those that F is of.

    total_boxes: boxes of A that B has not with the same corners, and the other way round; total_fscore: B's less A's.
    Both are the sums of what the parts are given. protocol: by which F was counted.
    """

    parts: list[Share] = field(default_factory=list)
    images: int = 0
    total_boxes: int | None = None
    total_fscore: float | None = None
    protocol: str | None = None
    labelled: int = 0
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line, such as `94 % resize_rule, 6 % box_thresh of the 50 boxes that differ`."""
        if not self.parts:
            return "nothing to exchange: A and B are the same in pixels, network, box rule and protocol"
        if not self.images:
            return "nothing is known of what makes the difference: no image went through every mixture of A and B"
        if self.total_boxes:
            boxes = f"{self._told('boxes_share', 100, '{} %')} of the {self.total_boxes} boxes that differ"
        else:
            cancel = any(share.alone_boxes for share in self.parts)
            boxes = "no box differs" + (": what one part moves, another moves back" if cancel else "")
        if self.total_fscore is None:
            return boxes
        differs = abs(self.total_fscore) > NO_DIFFERENCE
        told = self._told("fscore", 10_000, "{:+.4f}")
        return f"{boxes}; F {f'differs by {_signed(self.total_fscore)}' if differs else 'is the same'}" + (
            f": {told}" if told else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {**asdict(self), "summary": self.summary}

    def _told(self, name: str, units: int, form: str) -> str:
        """One figure of each part, largest first, rounded so that they add up; without those that round to nothing."""
        rounded = apportioned([Fraction(getattr(share, name)) * units for share in self.parts])
        whole = form.endswith("%")
        return ", ".join(f"{form.format(value if whole else value / units)} {share.part}" for value, share in
                         sorted(zip(rounded, self.parts, strict=True), key=lambda pair: -abs(pair[0])) if value)


def swap(a: Side, b: Side, images: Sequence[tuple[str, str]], samples: Sequence[Sample | None] | None = None,
         protocols: tuple[str, str] | None = None, progress: Callable[[int, int], object] | None = None) -> Attribution:
    """Exchanges the parts in which two models differ, and says what each makes of the difference in boxes and in F.

    images: (name, path) of each; samples: what is labelled in each, None for one without labels. protocols: names by
    which A and B are scored, default `rrc`; of a name with several scores the first counts. progress: called after
    every image with (images done, images in all).

    Every mixture of the parts is made, each map once: 16 networks for each image where all of the pixels and the
    network differ. An image that fails in any of them is told in `failed` and counts in none. Raises DbnetError for an
    unknown protocol, and ValueError if there are not as many samples as images.
    """
    if samples is not None and len(samples) != len(images):
        raise ValueError(f"{len(images)} images but samples of {len(samples)}")
    protocols = None if samples is None else protocols or ("rrc", "rrc")
    counting = tuple(find([name])[0] for name in protocols or ())
    parts, notes = parts_of(a, b, (counting[0].name, counting[1].name) if counting else None)
    notes += [f"of the scores of {name}, F is {protocol.name}" for name, protocol in
              dict(zip(protocols or (), counting, strict=True)).items() if len(find([name])) > 1]
    tally = _Tally(mixtures(a, b, parts), counting)
    for i, (_, path) in enumerate(images if parts else ()):
        try:
            with naming(Path(path)):
                tally.add(_all_boxes(a, b, Path(path), parts, tally.mixed), samples[i] if samples else None)
        except DbnetError as error:
            tally.failed.append(str(error))
        if progress:
            progress(i + 1, len(images))
    return tally.result(parts, notes)


class _Tally:
    """Sums over the images, for each mixture."""

    def __init__(self, mixed: Sequence[Mixture], protocols: Sequence[Protocol]):
        self.mixed, self.failed = mixed, list[str]()
        self._protocols, self._images, self._labelled = protocols, 0, 0
        self._from_a, self._from_b = [0] * len(mixed), [0] * len(mixed)
        self._counts: list[Any] = [0] * len(mixed)

    def add(self, found: Sequence[list[Detection]], sample: Sample | None) -> None:
        """found: the boxes of each mixture in one image."""
        counts = self._counted(found, sample) if sample is not None and self._protocols else None
        corners = [Counter((detection.polygon + 0.0).tobytes() for detection in boxes) for boxes in found]  # -0.0 is 0
        for i, mine in enumerate(corners):
            self._from_a[i] += _apart(mine, corners[0])
            self._from_b[i] += _apart(mine, corners[-1])
        self._images += 1
        if counts is not None:
            self._labelled += 1
            self._counts = [total + more for total, more in zip(self._counts, counts, strict=True)]

    def _counted(self, found: Sequence[list[Detection]], sample: Sample) -> list[np.ndarray]:
        """What the image adds to the score of each mixture, (V, 4)."""
        counts: dict[int, np.ndarray] = {}
        for side, protocol in enumerate(self._protocols):
            chosen = [i for i, mixture in enumerate(self.mixed) if mixture.protocol == side]
            if chosen:
                rows = protocol.count([sample] * len(chosen), [found[i] for i in chosen])
                counts.update(zip(chosen, rows, strict=True))
        return [counts[i] for i in range(len(found))]

    def result(self, parts: Sequence[Part], notes: list[str]) -> Attribution:
        names = list(dict.fromkeys(protocol.name for protocol in self._protocols))
        told = " in A, ".join(names) + " in B" if len(names) > 1 else "".join(names) or None
        if not parts:
            return Attribution([], 0, 0, 0.0 if self._protocols else None, told, 0, self.failed, notes)
        if not self._images:
            return Attribution([Share(part.name, part.what) for part in parts], protocol=told, failed=self.failed,
                               notes=notes)
        total = self._from_a[-1]
        # How far a mixture is on its way from A to B. Counting from A alone would give another answer for B and A.
        boxes = shapley([Fraction(from_a - from_b + total, 2) for from_a, from_b in
                         zip(self._from_a, self._from_b, strict=True)])
        fscores = self._fscores()
        scored = shapley(fscores) if fscores else []
        gain = fscores[-1] - fscores[0] if fscores else Fraction()
        shares = [Share(part.name, part.what, float(boxes[i]), float(boxes[i] / total) if total else None,
                        float(scored[i]) if scored else None,
                        float(scored[i] / gain) if scored and abs(gain) > NO_DIFFERENCE else None,
                        self._from_a[1 << i], float(fscores[1 << i] - fscores[0]) if fscores else None)
                  for i, part in enumerate(parts)]
        shares.sort(key=lambda share: (-abs(share.boxes or 0), -abs(share.fscore or 0)))
        return Attribution(shares, self._images, total, float(gain) if fscores else None, told, self._labelled,
                           self.failed, notes)

    def _fscores(self) -> list[Fraction]:
        """Of each mixture, empty without labelled images."""
        if not self._labelled:
            return []
        return [Fraction(Result(self._protocols[mixture.protocol], counts[np.newaxis]).score.fscore)
                for mixture, counts in zip(self.mixed, self._counts, strict=True)]


def _apart(a: Counter[bytes], b: Counter[bytes]) -> int:
    """How many are in one of the two only."""
    return (a - b).total() + (b - a).total()


def _all_boxes(a: Side, b: Side, path: Path, parts: Sequence[Part], mixed: Sequence[Mixture]) -> list[list[Detection]]:
    """The boxes of each mixture in one image. Only one map is in memory at a time."""
    data = read_bytes(path)
    ready = lru_cache(1)(partial(_prepared, lru_cache(2)(partial(pictures.decode, data, path))))
    found: dict[tuple[PixelFormat, int, BoxRule], list[Detection]] = {}
    order = {mixture.pixels: i for i, mixture in enumerate(mixed)}  # both networks on a tensor before the next one
    for pixels, network in sorted({(mixture.pixels, mixture.network) for mixture in mixed},
                                  key=lambda key: (order[key[0]], key[1])):
        here = [i for i, mixture in enumerate(mixed) if (mixture.pixels, mixture.network) == (pixels, network)]
        try:
            prepared = ready(pixels)
            probability = probability_map((b if network else a).runner, prepared.tensor)
            for rule in dict.fromkeys(mixed[i].rule for i in here):
                found[pixels, network, rule] = boxes_from_map(
                    probability, **asdict(rule), resized_size=prepared.resized_size,
                    original_size=prepared.original_size)
        except DbnetError as error:
            problem = str(error).removeprefix(f"{path}: ")
            if 0 not in here and len(mixed) - 1 not in here:  # neither A as it is nor B as it is
                taken = ", ".join(part.name for i, part in enumerate(parts) if here[0] & 1 << i)
                problem = f"A with B's {taken}: {problem}"
            raise DbnetError(f"{path}: {problem}") from error
    return [found[mixture.pixels, mixture.network, mixture.rule] for mixture in mixed]


def _prepared(decoded: Callable[[bool], np.ndarray], pixels: PixelFormat) -> Prepared:
    return prepare(decoded(pixels.ignore_orientation), pixels)


def _signed(value: float) -> str:
    return f"{value:+.4f}" if abs(value) >= 5e-5 else f"{value:+.0e}"
