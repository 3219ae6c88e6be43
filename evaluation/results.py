"""Result files as one hands them in to the Robust Reading Competition: a folder or zip of res_img_N.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dbnet.datasets.archive import parse_coordinates, read_texts
from dbnet.errors import DbnetError
from dbnet.sample import Detection, Sample


def read_results(path: str | Path) -> dict[str, list[Detection]]:
    """Detections by image, under the image's name without suffix (`img_12` for res_img_12.txt).

    A line is `x1,y1,x2,y2,x3,y3,x4,y4`, or that and a score; without one the score is 1. Raises DbnetError if the file
    cannot be read, holds no results, or a line is neither.
    """
    path = Path(path)
    texts = read_texts(path)
    results = {}
    for name, text in texts.items():
        match = re.fullmatch(r"res_(.+)\.txt", name)
        if match is None:
            raise DbnetError(f"{path}: {name} is no result file; they are called res_img_N.txt")
        results[match[1]] = [_detection(line, f"{path}/{name}, line {number}")
                             for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not results:
        raise DbnetError(f"{path}: no res_img_N.txt in it")
    return results


def by_sample(results: Mapping[str, list[Detection]], samples: Sequence[Sample]) -> list[list[Detection]]:
    """The detections of each sample's image; an image without a result file has none.

    Raises DbnetError if no image has one: those are then results of another data set.
    """
    if samples and not any(sample.image.stem in results for sample in samples):
        raise DbnetError(f"no result is for {samples[0].name} or another of the {len(samples)} images; "
                         f"the first result is for {next(iter(results), 'none')}")
    return [results.get(sample.image.stem, []) for sample in samples]


def _detection(line: str, where: str) -> Detection:
    fields = line.strip().split(",")
    if len(fields) not in (8, 9):
        raise DbnetError(f"{where}: {len(fields)} fields, not x1,y1,x2,y2,x3,y3,x4,y4 and perhaps a score")
    numbers = parse_coordinates(fields, where)
    return Detection(np.array(numbers[:8], np.float32).reshape(4, 2), numbers[8] if len(numbers) == 9 else 1.0)
