"""A run of a trace file in place of a model that is opened for a comparison: it tells of itself, and runs nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.pixel_formats import AnySpec, OpaqueSpec
from dbnet.record import Record, read_fields
from dbnet.spec import BoxRule, PixelFormat
from evaluation.evaluate import versions
from parity.staged import StagedModel
from parity.trace import PIXELS, Trace, machine
from parity.trace_file import ONLY, is_trace, read_traces, split_run


@dataclass
class RecordedRunner:
    """Who made a trace, in the place of `evaluation.runners.Runner`."""

    name: str
    device: str
    spec: AnySpec
    recorded: dict[str, Any]
    digest: str | None = None
    weights_digest: str | None = None
    notes: list[str] = field(default_factory=list)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Raises DbnetError: what it would compute is not known."""
        raise DbnetError("a trace runs nothing; it is compared with what was recorded")

    def environment(self) -> dict[str, Any]:
        """As it was where the trace was recorded."""
        return self.recorded


@dataclass
class TracedModel(StagedModel):
    """run: its name in the file. trace: what was recorded."""

    run_name: str = ONLY
    trace: Trace | None = None

    @property
    def recorded(self) -> Trace:
        assert self.trace is not None
        return self.trace

    @property
    def rule(self) -> BoxRule:
        """By which its boxes were made."""
        return read_fields(BoxRule, self.recorded.about["boxes"])  # type: ignore[no-any-return]

    def told(self) -> dict[str, Any]:
        """For reports."""
        about = self.recorded.about
        name = str(self.path) if self.run_name == ONLY else f"{self.path}:{self.run_name}"
        return {"file": name, "spec": self.runner.spec.name, "runner": self.runner.name, "device": self.runner.device,
                "sha256": getattr(self.runner, "weights_digest", None),
                "model": getattr(self.runner, "digest", None), "origin": about.get("origin"),
                "semantics": self.runner.spec.semantics(), "pixels": asdict(self.pixels), "notes": self.notes,
                "environment": self.runner.environment(),
                "trace": {"level": self.recorded.level, "images": len(self.recorded.images),
                          "recorded_file": about.get("file"), "machine": about.get("machine"),
                          "versions": about.get("versions")}}


def is_traced(path: str | Path) -> bool:
    """Whether `open_trace` is meant."""
    return is_trace(split_run(Path(path))[0])


def open_trace(path: str | Path) -> TracedModel:
    """A run of a trace file, `FILE` where it is the only one, `FILE:RUN` of several. Raises DbnetError."""
    file, wanted = split_run(Path(path))
    runs = read_traces(file)
    if wanted is None and len(runs) > 1:
        raise DbnetError(f"{file}: holds {len(runs)} runs; name one of them: "
                         f"{', '.join(f'{file}:{name}' for name in runs)}")
    name = next(iter(runs)) if wanted is None else wanted
    if name not in runs:
        raise DbnetError(f"{file}: has no run {name}; it has {', '.join(runs)}")
    return side_of(runs[name], file, name)


def side_of(trace: Trace, file: Path, name: str = ONLY) -> TracedModel:
    """A run as a side of a comparison. Raises DbnetError if it does not say who made it."""
    about, where = trace.about, str(file)
    try:
        if strange := [key for key in ("environment", "machine", "versions")
                       if not isinstance(about.get(key, {}), dict)]:
            raise TypeError(f"{strange[0]} is no table")
        opaque = about.get("opaque")
        if opaque is not None:
            spec: AnySpec = OpaqueSpec(read_fields(PixelFormat, about["pixels"]), read_fields(BoxRule, about["boxes"]),
                                       str(opaque["output"]), bool(opaque["sigmoid"]))
            sha256 = None
        else:
            record = Record.from_json(str(about["record"]), where)
            spec, sha256 = record.spec, record.sha256
        read_fields(BoxRule, about["boxes"])
        environment = {str(key): value for key, value in dict(about["environment"]).items()}
        digest = about.get("digest")
        runner = RecordedRunner(str(about["runner"]), str(about["device"]), spec, environment,
                                None if digest is None else str(digest), sha256)
        notes = [str(note) for note in about.get("notes") or ()]
        json.dumps(about, allow_nan=False)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DbnetError(f"{where}: does not say who recorded it ({type(error).__name__}: {short(error)}); record it "
                         f"again") from error
    stages = tuple(stage for stage in trace.stages if stage != PIXELS)
    return TracedModel(file, None, runner, None, stages, notes, run_name=name, trace=trace)  # type: ignore[arg-type]


def about_of(side: StagedModel, rule: BoxRule) -> dict[str, Any]:
    """What a trace tells of the model that it records: no path, no time, no name of a machine."""
    model, spec = side.model, side.runner.spec
    if isinstance(spec, OpaqueSpec) or model is None:
        who: dict[str, Any] = {"opaque": spec.semantics()}
    else:
        sha256 = getattr(side.runner, "weights_digest", None)
        who = {"record": Record(spec, model.record.origin, sha256).to_json(), "origin": model.record.origin}
    return {**who, "file": side.path.name, "runner": side.runner.name, "device": side.runner.device,
            "digest": getattr(side.runner, "digest", None), "pixels": _plain(asdict(spec.pixels)),
            "boxes": asdict(rule), "environment": _plain(side.runner.environment()), "machine": machine(),
            "versions": versions(), "notes": list(side.notes)}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
