"""A benchmark's bundle, one JSON file: who measured what on which machine, every measured second, every detection.

`dbnet bench` writes it, `dbnet report` reads it on any machine. It holds no ground truth: labels are their owners'.
Numbers are written so that reading gives the same bits; seconds are of the monotonic clock, memory is in bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from converters.writing import write_text
from dbnet.errors import DbnetError, short, shown
from evaluation.benching.bounds import check_numbers
from evaluation.benching.bundle_types import (
    VERDICTS,
    Bundle,
    Model,
    Parity,
    Row,
    Scores,
    Seconds,
    detections_digest,
    detections_of,
    digest_of,
    plain_detections,
)
from evaluation.benching.plain import BadBundleError, typed

__all__ = ["KIND", "VERDICTS", "VERSION", "Bundle", "Model", "Parity", "Row", "Scores", "Seconds", "detections_digest",
           "detections_of", "digest_of", "plain_detections", "read_bundle", "read_text", "to_text", "write_bundle"]

KIND, VERSION = "bench", 1
#: Bytes of the largest bundle that is read: 10,000 images of 100 boxes under ten rows that all differ.
MOST_BYTES = 1 << 31
#: What has to be in the parts that are no dataclasses, with its type.
_NEEDED: dict[str, dict[str, Any]] = {
    "made": {"command": str, "started": str, "seconds": float, "dbnet-parity": str},
    "machine": {"cpu": str, "cores": int, "memory_bytes": int, "system": str, "accelerators": list[dict[str, Any]],
                "label": str | None},
    "settings": {"rounds": int, "warmup": int, "threads": int | None, "seed": int, "order": str, "busy": list[float]},
    "data": {"kind": str, "seed": int | None, "images": int, "names": list[str], "names_sha256": str,
             "images_sha256": str, "labels_sha256": str | None, "protocol": str | None},
}


def to_text(bundle: Bundle) -> str:
    """The file's text: one line for each row, and for each image of the detections."""
    parts = {"dbnet": json.dumps(KIND), "version": json.dumps(VERSION),
             **{name: _line(getattr(bundle, name)) for name in _NEEDED},
             "models": _lines([_line(asdict(model)) for model in bundle.models]),
             "rows": _lines([_line(_row(row)) for row in bundle.rows]),
             "detections": "{" + ",\n".join(f"{json.dumps(key)}: {_lines(list(map(_line, images)))}"
                                            for key, images in bundle.detections.items()) + "}"}
    return "{" + ",\n".join(f"{json.dumps(name)}: {text}" for name, text in parts.items()) + "}\n"


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Writes the file, or leaves what was there. Raises DbnetError."""
    write_text(path, to_text(bundle))


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _lines(lines: list[str]) -> str:
    return "[" + "".join(f"\n {line}," for line in lines)[:-1] + "]"


def _row(row: Row) -> dict[str, Any]:
    told = asdict(row)
    named = {each.name: each.metadata.get("name", each.name) for each in fields(Seconds)}
    return told | {"seconds": {named[name]: value for name, value in told["seconds"].items()}}


def read_bundle(path: Path, digests: bool = True) -> Bundle:
    """Reads what `write_bundle` wrote; nothing in it is trusted. digests: the detections must be those that their keys
    are the sha256 of; without it whoever reads compares them (`detections_digest`).

    Raises DbnetError, naming the file and what is wrong.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise DbnetError(f"{path}: is larger than any bundle of a benchmark; name the file that dbnet bench wrote")
        return read_text(data.decode(), str(path), digests)
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); name the file that dbnet bench wrote") from error
    except UnicodeDecodeError as error:
        raise DbnetError(f"{path}: is no bundle of dbnet bench, for it is no text; name the file that it "
                         f"wrote") from error


def read_text(text: str, where: str, digests: bool = True) -> Bundle:
    """`read_bundle` of a text. where: in errors."""
    try:
        data = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DbnetError(f"{where}: is no bundle of dbnet bench, or cut off ({short(error, 100)}); copy it again, or "
                         f"measure again") from error
    if not isinstance(data, dict) or data.get("dbnet") != KIND:
        kind = shown(data.get("dbnet")) if isinstance(data, dict) and "dbnet" in data else "something else"
        raise DbnetError(f"{where}: is no bundle of dbnet bench ({kind}); name a file that dbnet bench -o wrote")
    if data.get("version") != VERSION:
        raise DbnetError(f"{where}: is a bundle of version {shown(data.get('version'))}, this dbnet reads {VERSION}; "
                         f"update dbnet-parity")
    try:
        return _read(data, digests)
    except BadBundleError as error:
        raise DbnetError(f"{where}: is a damaged bundle: {error}; copy it again, or measure again") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number that a bundle holds")


def _read(data: dict[str, Any], digests: bool) -> Bundle:
    data = {name: value for name, value in data.items() if name not in ("dbnet", "version")}
    bundle: Bundle = typed(Bundle, data, "")
    for part, needed in _NEEDED.items():
        held = getattr(bundle, part)
        for name, kind in needed.items():
            if name not in held:
                raise BadBundleError(f"{part} has no {name}")
            typed(kind, held[name], f"{part}.{name}")
    check_numbers(bundle)
    _check(bundle, digests)
    return bundle


def _check(bundle: Bundle, digests: bool) -> None:
    """What belongs together in a bundle does."""
    names = bundle.data["names"]
    if len(names) != bundle.data["images"] or len(set(names)) != len(names):
        raise BadBundleError(f"data.images is {bundle.data['images']}, and {len(set(names))} images have names")
    if digest_of(names) != bundle.data["names_sha256"]:
        raise BadBundleError("data.names are not those of data.names_sha256")
    ids = [model.id for model in bundle.models]
    if len(set(ids)) != len(ids):
        raise BadBundleError("two models have the same id")
    for i, row in enumerate(bundle.rows):
        if row.model not in ids:
            raise BadBundleError(f"rows[{i}] is of a model {shown(row.model)} that is not there")
        if row.detections is not None and row.detections not in bundle.detections:
            raise BadBundleError(f"rows[{i}]: its detections are not there")
        if row.parity and not (0 <= row.parity.reference < len(bundle.rows) and row.parity.verdict in VERDICTS):
            raise BadBundleError(f"rows[{i}]: its parity is none")
        if any(len(scores.counts) != len(names) or len(scores.interval) != 2 for scores in row.scores.values()):
            raise BadBundleError(f"rows[{i}]: its scores are not of {len(names)} images")
    for key, images in bundle.detections.items():
        _check_detections(key, images, names, digests)


def _check_detections(key: str, images: list[dict[str, Any]], names: list[str], digests: bool) -> None:
    where = f"detections {key[:12]}"
    if [image.get("name") for image in images] != names:
        raise BadBundleError(f"{where}: are not of the images in data.names")
    for image in images:
        for one in typed(list[dict[str, Any]], image.get("detections"), f"{where}: {image['name']}"):
            polygon = typed(list[list[float]], one.get("polygon"), f"{where}: {image['name']}: polygon")
            typed(float, one.get("score"), f"{where}: {image['name']}: score")
            if any(len(point) != 2 for point in polygon):
                raise BadBundleError(f"{where}: {image['name']}: a polygon is no list of points")
    if digests and detections_digest(images) != key:
        raise BadBundleError(f"{where}: somebody changed them, for their sha256 is another")
