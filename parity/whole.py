"""Two model files compared in every way that was asked for. What stops one step is told, and leaves the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from dbnet.errors import DbnetError
from dbnet.pixel_formats import told
from dbnet.sample import Sample
from dbnet.spec import BoxRule
from evaluation.compare_maps import MapComparison, Side, compare_maps
from evaluation.compare_scores import ScoreComparison, compare_scores
from evaluation.compare_swap import Attribution
from evaluation.evaluate import versions
from parity.gallery import Gallery
from parity.models import ModelComparison, compare_models, map_tolerance
from parity.photographs import Picture
from parity.staged import StagedModel
from parity.told import rule_notes
from parity.trace_compare import compare_traced
from parity.traced import TracedModel

#: What stands for parts that are not there.
_WITHOUT_STAGES: dict[str, Any] = {"first_divergence": None, "layer": None, "cause": None, "causes": [],
                                   "own_errors": [], "stages": [], "notes": []}


@dataclass
class WholeComparison:
    """What is known of two models so far.

    sides: A, the reference, and B. rules: how the boxes of each come from its map. stages, maps, scores, swap: what was
    compared, None of what was not. boxless: images of which a trace has no boxes. stopped: what a step could not do,
    one line each. doing: the step under way. seconds: of every step. command: what was typed. keep: called when there
    is more to know, with whether that is a whole step.
    """

    sides: tuple[StagedModel, StagedModel]
    rules: tuple[BoxRule, BoxRule]
    command: Sequence[str] = ()
    stages: ModelComparison | None = None
    maps: MapComparison | None = None
    scores: ScoreComparison | None = None
    gt: str | None = None
    swap: Attribution | None = None
    boxless: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    doing: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    keep: Callable[[bool], object] = lambda now: None

    @cached_property
    def told(self) -> dict[str, Any]:
        """Both sides, asked once: a report is also written every second, against a crash."""
        return {name: side.told() | {"boxes": asdict(rule)}
                for name, side, rule in zip("ab", self.sides, self.rules, strict=True)}

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A step's work is done within; its failure is told in `stopped`."""
        self.doing, begin = what, time.perf_counter()
        self.keep(True)
        try:
            yield
        except DbnetError as error:
            self.stopped.append(f"{what}: {error}")
        except MemoryError:
            self.stopped.append(f"{what}: there is not enough memory; take smaller images or another runner")
        self.seconds[what] = round(time.perf_counter() - begin, 3)
        self.doing = "going on"
        self.keep(True)

    def run_stages(self, pictures: Sequence[Picture]) -> None:
        """`compare_models` on photographs or arrays, (H, W, 3) uint8 BGR."""
        with self.step("comparing the stages"):
            self.stages = compare_models(*self.sides, pictures)

    def run_images(self, images: Sequence[tuple[str, str]], gallery: Gallery,
                   progress: Callable[[int, int], object] = lambda done, count: None) -> list[Side]:
        """`compare_maps` on images, (name, path). progress: (images done, images in all). Returns who ran them."""
        ends: list[Side] = []
        gallery.ignore_orientation = self.sides[0].pixels.ignore_orientation
        with self.step("comparing the images"):
            ends = [Side(side.for_images(), rule) for side, rule in zip(self.sides, self.rules, strict=True)]

            def told(so_far: MapComparison, count: int) -> None:
                self.maps, done = so_far, len(so_far.images) + len(so_far.failed)
                self.doing = f"comparing the images, {done} of {count} done"
                self.keep(False)
                progress(done, count)

            self.maps = compare_maps(ends[0], ends[1], images, told, gallery.observe,
                                     map_tolerance(*self.sides))
        return ends

    @property
    def is_traced(self) -> bool:
        """Whether one of the sides is a trace."""
        return any(isinstance(side, TracedModel) for side in self.sides)

    def traced_images(self, limit: int | None) -> int:
        """How many images `run_traced` looks at."""
        traced = next(side for side in self.sides if isinstance(side, TracedModel))
        return len(traced.recorded.images[:limit])

    def run_traced(self, sources: Mapping[str, Sequence[str]], gallery: Gallery, limit: int | None = None,
                   progress: Callable[[int, int], object] = lambda done, count: None) -> None:
        """`compare_traced`: the stages and the images in one."""
        gallery.ignore_orientation = self.sides[0].pixels.ignore_orientation
        with self.step("comparing with the trace"):
            def told(so_far: MapComparison, count: int) -> None:
                self.maps, done = so_far, len(so_far.images) + len(so_far.failed)
                self.doing = f"comparing with the trace, {done} of {count} images done"
                self.keep(False)
                progress(done, count)

            try:
                found = compare_traced(*self.sides, self.rules, sources, limit, told, gallery.observe)
            except DbnetError:
                self.maps = None  # not one image: the error says why, once
                raise
            self.stages, self.maps, self.boxless = found.stages, found.maps, found.boxless

    def run_scores(self, labelled: Mapping[str, Sample], gallery: Gallery, protocols: Sequence[str],
                   same_f: float | None = None) -> None:
        """`compare_scores` of what the gallery has seen. labelled: name of every image -> its labels."""
        with self.step("comparing the scores"):
            self.scores = compare_scores(gallery.samples(labelled), gallery.found_a, gallery.found_b, protocols,
                                         same_f)

    @property
    def verdict(self) -> str | None:
        """`different` as soon as anything is; `same` or `within tolerance`; None if nothing, or not all, could be
        compared.
        """
        compared = self.maps if self.maps is not None and self.maps.images else None
        if (self.stages is not None and self.stages.verdict == "different") or (compared and not compared.same):
            return "different"
        if self.stopped or (self.maps is not None and (self.maps.failed or not compared)):
            return None
        if compared is not None and compared.max_abs:
            return "within tolerance"
        return self.stages.verdict if self.stages is not None else "same" if compared else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `dbnet compare --json` documents them."""
        stages = _WITHOUT_STAGES if self.stages is None else self.stages.to_dict()
        maps = {} if self.maps is None else self.maps.to_dict()
        if not maps.get("images"):  # nothing was seen, so there is nothing to say of boxes
            maps |= {"stages": None, "boxes": None}
        scores = None if self.scores is None else {"gt": self.gt, **self.scores.to_dict()}
        return {
            "verdict": self.verdict, "unfinished": "; ".join(self.stopped) or None,
            **{name: value for name, value in stages.items() if name != "verdict"},
            "notes": list(dict.fromkeys([*stages["notes"], *rule_notes(*self.rules)])),
            "maps": maps.get("stages"), "boxes": maps.get("boxes"), "images": maps.get("images", {}),
            "failed": maps.get("failed", []), "scores": scores,
            "swap": None if self.swap is None else self.swap.to_dict(),
            **self.told,
            "versions": versions(), "command": list(self.command), "seconds": self.seconds}


def interrupted(data: dict[str, Any], how: str) -> dict[str, Any]:
    """The last that was known of a comparison whose process ended: `how`, in words."""
    doing = data.get("doing") or "starting"
    now = f"{' '.join(how.split())} while {doing}; what came after is missing"
    lines = [line for line in (data.get("unfinished"), now) if line]
    return {name: value for name, value in data.items() if name != "doing"} | {
        "unfinished": "; ".join(lines), "verdict": "different" if data.get("verdict") == "different" else None}


def title_of(side: StagedModel, rule: BoxRule | None = None) -> str:
    """One line: file, network, runner, and with a rule what goes in and how boxes come out."""
    runner = side.runner
    line = f"{side.path.name}: {runner.spec.name} on {getattr(runner, 'title', runner.name)} ({runner.device})"
    if isinstance(side, TracedModel):
        line += f", recorded ({side.recorded.level}, {len(side.recorded.images)} images)"
    if rule is None:
        return line
    return (f"{line}; pixels {told(side.pixels)}; boxes {rule.rule} {rule.box_type}, binary_thresh "
            f"{rule.binary_thresh:g}, box_thresh {rule.box_thresh:g}, unclip_ratio {rule.unclip_ratio:g}")
