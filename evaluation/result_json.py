"""Results in one file for all images: our own JSON and JSON lines, and the label files of MindOCR and PaddleOCR."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dbnet.datasets import labelfile
from dbnet.datasets.archive import MAX_BYTES, image_stem, lines_of
from dbnet.errors import DbnetError
from dbnet.sample import Detection
from evaluation.result_lines import NO_SCORE


def read_json(text: str, where: str) -> dict[str, list[Detection]]:
    """Detections by image stem, from what `dbnet evaluate` writes by --json, or by --save line by line.

    Raises DbnetError for other JSON, naming the image or the line at fault.
    """
    results: dict[str, list[Detection]] = {}
    for entry_where, name, entry in _entries(text, where):
        if not isinstance(name, str) or not isinstance(entry, dict) or not isinstance(entry.get("detections"), list):
            raise DbnetError(f"{entry_where}: no image with its detections, as dbnet evaluate --json and --save "
                             f"write them")
        stem = image_stem(name)
        if stem in results:
            raise DbnetError(f"{entry_where}: {name[:80]} has the name of another image; images are told apart by "
                             f"their names without folders")
        results[stem] = [_entry(value, entry_where) for value in entry["detections"]]
    return results


def _entries(text: str, where: str) -> Iterator[tuple[str, Any, Any]]:
    """(where it stands, name of the image, object with its detections) of each image."""
    lines = lines_of(text, where)
    first = next(lines, ("", ""))[1]
    header = _header(first)
    if header is not None:
        count = 0
        for count, (line_where, line) in enumerate(lines, start=1):  # noqa: B007 (counts after the loop)
            entry = labelfile.parse_json(line, line_where)
            yield line_where, entry.get("name") if isinstance(entry, dict) else None, entry
        if header["images"] != count:
            raise DbnetError(f"{where}: holds {count} of {header['images']} images; let the run that wrote it go on "
                             f"to its end, with the same command")
        return
    whole = labelfile.parse_json(text, where)
    images = whole.get("images") if isinstance(whole, dict) else None
    if not isinstance(images, dict):
        raise DbnetError(f"{where}: not what dbnet evaluate writes by --json or --save: it has no object called images")
    for name, entry in images.items():
        yield f"{where}, {name[:80]}", name, entry


def _header(line: str) -> dict[str, Any] | None:
    """The first line of what --save writes, which says how the lines after it were made; None for other text."""
    if not line.rstrip().endswith("}") or len(line) > MAX_BYTES:
        return None
    try:
        header = labelfile.parse_json(line, "")
    except DbnetError:
        return None
    ours = isinstance(header, dict) and header.get("dbnet") == "detections" and isinstance(header.get("images"), int)
    return header if ours else None


def read_label_file(text: str, where: str) -> dict[str, list[Detection]]:
    """Detections by image stem from lines of MindOCR (`path<TAB>[[[x, y], ...], ...]`, perhaps a tab and the list of
    scores) or PaddleOCR (`path<TAB>[{"points": [[x, y], ...], "score": s}, ...]`, the score may be missing).

    Raises DbnetError with the number of the line that cannot be read.
    """
    results: dict[str, list[Detection]] = {}
    for line_where, stem, (entries, *more) in labelfile.rows(text, where):
        if more and (not isinstance(more[0], list) or len(more[0]) != len(entries)):
            raise DbnetError(f"{line_where}: {len(entries)} polygons, and behind the second tab no score for each")
        scores = more[0] if more else [NO_SCORE] * len(entries)
        results[stem] = [_entry(entry, line_where, score) for entry, score in zip(entries, scores, strict=True)]
    return results


def _entry(value: Any, where: str, score: Any = NO_SCORE) -> Detection:
    """A detection: a list of points, or an object with `points` or `polygon` and perhaps `score`."""
    points = value
    if isinstance(value, dict):
        points, score = value.get("polygon", value.get("points")), value.get("score", score)
    return Detection(labelfile.json_polygon(points, where).astype(np.float32), labelfile.json_number(score, where))
