"""The upgrade alarm: is a run what it was, bit for bit, and if not, how far is it and what else has changed since."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbnet.errors import DbnetError, shown
from evaluation.compare_maps import Boxes, compare_boxes
from parity.baseline_runs import said
from parity.models import INPUT, PIXEL_TOLERANCE, StageRow
from parity.tolerances import Tolerances, least_of, tolerances_of
from parity.trace import ORDER, PIXELS, Trace
from parity.trace_views import Recorded, compare_views

UNCHANGED, WITHIN, BEYOND = "unchanged", "changed though within tolerance", "different: beyond the tolerance"
#: In place of a stage, where boxes changed and no map did.
BOXES = "boxes"
#: Behind what a runner in a process of its own has in another version.
_OURS = " of this suite"
_INSTRUCTIONS = "its instructions"
#: What is another machine.
_MACHINE = ("the processor", _INSTRUCTIONS, "the system")
#: Frameworks, libraries and settings, as people call them.
_CALLED = {"mindspore": "MindSpore", "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "numpy": "NumPy",
           "opencv": "OpenCV", "python": "Python", "processor": "the processor", "cores": "the cores it may use",
           "system": "the system", "threads": "threads", "onednn_max_isa": "oneDNN's limit", "cann": "CANN",
           "device_name": "the device's name", "geos": "GEOS", "jit_level": "the jit level", "cuda": "CUDA",
           "sigmoid": "the sigmoid"}


@dataclass(frozen=True)
class RunChange:
    """rows: of the stages that changed, of each the image where it changed most, in the order of computation. boxes:
    of all images; changed_boxes: whether any of them changed, its score included. since: what else is not as it was
    recorded, `MindSpore 2.8.0 -> 2.9.0`, what explains most first. machine: whether that is another one.
    """

    rows: list[StageRow]
    boxes: Boxes
    changed_boxes: bool
    since: list[str]
    machine: bool

    @property
    def verdict(self) -> str:
        if not self.rows and not self.changed_boxes:
            return UNCHANGED
        return WITHIN if all(row.passed for row in self.rows) else BEYOND

    @property
    def first(self) -> str | None:
        """The first stage that changed."""
        return self.rows[0].stage if self.rows else BOXES if self.changed_boxes else None

    def to_dict(self) -> dict[str, Any]:
        """For --report."""
        return {"verdict": self.verdict, "first": self.first, "since": self.since, "boxes": vars(self.boxes),
                "stages": [{"stage": row.stage, "image": row.image, "why": row.why, "passed": row.passed,
                            "max_rel": row.comparison.max_rel if row.comparison else None,
                            "tolerance": row.comparison.tolerance if row.comparison else None} for row in self.rows]}


def compare_runs(old: Trace, new: Trace) -> RunChange:
    """Raises DbnetError, one phrase, where the two are not the same model on the same images."""
    _check_same(old, new)
    wide = max((_tolerances(trace) for trace in (old, new)), key=lambda row: row.features)
    rows = [row for stage in ORDER if stage in new.stages if (row := _row(stage, old, new, wide)) is not None]
    pairs = [(old.boxes(i) or [], new.boxes(i) or []) for i in range(len(new.images))]
    changed = any(_digits(a) != _digits(b) for a, b in pairs)
    boxes = sum((compare_boxes(a, b) for a, b in pairs), Boxes())
    machine = any(_settings(old).get(name) != _settings(new).get(name) for name in _MACHINE)
    return RunChange(rows, boxes, changed, list(changes_between(old, new)), machine)


def _row(stage: str, old: Trace, new: Trace, wide: Tolerances) -> StageRow | None:
    """The image where it changed most; None where it did in none."""
    worst: tuple[float, StageRow] | None = None
    tolerance = PIXEL_TOLERANCE if stage == PIXELS else wide.of(stage)
    for i, image in enumerate(new.images):
        if old.sha256(i, stage) == new.sha256(i, stage):
            continue
        try:
            found = compare_views(stage, Recorded(old, i, stage), Recorded(new, i, stage), tolerance, least_of(stage))
            ranked = found.max_rel, StageRow(stage, found, image=image.name)
        except DbnetError as error:
            ranked = float("inf"), StageRow(stage, None, why=str(error).removeprefix(f"{stage}: "), image=image.name)
        if worst is None or ranked[0] > worst[0]:
            worst = ranked
    return None if worst is None else worst[1]


def _digits(boxes: Sequence[Any]) -> list[tuple[bytes, float]]:
    return [(box.polygon.astype("<f8").tobytes(), float(box.score)) for box in boxes]


def _tolerances(trace: Trace) -> Tolerances:
    row = tolerances_of({"device": trace.about["device"], **trace.about["environment"]})
    largest = max(image.shape[2] * image.shape[3] for image in trace.images)
    return row.on_whole_images() if largest > math.prod(INPUT) else row


# The same model on the same images ------------------------------------------------------------------------------------


def _check_same(old: Trace, new: Trace) -> None:
    for reason in _others(old, new):
        also = [each for each in changes_between(old, new) if "code" not in each]
        raise DbnetError(f"{reason}{f' ({_listed(also)})' if also else ''}")


def same_subject(a: Trace, b: Trace) -> bool:
    """Whether two runs, of two runners perhaps, are of the same network, weights and images."""
    subjects = []
    for trace in (a, b):
        who = _who(trace)
        subjects.append((who["spec"], who["semantics"], who["sha256"], trace.about.get("pixels"),
                         [(image.name, image.sha256) for image in trace.images]))
    return bool(subjects[0] == subjects[1])


def _others(old: Trace, new: Trace) -> Iterator[str]:
    """Why the two cannot be compared."""
    yield from _other_subjects(old, new)
    if old.about.get("environment", {}).get("precision") != new.about["environment"].get("precision"):
        yield f"the baseline was computed in {shown(old.about.get('environment', {}).get('precision'))}"
    if set(old.stages) != set(new.stages):
        yield f"the baseline has other stages: {', '.join(sorted(set(old.stages) ^ set(new.stages)))}"


def other_subject(old: Trace, new: Trace) -> str | None:
    """Why a run, of another runner perhaps, is not of the same model on the same images, one phrase; None if it is."""
    return next(_other_subjects(old, new), None)


def _other_subjects(old: Trace, new: Trace) -> Iterator[str]:
    was, now = (_who(trace) for trace in (old, new))
    if was["spec"] != now["spec"]:
        yield f"the baseline is of another network, {shown(was['spec'])}, not {shown(now['spec'])}"
    if was["semantics"] != now["semantics"]:
        yield f"the baseline's network computes otherwise: {_fields(was['semantics'], now['semantics'])}"
    # Of one file two frameworks may tell two digests: that of the weights, and that of the file with its graph.
    other_runner = old.about.get("runner") != new.about.get("runner") and was["sha256"]
    for name in ("sha256",) if other_runner else ("sha256", "digest"):
        if was[name] != now[name]:
            yield (f"the baseline is of another model (sha256 {str(was[name])[:12]}, not {str(now[name])[:12]})"
                   f"{' with other weights' if name == 'sha256' else ''}")
    for what in ("pixels", "boxes"):
        if old.about.get(what) != new.about[what]:
            yield f"the baseline has other {what}: {_fields(old.about.get(what), new.about[what])}"
    before, after = ({image.name: image.sha256 for image in trace.images} for trace in (old, new))
    if before != after or [image.name for image in old.images] != [image.name for image in new.images]:
        yield f"the baseline is of other images: {_images(before, after)}"


def _who(trace: Trace) -> dict[str, Any]:
    """The network of a run: name, semantics and digests."""
    about = trace.about
    if about.get("opaque") is not None:
        return {"spec": "opaque", "semantics": about["opaque"], "sha256": None, "digest": about.get("digest")}
    try:
        record = json.loads(str(about["record"]))
        return {"spec": record["spec"], "semantics": record["semantics"], "sha256": record.get("sha256"),
                "digest": about.get("digest")}
    except (KeyError, TypeError, ValueError) as error:
        raise DbnetError("the baseline does not say whose numbers these are") from error


def _fields(was: Any, now: Any) -> str:
    """In what two tables differ."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        return f"{shown(was)}, not {shown(now)}"
    return ", ".join(f"{name} {shown(was.get(name))}, not {shown(now.get(name))}"
                     for name in {**was, **now} if was.get(name) != now.get(name)) or "the order of its fields"


def _images(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> str:
    found = {"missing here": [name for name in before if name not in after],
             "not in it": [name for name in after if name not in before],
             "with other contents": [name for name in before if name in after and before[name] != after[name]]}
    told = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in found.items() if names]
    return "; ".join(told) or "in another order"


# What else changed ----------------------------------------------------------------------------------------------------


def changes_between(old: Trace, new: Trace) -> Iterator[str]:
    """What else is not as it was recorded, one phrase each, what explains most first."""
    was, now = (_settings(trace) for trace in (old, new))
    told = set()
    for name in {**now, **was}:
        base = name.removesuffix(_OURS)
        before, after = (values.get(name, values.get(base)) for values in (was, now))
        step = _step(name, before, after)
        if name != "code" and before != after and f"{base} {step}" not in told:
            told.add(f"{name} {step}")
            yield f"{name} {step}"
    if was.get("code") != now.get("code"):
        yield "this suite's own code"


def _settings(trace: Trace) -> dict[str, Any]:
    """All that can move a number: name for people -> value."""
    about, own = trace.about, said(trace) or {"variables": {}}
    environment, machine, versions = (dict(about.get(name) or {}) for name in ("environment", "machine", "versions"))
    framework = str(environment.pop("framework", about.get("runner")))
    found = {_CALLED.get(framework, framework): environment.pop("version", None), "the device": about.get("device"),
             **_called(environment)}
    for table in (machine, versions):
        found |= {f"{name}{_OURS}" if name in found else name: value for name, value in _called(table).items()}
    return found | {_INSTRUCTIONS: own.get("instructions")} | dict(own["variables"]) | {"code": own.get("code")}


def _called(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_CALLED.get(name, name.replace("_", " ")): value for name, value in values.items() if name != "device"}


def _step(name: str, was: Any, now: Any) -> str:
    if name != _INSTRUCTIONS:
        return f"{_value(was)} -> {_value(now)}"
    before, after = (str(value or "").split() for value in (was, now))
    return " ".join([*(f"-{each}" for each in before if each not in after),
                     *(f"+{each}" for each in after if each not in before)])


def _value(value: Any) -> str:
    return "unset" if value is None else value if isinstance(value, str) else json.dumps(value)


def _listed(found: Sequence[str], most: int = 4) -> str:
    return ", ".join([*found[:most], *([f"and {len(found) - most} more"] if len(found) > most else [])])
