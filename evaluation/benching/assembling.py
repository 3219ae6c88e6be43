"""From what was measured to the bundle: scores, and every distinct set of detections once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.benching.bundle_types import (
    Bundle,
    Model,
    Row,
    Scores,
    detections_digest,
    detections_of,
)
from evaluation.benching.data import BenchData
from evaluation.benching.entry import Entry
from evaluation.benching.measuring import Measured, settings_of
from evaluation.benching.plan import Plan
from evaluation.evaluate import versions
from evaluation.protocols.table import score


def bundle_of(plan: Plan, data: BenchData, measured: Measured, made: dict[str, Any], machine: dict[str, Any],
              busy: list[float]) -> Bundle:
    """Everything. made: command, started, seconds, `dbnet-parity`. busy: load averages at the start and the end."""
    ids = {path: f"m{number}" for number, path in enumerate(plan.models, start=1)}
    detections: dict[str, list[dict[str, Any]]] = {}
    scores: dict[str, dict[str, Scores]] = {}
    rows = []
    for entry in measured.entries:
        found, key = measured.found.get(entry.place), None
        if found is not None:
            key = detections_digest(found.images)
            if key not in detections:
                detections[key] = found.images
                scores[key] = scores_of(data, found.images)
        rows.append(_row(plan, entry, ids[entry.path], key, scores.get(key, {}) if key else {},
                         None if found is None else found.parity))
    models = [_model(ids[path], path, [entry for entry in measured.entries if entry.path == path])
              for path in plan.models]
    return Bundle(made, machine, settings_of(plan, measured.entries, busy, measured.interrupted), data.told(), models,
                  rows, detections)


def scores_of(data: BenchData, images: Sequence[dict[str, Any]]) -> dict[str, Scores]:
    """By the protocol's name; none without labels."""
    if not data.protocols:
        return {}
    found = list(detections_of(list(images)).values())
    return {name: Scores(result.score.precision, result.score.recall, result.score.fscore,
                         list(result.interval()["fscore"]), result.counts.tolist())
            for name, result in score(data.protocols, data.samples, found).items()}


def _row(plan: Plan, entry: Entry, model: str, detections: str | None, scores: dict[str, Scores], parity: Any) -> Row:
    environment = {"libraries": versions(), **entry.environment}
    return Row(model, entry.runner, entry.device, str(entry.environment.get("precision") or plan.precision),
               environment, None if entry.shape is None else list(entry.shape), entry.batch, plan.threads,
               jit_level=entry.environment.get("jit_level"), error=entry.error, seconds=entry.seconds,
               peak_memory_bytes=entry.peak, detections=detections, scores=scores, parity=parity, notes=entry.notes,
               training=entry.training)


def _model(number: str, path: Path, entries: Sequence[Entry]) -> Model:
    told = next((entry.model for entry in entries if entry.model is not None), None)
    if told is None:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        told = {"format": path.suffix.lstrip(".").lower(), "spec": "unknown", "weights_sha256": digest,
                "semantics": {}, "pixels": {}, "boxes": {}}
    return Model(number, path.name, **told)
