"""`dbnet evaluate --results`: anybody's result files against a ground truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.evaluate_options import OWN_PROTOCOL
from dbnet.cli.evaluate_print import told_images

if TYPE_CHECKING:
    from dbnet.shards import Shard
    from evaluation.evaluate import Evaluation


def run(results: Path, gt: Path, form: str | None, protocols: tuple[str, ...], swept: dict[str, list[Any]],
        limit: int | None, shard: Shard | None = None) -> tuple[str, Evaluation]:
    """What is told first, and the evaluation. Raises DbnetError."""
    from dbnet.datasets.labels import read_labels
    from evaluation.evaluate import evaluate_results
    from evaluation.result_order import told_names, told_order
    from evaluation.results import by_sample, read_results
    if set(swept) - {"score"}:
        raise click.UsageError("result files hold boxes and scores, no maps: only --sweep score=... can be varied")
    labels = read_labels(gt, form)
    found = told_names(read_results(results, form or labels.dataset), labels.samples)
    found = told_order(found, labels.samples)
    matched = by_sample(found, labels.samples)
    samples, detections = labels.samples[:limit], matched[:limit]
    names = protocols or (OWN_PROTOCOL.get(labels.dataset, "rrc"),)
    evaluation = evaluate_results(samples, detections, names, score_thresholds=swept.get("score", ()), shard=shard)
    notes = found.notes
    if limit is None and len(found.detections) < len(samples):  # else it is not known whose results are missing
        notes = [*notes, f"{len(samples) - len(found.detections)} of {len(samples)} images have no result: taken as no "
                         f"detections in them"]
    if (swept or "mmocr" in names) and all(d.score == 1 for image in detections for d in image):
        notes = [*notes, "every detection has the score 1, so a threshold on scores changes nothing"]
    settings = evaluation.settings | {"results": str(results), "format": found.format, "gt": str(gt),
                                      "dataset": labels.dataset, "notes": notes}
    texts = sum(len(sample.polygons) for sample in (samples if shard is None else shard.of(samples)))
    title = (f"{results.name} ({found.format}): {sum(map(len, evaluation.detections.values()))} detections; {gt.name} "
             f"({labels.dataset}): {told_images(evaluation)} with {texts} texts")
    return title, replace(evaluation, settings=settings)
