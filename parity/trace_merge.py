"""Traces of parts (`dbnet trace --shard I/N`) as the trace of the whole: byte for byte the file of one run.

Everything in a trace is of one image, and every sum in it is taken within one, so that parts are put one after the
other. What belongs to a machine and moves no number may differ, and is the first part's: the name of the model's file,
its notes, and which of several devices of one kind was used. The processor may not: a trace is of one kind of machine.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.shards import whole_of
from dbnet.writing import check_target
from evaluation.part import names_digest
from evaluation.store import leaves
from parity.trace import Trace
from parity.trace_file import ONLY, read_traces, write_traces
from parity.trace_part import SHARD, part_told
from parity.traced import side_of

#: What differs from machine to machine and moves no number.
_PLACES = ("file", "notes", SHARD)
_ABSENT = object()


def merge_traces(paths: Sequence[Path], out: Path, force: bool = False) -> Trace:
    """Writes the trace of the whole from the files of its parts, in any order, and returns it.

    Needs room for twice the size of the whole in the folder of `out`, and little memory. Raises DbnetError for what is
    no part, is there twice or missing, and for parts of different models, images, settings or machines.
    """
    check_target(out, force=force)
    if any(path.exists() and out.exists() and path.samefile(out) for path in paths):
        raise DbnetError(f"{out}: is one of the parts; name another file")
    whole = merged_trace([(str(path), _run(path)) for path in paths], out.parent)
    write_traces(out, {ONLY: whole}, force)
    return whole


def merged_trace(parts: Sequence[tuple[str, Trace]], spill: Path) -> Trace:
    """The same of runs, with their names in errors. spill: the folder for what does not fit into memory."""
    if not parts:
        raise DbnetError("no part to put together; give the files that dbnet trace --shard I/N wrote")
    told = [part_told(run.about, name) for name, run in parts]
    for (name, run), (shard, images, _) in zip(parts, told, strict=True):
        if len(run.images) != len(shard.places(images)):
            raise DbnetError(f"{name}: holds {len(run.images)} images, and {shard} of {images} are "
                             f"{len(shard.places(images))}; record it again")
    for name, run in parts[1:]:
        _check_alike(parts[0], (name, run))
    order = whole_of([(name, shard) for (name, _), (shard, _, _) in zip(parts, told, strict=True)], told[0][1])
    runs = [parts[i][1] for i in order]
    every = [image for run in runs for image in run.images]
    if names_digest([image.name for image in every]) != told[0][2]:
        raise DbnetError(f"{parts[0][0]} and the others: their images are not those of the whole, whose digest each "
                         f"has; record them again")
    about = {name: value for name, value in runs[0].about.items() if name != SHARD}
    return Trace(about, runs[0].level, runs[0].stages, every, _joined(runs, spill))


def _run(path: Path) -> Trace:
    runs = read_traces(path)
    if list(runs) != [ONLY]:
        raise DbnetError(f"{path}: holds runs of a kit, not a part; give what dbnet trace --shard I/N wrote")
    side_of(runs[ONLY], path)  # for its errors
    return runs[ONLY]


def _check_alike(first: tuple[str, Trace], second: tuple[str, Trace]) -> None:
    """Raises DbnetError for parts of different runs."""
    wanted, found = _common(first[1]), _common(second[1])
    for key in {**wanted, **found}:
        if wanted.get(key, _ABSENT) != found.get(key, _ABSENT):
            one, other = (short(json.dumps(side[key]), 60) if key in side else "nothing" for side in (wanted, found))
            raise DbnetError(f"{first[0]} and {second[0]} are parts of different runs: {key} is {one} and {other}; put "
                             f"parts of one run together")


def _common(run: Trace) -> dict[str, Any]:
    """What the parts of a run have in common, by dotted path; the model first."""
    about = {name: value for name, value in run.about.items() if name not in _PLACES}
    environment = dict(about.get("environment") or {})
    for table in (about, environment):
        if isinstance(table.get("device"), str):
            table["device"] = re.sub(r":\d+$", "", table["device"])
    _, images, names = part_told(run.about, "")
    kept = sorted({name.split("/")[2] for name in run.arrays if name.startswith("full/")})
    first = {name: about.pop(name) for name in ("record", "opaque", "digest") if name in about}
    if "record" in first:
        first["record"] = json.loads(first["record"])
    return leaves(first | {"images": images, "names of the images": names, "level": run.level,
                           "stages": list(run.stages), "kept in full": kept} | about | {"environment": environment})


# Arrays ---------------------------------------------------------------------------------------------------------------


def _joined(runs: Sequence[Trace], spill: Path) -> dict[str, np.ndarray]:
    """The arrays of the whole. What was kept in full stays where it is, the others are written into one file."""
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for run in runs:
        for name, array in run.arrays.items():
            if name.startswith("full/"):
                _, image, stage = name.split("/")
                arrays[f"full/{start + int(image)}/{stage}"] = array
        start += len(run.images)
    names = dict.fromkeys(name for run in runs for name in run.arrays if not name.startswith("full/"))
    return arrays | _on_disk({name: [run.arrays[name] for run in runs if name in run.arrays] for name in names}, spill)


def _on_disk(pieces: Mapping[str, Sequence[np.ndarray]], folder: Path) -> dict[str, np.ndarray]:
    """Of each name its arrays one after the other, in a file without a name. Raises DbnetError for a full disk."""
    places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
    try:
        stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as the arrays are in use
        for name, arrays in pieces.items():
            stream.write(b"\0" * (-stream.tell() % 8))
            places[name] = stream.tell(), arrays[0].dtype, (sum(map(len, arrays)), *arrays[0].shape[1:])
            for array in arrays:
                stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        stream.flush()
    except OSError as error:
        raise DbnetError(f"{folder}: cannot be written ({error.strerror}); make room, or write the trace to another "
                         f"folder") from error
    data = np.memmap(stream, np.uint8, "r")
    return {name: np.frombuffer(data[first:first + math.prod(shape) * dtype.itemsize], dtype).reshape(shape)
            for name, (first, dtype, shape) in places.items()}
