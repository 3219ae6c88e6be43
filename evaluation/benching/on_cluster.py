"""`dbnet bench --ray`: what a row finds in all images, by a cluster's workers; times stay those of this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converters.load import SourceOptions
from dbnet.record import read_fields
from dbnet.spec import PixelFormat
from evaluation.benching.bundle_types import plain_detections
from evaluation.benching.collecting import Everywhere
from evaluation.benching.data import BenchData
from evaluation.benching.entry import Entry
from evaluation.benching.plan import Plan, shaped
from evaluation.clusters.connecting import OnRay, connected
from evaluation.clusters.evaluating import evaluate_on_ray


def on_cluster(on: OnRay, plan: Plan, data: BenchData) -> Everywhere:
    """For `evaluation.benching.measuring.measure`; what it returns raises DbnetError as `evaluate_on_ray` does. So does
    this for a cluster that does not answer, before anything is measured.
    """
    if on.address != "local":
        with connected(on.address):
            pass
    samples = [replace(sample) for sample in data.samples]

    def detect(entry: Entry) -> list[dict[str, Any]]:
        assert entry.model is not None
        pixels: PixelFormat = read_fields(PixelFormat, entry.model["pixels"])
        found = evaluate_on_ray(on, entry.path, samples, pixels=shaped(pixels, entry.shape), runner=entry.runner,
                                device=plan.device, threads=plan.threads, options=SourceOptions(**plan.options),
                                precision=plan.precision, keep_float32=tuple(plan.keep_float32))
        entry.environment["cluster"] = found.settings["cluster"]
        return plain_detections(data.names, found.detections.values())

    return detect
