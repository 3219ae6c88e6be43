"""Label files: one text file for a whole set, a line for each image, as MindOCR and PaddleOCR write and read them.

`path<TAB>[{"transcription": "text", "points": [[x, y], ...]}, ...]` (det_gt.txt, Label.txt); transcriptions `###` and
`*` mean "do not care".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dbnet.datasets.archive import MAX_BYTES, check_range, image_stem, lines_of, polygon_of
from dbnet.errors import DbnetError
from dbnet.sample import Sample

DO_NOT_CARE = ("###", "*")
#: So many lines are looked at to tell a label file.
FIRST_LINES = 20
LINE = 'path<TAB>[{"transcription": ..., "points": [[x, y], ...]}, ...]'


def is_label_file(text: str) -> bool:
    """Whether one of the first lines that hold something is one of a label file: others may be spoilt, or a title."""
    first = islice(lines_of(text[:MAX_BYTES], ""), FIRST_LINES)
    return any(line.partition("\t")[2].lstrip().startswith("[") for _, line in first)


def rows(text: str, where: str, by_path: bool = False) -> Iterator[tuple[str, str, list[Any]]]:
    """(where it stands, stem of the image, the JSON values behind its tabs) of each line.

    by_path: the image's path, with `/` between its folders, in place of its stem. Raises DbnetError, naming the line,
    for what is no label file and for an image that comes twice.
    """
    seen: dict[str, str] = {}
    for line_where, line in lines_of(text, where):
        path, values = row_of(line, line_where)
        stem = posix_path(path) if by_path else image_stem(path)
        if stem in seen:
            reason = "keep the line that counts" if by_path else "images are told apart by their names without folders"
            raise DbnetError(f"{line_where}: {path[:80]} has the name of an image of {seen[stem].rsplit(', ')[-1]}; "
                             f"{reason}")
        seen[stem] = line_where
        yield line_where, stem, values


def row_of(line: str, where: str) -> tuple[str, list[Any]]:
    """The path and the JSON values of one line, of which the first is a list. Raises DbnetError, naming `where`."""
    path, *columns = line.rstrip().split("\t")
    if not columns or len(line) > MAX_BYTES:
        raise DbnetError(f"{where}: not {LINE}: {line[:40]!r}")
    values = [parse_json(column, where) for column in columns]
    if not isinstance(values[0], list):
        raise DbnetError(f"{where}: not {LINE}: {line[:40]!r}")
    return path.strip(), values


def posix_path(path: str) -> str:
    """A path as a label file names it, with `/` between its folders, without a leading `./`."""
    return PurePosixPath(path.strip().replace("\\", "/")).as_posix()


def read_label_file(text: str, where: str, by_path: bool = False) -> list[Sample]:
    """The images of a label file in its own order, each under its stem, or its path. Raises DbnetError with the line
    at fault.
    """
    samples = []
    for line_where, stem, (entries, *_) in rows(text, where, by_path):
        labels = [label_of(entry, line_where) for entry in entries]
        samples.append(sample_of(Path(stem), labels))
    return samples


def label_of(entry: Any, where: str) -> tuple[str, np.ndarray]:
    """Transcription and polygon of one value of a line's list. Raises DbnetError, naming `where`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("transcription"), str):
        raise DbnetError(f"{where}: a label without a transcription; labels are {LINE}, and lines "
                         f"without transcriptions are results")
    return entry["transcription"], json_polygon(entry.get("points"), where)


def sample_of(image: Path, labels: Sequence[tuple[str, np.ndarray]]) -> Sample:
    """The labels (transcription, polygon) of one image."""
    texts = [text for text, _ in labels]
    return Sample(image, [polygon for _, polygon in labels], np.array([t in DO_NOT_CARE for t in texts], bool), texts)


def parse_json(text: str, where: str) -> Any:
    """A JSON value. Raises DbnetError for other text, a key that is set twice, or values nested too deep to read."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DbnetError(f"{where}: no JSON that can be read ({str(error)[:80]}): {text[:40]!r}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0][:40]!r} is set twice")
    return values


def json_polygon(points: Any, where: str) -> np.ndarray:
    """(P, 2) float64 from [[x, y], ...]. Raises DbnetError, naming `where`, for anything else."""
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise DbnetError(f"{where}: points that are not [[x, y], ...]")
    numbers = [json_number(value, where) for point in points for value in point]
    return polygon_of(numbers, where)


def json_number(value: Any, where: str) -> float:
    """A number of JSON. Raises DbnetError for another value, and for one that no pixel or score can have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DbnetError(f"{where}: a {type(value).__name__} where a number belongs")
    check_range([value], where)
    return float(value)
