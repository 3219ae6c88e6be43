"""What `dbnet report` is given: bundles of dbnet bench, merged reports, parts of evaluations and of traces."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbnet.errors import DbnetError, short

if TYPE_CHECKING:
    from evaluation.benching.bundle import Bundle

BENCH, REPORT, EVALUATION, TRACE = "bench", "report", "evaluation", "trace"
#: Kind -> its words.
KINDS = {BENCH: "a bundle of dbnet bench", REPORT: "a merged report", TRACE: "a trace",
         EVALUATION: "an evaluation (dbnet evaluate --json)"}
#: How files of ours begin; others may have been written again by somebody's tools.
_BEGIN = re.compile(rb'\s*\{\s*"dbnet"\s*:\s*"(bench|report)"')
_EVALUATION = re.compile(rb'\s*\{\s*"scores"\s*:')
_NAME = "name what dbnet bench -o, evaluate --json or trace wrote"


def kind_of(paths: Sequence[Path]) -> str:
    """Of all of them; BENCH for bundles and merged reports together. Raises DbnetError for what is none of these, and
    for several kinds.
    """
    kinds = [_kind(path) for path in paths]
    merged = [BENCH if kind == REPORT else kind for kind in kinds]
    for path, kind, one in zip(paths, kinds, merged, strict=True):
        if one != merged[0]:
            raise DbnetError(f"{paths[0]} is {KINDS[kinds[0]]} and {path} {KINDS[kind]}; put files of one kind "
                             f"together")
    return merged[0]


def _kind(path: Path) -> str:
    from parity.trace_file import is_trace
    try:
        if path.exists() and not path.is_file():
            raise DbnetError(f"{path}: is no file; {_NAME}")
        with path.open("rb") as stream:
            begin = stream.read(200)
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); {_NAME}") from error
    if is_trace(path):
        return TRACE
    if found := _BEGIN.match(begin):
        return found[1].decode()
    if _EVALUATION.match(begin):
        return EVALUATION
    document = _parsed(path)
    if document.get("dbnet") in (BENCH, REPORT):
        return str(document["dbnet"])
    if isinstance(document.get("scores"), dict) and isinstance(document.get("images"), dict):
        return EVALUATION
    if "rows" in document and "machine" in document:
        raise DbnetError(f"{path}: holds figures only, as dbnet bench --json writes them; name what -o wrote")
    raise DbnetError(f"{path}: is neither a bundle of dbnet bench nor a part of an evaluation or a trace; {_NAME}")


def _parsed(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    from evaluation.benching.bundle import MOST_BYTES
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError("it is too large")
        document = json.loads(data)
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise DbnetError(f"{path}: is no JSON, or cut off ({short(error, 100)}); copy it again, or make it "
                         f"again") from error
    if not isinstance(document, dict):
        raise DbnetError(f"{path}: is JSON, but no report of this package; name what dbnet bench -o wrote")
    return document


def read_bundles(paths: Sequence[Path], digests: bool = True) -> list[tuple[str, Bundle]]:
    """By the names of their files; those within a merged report by the names that it has. digests: as `read_bundle`.

    Raises DbnetError.
    """
    from evaluation.benching.bundle import read_bundle
    found: list[tuple[str, Bundle]] = []
    for path in paths:
        found += _embedded(path, digests) if _kind(path) == REPORT else [(str(path), read_bundle(path, digests))]
    return found


def read_lines(path: Path) -> tuple[list[Any], list[tuple[str, Bundle]]] | None:
    """The lines that a merged report publishes, and the bundles within it by the names there; None for a bundle.

    Raises DbnetError.
    """
    from evaluation.benching.bundle import read_text
    if _kind(path) != REPORT:
        return None
    lines, entries = _entries(path)
    return lines, [(each["name"], read_text(json.dumps(each["bundle"]), str(path), digests=False)) for each in entries]


def _embedded(path: Path, digests: bool) -> list[tuple[str, Bundle]]:
    from evaluation.benching.bundle import read_text
    names = [(f"{path} ({short(each['name'], 80)})", each["bundle"]) for each in _entries(path)[1]]
    return [(name, read_text(json.dumps(bundle), name, digests)) for name, bundle in names]


def _entries(path: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """A merged report's lines, and its bundles with their names."""
    from evaluation.bench_report.document import VERSION
    document = _parsed(path)
    if document.get("version") != VERSION:
        raise DbnetError(f"{path}: is a report of version {short(document.get('version'), 40)}, this dbnet reads "
                         f"{VERSION}; update dbnet-parity")
    entries = document.get("bundles")
    if not isinstance(entries, list) or not entries or not all(
            isinstance(each, dict) and isinstance(each.get("name"), str) and "bundle" in each for each in entries):
        raise DbnetError(f"{path}: is a damaged report: its bundles are missing; merge them again")
    lines = document.get("lines")
    return lines if isinstance(lines, list) else [], entries
