"""An evaluation as tables: protocols side by side, the images that cost most, a sweep, and what could move a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import print_table

if TYPE_CHECKING:
    from evaluation.evaluate import Evaluation


def told_images(evaluation: Evaluation) -> str:
    """How many were scored, and of a part, which of all."""
    images, part = len(evaluation.detections), evaluation.part
    if part is None:
        return f"{images} images"
    return f"{images} images ({part.first + 1} to {part.first + images} of {part.images}, --shard {part.shard})"


def print_scores(evaluation: Evaluation) -> None:
    """One line per protocol: score, interval, and what it decides by."""
    rows = []
    for name, result in evaluation.results.items():
        score, (low, high) = result.score, evaluation.intervals[name]["fscore"]
        protocol = result.protocol
        decides = ", ".join(f"{what} {value}" for what, value in protocol.thresholds.items())
        if len(protocol.variants) > 1:
            decides = f"{protocol.variants[result.best]}, best of {len(protocol.variants)}; {decides}"
        rows.append((name, f"{score.precision:.5f}", f"{score.recall:.5f}", f"{score.fscore:.5f}",
                     f"{low:.4f} .. {high:.4f}", protocol.title, decides))
    print_table("", ("protocol", "precision", "recall", "f-score", "95 % interval", "what it is", "decides by"), rows,
                right=(1, 2, 3))


def print_images(evaluation: Evaluation, count: int) -> None:
    """The `count` images with the most missed texts and false detections by the first protocol, worst first.

    A cell is what was found of the texts, and what is right of the detections.
    """
    names, results = list(evaluation.detections), evaluation.results
    first = next(iter(results.values())).per_image
    errors = first[:, 1] - first[:, 0] + first[:, 3] - first[:, 2]
    worst = [i for i in (-errors).argsort(kind="stable")[:count] if errors[i] > 0]
    if not worst:
        return
    tables = [result.per_image for result in results.values()]
    rows = [(names[i], *(_cell(table[i]) for table in tables)) for i in worst]
    click.echo(f"the {len(rows)} of {len(names)} images with most errors: texts found of all, detections right of all")
    print_table("", ("image", *results), rows)


def _cell(counts: Sequence[float]) -> str:
    found, texts, right, detections = (f"{value:g}" for value in counts)
    return f"{found}/{texts}  {right}/{detections}"


def print_sweep(evaluation: Evaluation) -> None:
    """A line per combination, and that the best was chosen on the images that it is scored on."""
    settings = list(evaluation.sweep[0][0])
    rows = [(*(_number(values[name]) for name in settings), *(f"{r.score.fscore:.5f}" for r in results.values()))
            for values, results in evaluation.sweep]
    protocols = list(evaluation.results)
    click.echo(f"sweep of {', '.join(settings)}: f-score of {len(rows)} settings")
    print_table("", (*settings, *protocols), rows, right=range(len(settings), len(settings) + len(protocols)))
    for name in protocols:
        scores = [results[name].score.fscore for _, results in evaluation.sweep]
        values, results = evaluation.sweep[scores.index(max(scores))]
        click.echo(f"{name}: {results[name].score.fscore:.5f} at "
                   f"{', '.join(f'{setting} {_number(value)}' for setting, value in values.items())}, the best of "
                   f"{len(rows)} settings chosen on the images that are scored: not a result to compare with others")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_versions(evaluation: Evaluation) -> None:
    """One line."""
    told = {name: value for name, value in evaluation.versions.items() if isinstance(value, str)}
    environment = evaluation.versions.get("runner", {})
    told |= {name: value for name, value in environment.items() if isinstance(value, (str, int))}
    click.echo(", ".join(f"{name} {value}" for name, value in told.items()))
