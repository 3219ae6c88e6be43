"""Parts of an evaluation (`dbnet evaluate --shard I/N --json`) put together: what one run of all images writes.

The same bytes, bootstrap too: counts are added up exactly (`evaluation.protocols.exact_sums`), images stand in the
order of the run, and numbers in JSON are read to the last bit. Neither labels nor images are needed, nor the machines
of the parts. Parts need not be of one size: 1/2, 3/4 and 4/4 are a whole.

What belongs to a machine and moves no number may differ, and is that of the first part: the paths of --results, --gt
and a recipe, and which of several devices of one kind was used. Notes are those of any part. What a part tells of its
cluster (`--ray`) is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, short, shown
from dbnet.sample import Detection
from evaluation.part import counts_of, names_digest
from evaluation.protocols import COLUMNS, Result
from evaluation.report import Evaluation
from evaluation.shard_check import Head, check_together, head_of
from evaluation.shard_files import PartReport, each, is_part, of_document, of_file
from evaluation.store import detection_of

__all__ = ["is_part", "merge_evaluation_files", "merge_evaluations", "merged"]


def merge_evaluations(documents: Sequence[Any], names: Sequence[str] | None = None) -> dict[str, Any]:
    """The report of one run, from the parsed reports of its parts in any order.

    names: of the parts, in errors. Raises DbnetError for what is no part, is damaged, was edited, is there twice or
    missing, and for parts of different models, data, settings or versions.
    """
    named = names or [f"part {i}" for i in range(1, len(documents) + 1)]
    return merged([of_document(each, name) for each, name in zip(documents, named, strict=True)]).to_dict()


def merge_evaluation_files(paths: Sequence[Path]) -> Evaluation:
    """What one run would have found, from the files of its parts in any order. Of the images only names and counts are
    held; detections are read again when they are asked for. Raises DbnetError as `merge_evaluations` does.
    """
    return merged([of_file(path) for path in paths])


def merged(reports: Sequence[PartReport]) -> Evaluation:
    """The same of opened parts."""
    if not reports:
        raise DbnetError("no part to put together; give the files that dbnet evaluate --shard I/N --json wrote")
    parts = check_together([(report, head_of(report)) for report in reports])
    heads = [head for _, head in parts]
    tables = [_counts(report, head) for report, head in parts]
    first = heads[0]
    whole = {name: Result(first.protocols[name], np.concatenate([table[name] for table in tables]))
             for name in first.protocols}
    detections = _Detections([report for report, _ in parts])
    if names_digest(list(detections)) != first.part.names:
        raise DbnetError(f"{parts[0][0].where} and the others: their images are not those of the whole, whose digest "
                         f"each has; a part was edited or damaged: make it again")
    sweep = [(values, _summed([head.sweep[i][1] for head in heads])) for i, (values, _) in enumerate(first.sweep)]
    own = {name: value for name, value in first.settings.items() if name != "cluster"}  # of a part run with --ray
    settings = own | {"images": first.part.images} | _notes(heads)
    return Evaluation(whole, detections, sweep, first.versions, settings)


def _notes(heads: Sequence[Head]) -> dict[str, Any]:
    told = [head.settings["notes"] for head in heads if "notes" in head.settings]
    return {"notes": list(dict.fromkeys(note for notes in told for note in notes))} if told else {}


def _summed(parts: Sequence[Mapping[str, Result]]) -> dict[str, Result]:
    """Of one setting of a sweep: the parts' exact sums stand for images."""
    return {name: Result(result.protocol, np.concatenate([part[name].counts for part in parts]))
            for name, result in parts[0].items()}


def _counts(report: PartReport, head: Head) -> dict[str, np.ndarray]:
    """(N, V, 4) float64 for each protocol. Raises DbnetError unless they lead to the scores that the part tells."""
    tables = {name: np.empty((len(report.names), len(protocol.variants), len(COLUMNS)))
              for name, protocol in head.protocols.items()}
    for i, (image, entry) in enumerate(each(report)):
        try:
            for name, table in tables.items():
                table[i] = counts_of(entry, name, table.shape[1])
            if not isinstance(entry["detections"], list):
                raise ValueError("no list of detections")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DbnetError(f"{report.where}, {short(image, 80)}: is damaged: counts or detections are missing; make "
                             f"the part again") from error
    for name, table in tables.items():
        if not np.isfinite(table).all() or (table < 0).any():
            raise DbnetError(f"{report.where}: counts by {name} that are no counts; make the part again")
        head.check_score(report.where, name, Result(head.protocols[name], table))
    return tables


class _Detections(Mapping[str, list[Detection]]):
    """By image in the order of the parts, read when they are asked for."""

    def __init__(self, reports: Sequence[PartReport]):
        self._reports = reports
        self._starts = [0, *accumulate(len(report.names) for report in reports)]
        self._places: dict[str, int] = {}
        for report in reports:
            for name in report.names:
                if self._places.setdefault(name, len(self._places)) != len(self._places) - 1:
                    raise DbnetError(f"{report.where}: the image {shown(name)} is in another part too, or there twice; "
                                     f"make the part again")

    def __getitem__(self, name: str) -> list[Detection]:
        place = self._places[name]
        number = bisect_right(self._starts, place) - 1
        report = self._reports[number]
        try:
            return [detection_of(item) for item in report.entry(place - self._starts[number])["detections"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DbnetError(f"{report.where}, {short(name, 80)}: a detection is damaged ({short(error, 80)}); make "
                             f"the part again") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
