"""What is carried back from an NPU host: one small trace file of all that was run, and a first verdict on it.

The runs are called after their modes, `exact`, `default`, `fp16`; the small picture, in full, is a run of its own
(`exact.tiny`). However many images there are, the file stays below the kit's limit: samples become statistics, then
stages are left out, and what room there is holds probability maps in full.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.spec import STAGES
from parity.kit_plan import MODES, TINY, Mode, Step
from parity.kit_store import Work
from parity.tolerances import Tolerances, least_of, tolerances_of
from parity.trace import PIXELS, Trace
from parity.trace_file import read_trace, write_traces
from parity.trace_views import Recorded, compare_views

#: What is kept of every image: (level, stages), the first for which there is room.
LADDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("sampled", (PIXELS, *STAGES)), ("statistics", (PIXELS, *STAGES)),
    ("statistics", (PIXELS, "c5", "fused", "logits", "probability")), ("statistics", (PIXELS, "probability")))
MAP = "probability"


@dataclass(frozen=True)
class Judged:
    """A run against the reference. images: compared. same: all the same bit for bit. worst: (error relative to the
    stage's largest value, tolerance, stage, image) where the error is largest, measured in tolerances. problem: what
    cannot be compared, None without. at_least: the error is known of samples or statistics only.
    """

    run: str
    images: int
    same: bool
    worst: tuple[float, float, str, str] | None
    problem: str | None = None
    at_least: bool = False

    @property
    def passed(self) -> bool:
        return self.problem is None and (self.worst is None or self.worst[0] <= self.worst[1])

    def told(self) -> str:
        """In one line."""
        head = f"{self.run:14} {self.images} image{'s' if self.images != 1 else ''}: "
        if self.problem is not None:
            return f"{head}different: {self.problem}"
        if self.same or self.worst is None:
            return f"{head}same as the reference, bit for bit"
        error, tolerance, stage, image = self.worst
        return (f"{head}{'within tolerance' if self.passed else 'different'}: {'>= ' if self.at_least else ''}"
                f"{error:.1e} of {tolerance:.0e} at {stage} in {image}")


def gather(work: Work, steps: Sequence[Step], told: list[str],
           ) -> tuple[dict[str, Trace], dict[str, list[Trace]]]:
    """The small picture's runs, and of each mode the images that were recorded, each a trace of its own. told: gets a
    line for each that is damaged, which is then forgotten, so that it is done again the next time.
    """
    tiny: dict[str, Trace] = {}
    images: dict[str, list[Trace]] = {}
    for mode in MODES:
        done = [step for step in steps if step.mode == mode and step.kind == "record" and work.done(step) is not None]
        traces = {}
        for step in done:
            try:
                traces[step.image] = read_trace(work.path(step, ".trace"))
            except DbnetError as error:
                told.append(f"left out, and done again the next time: {error}")
                work.forget(step)
        if TINY in traces:
            tiny[f"{mode}.tiny"] = traces.pop(TINY)
        if traces:
            images[mode] = [traces[image] for image in sorted(traces)]
    return tiny, images


def write_result(path: Path, work: Work, steps: Sequence[Step], kit: dict[str, Any], left_out: Sequence[str],
                 ) -> tuple[dict[str, Trace], list[str]]:
    """Writes the file; its runs, and what a reader should know of it. Without anything recorded nothing is written."""
    damaged: list[str] = []
    tiny, images = gather(work, steps, damaged)
    if not tiny and not images:
        return {}, damaged
    runs, notes = fitted(tiny, images, kit["limit"])
    notes += damaged
    for name, run in runs.items():
        extra = _extra(work, steps, kit, name.partition(".")[0])  # type: ignore[arg-type]
        own = [*notes, *left_out] if "." not in name else []
        runs[name] = replace(run, about={**run.about, **extra, "kit": kit["digest"], "notes": own})
    write_traces(path, runs, force=True)
    return runs, notes


def _extra(work: Work, steps: Sequence[Step], kit: dict[str, Any], mode: Mode) -> dict[str, Any]:
    """Of a mode: how long a run takes, and whether another process gave the same bits."""
    extra: dict[str, Any] = {}
    names = [entry["name"] for entry in kit["images"]]
    again: dict[str, list[str]] = {"same": [], "different": []}
    for step in steps:
        if step.mode != mode or (found := work.done(step)) is None:
            continue
        if step.kind == "timing":
            extra["timing"] = {key: found[key] for key in ("first", "each", "shape")}
        if step.kind == "repeat":
            again["different" if found["differ"] else "same"].append(step.of(names))
    return extra | ({"repeated": again} if any(again.values()) else {})


# What is kept ---------------------------------------------------------------------------------------------------------


def fitted(tiny: dict[str, Trace], images: dict[str, list[Trace]], limit: int) -> tuple[dict[str, Trace], list[str]]:
    """The runs of the file, at most `limit` bytes of it, and what had to be left out, for a reader."""
    room = limit - sum(map(_bytes, tiny.values()))
    # One whole map of the most valuable run comes before the samples: boxes can be made of it.
    first = next((traces[0] for traces in images.values()), None)
    reserved = _map_bytes(first) if first is not None and 3 * _map_bytes(first) <= room else 0
    count, level, stages = _rung(images, room - reserved)
    left = room - sum(_row_bytes(trace, level, stages) for traces in images.values() for trace in traces[:count])
    runs = dict(tiny)
    for mode, traces in images.items():
        kept = []
        for place, trace in enumerate(traces[:count]):
            if _map_bytes(trace) <= left:
                kept.append(place)
                left -= _map_bytes(trace)
        if count:
            runs[mode] = joined(traces[:count], level, stages, kept)
    return runs, _told_rung(images, count, level, stages, limit)


def _rung(images: dict[str, list[Trace]], room: int) -> tuple[int, str, tuple[str, ...]]:
    """How many images, and what of each, fit into so many bytes."""
    most = max(map(len, images.values()), default=0)
    for level, stages in LADDER:
        if sum(_row_bytes(trace, level, stages) for traces in images.values() for trace in traces) <= room:
            return most, level, stages
    count = 0
    for count in range(most):
        room -= sum(_row_bytes(traces[count], *LADDER[-1]) for traces in images.values() if count < len(traces))
        if room < 0:
            return count, *LADDER[-1]
    return count, *LADDER[-1]


def _told_rung(images: dict[str, list[Trace]], count: int, level: str, stages: Sequence[str], limit: int) -> list[str]:
    most = max(map(len, images.values()), default=0)
    why = f"so that it stays below {limit / 1e6:.0f} MB"
    notes = [] if level == "sampled" or not most else [f"the result has statistics and no samples, {why}"]
    if len(stages) < len(LADDER[0][1]) and most:
        notes.append(f"of the stages it has {', '.join(stages)} only, {why}")
    return notes + ([f"it has the first {count} of {most} images only, {why}"] if count < most else [])


def _row_bytes(trace: Trace, level: str, stages: Sequence[str]) -> int:
    """What an image takes in the file without whole maps."""
    kinds = ("shape", "sha256", "statistics", *(["sample"] if level == "sampled" else []))
    arrays = sum(trace.arrays[f"{kind}/{stage}"].nbytes for kind in kinds for stage in stages)
    return arrays + 200 + 2 * len(json.dumps(trace.images[0].name))  # JSON within JSON


def _map_bytes(trace: Trace) -> int:
    full = trace.full(0, MAP)
    return 200 + (full.nbytes if full is not None else 0)


def _bytes(trace: Trace) -> int:
    """What a run takes in the file."""
    return 4 * len(json.dumps(trace.about)) + sum(200 + array.nbytes for array in trace.arrays.values())


def joined(traces: Sequence[Trace], level: str, stages: Sequence[str], kept: Sequence[int]) -> Trace:
    """One run of traces of one image each. kept: the places of those whose probability stays in full."""
    stages = tuple(stage for stage in traces[0].stages if stage in stages)
    kinds = ("shape", "sha256", "statistics", *(["sample"] if level == "sampled" else []))
    arrays = {f"{kind}/{stage}": np.concatenate([trace.arrays[f"{kind}/{stage}"] for trace in traces])
              for kind in kinds for stage in stages}
    arrays["boxes/counts"] = np.full(len(traces), -1, np.int64)
    for place in kept:
        array = traces[place].full(0, MAP)
        assert array is not None
        arrays[f"full/{place}/{MAP}"] = array
    return Trace(traces[0].about, level, stages, [trace.images[0] for trace in traces], arrays)


# The first verdict ----------------------------------------------------------------------------------------------------


def judged(runs: dict[str, Trace], reference: dict[str, Trace]) -> list[Judged]:
    """Every run against what the kit was made with, by the tolerances of how it was run."""
    found = []
    for name, run in runs.items():
        small = name.endswith(".tiny")
        row = tolerances_of(run.about["environment"])
        found.append(_judged(name, run, reference["reference.tiny" if small else "reference"],
                             row if small else row.on_whole_images()))
    return found


def _judged(name: str, run: Trace, reference: Trace, row: Tolerances) -> Judged:
    places = {image.name: place for place, image in enumerate(reference.images)}
    worst: tuple[float, float, str, str] | None = None
    at_least = False
    for at, image in enumerate(run.images):
        for stage in (stage for stage in run.stages if stage in reference.stages):
            ours, theirs = Recorded(reference, places[image.name], stage), Recorded(run, at, stage)
            tolerance = 0.0 if stage == PIXELS else row.of(stage)
            try:
                found = compare_views(stage, ours, theirs, tolerance, least_of(stage))
            except DbnetError as error:
                return Judged(name, len(run.images), False, worst, f"{error} ({image.name})")
            if found.basis == "digest":
                continue
            one = (found.max_rel, tolerance, stage, image.name)
            if worst is None or _tolerances(one) > _tolerances(worst):
                worst, at_least = one, found.basis in ("sample", "statistics")
    return Judged(name, len(run.images), worst is None, worst, at_least=at_least)


def unchanged(runs: dict[str, Trace]) -> list[str]:
    """A line for each run that has the same bits as the exact one: then its mode has changed nothing."""
    told = []
    for name, run in runs.items():
        mode, dot, small = name.partition(".")
        exact = runs.get(f"exact{dot}{small}")
        if mode == "exact" or exact is None:
            continue
        places = {image.name: place for place, image in enumerate(exact.images)}
        pairs = [(at, places[image.name], stage) for at, image in enumerate(run.images) if image.name in places
                 for stage in run.stages if stage in exact.stages]
        if pairs and all(run.sha256(at, stage) == exact.sha256(place, stage) for at, place, stage in pairs):
            told.append(f"{name} is exact{dot}{small} bit for bit: the mode changed nothing")
    return told


def _tolerances(found: tuple[float, float, str, str]) -> float:
    error, tolerance = found[:2]
    return error / tolerance if tolerance else float("inf") if error else 0.0


def told_timing(timing: dict[str, Any]) -> str:
    """In one line."""
    each = sorted(1000 * seconds for seconds in timing["each"])
    height, width = timing["shape"][2:]
    return (f"{each[len(each) // 2]:.1f} ms an image of {height} x {width} (median of {len(each)}, {each[0]:.1f} to "
            f"{each[-1]:.1f}), the first call {timing['first']:.1f} s")
