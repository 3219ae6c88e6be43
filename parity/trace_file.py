"""Trace files: runs of models in one .safetensors file, which any reader of that format opens.

The metadata has `dbnet_trace`, JSON with the version, the digest of everything and for each run what `Trace` has; the
arrays of a run stand under its name: `RUN/shape/STAGE` (N, 4) int64, `RUN/sha256/STAGE` (N, 32) uint8,
`RUN/statistics/STAGE` (N, WIDTH) float64, at level `sampled` `RUN/sample/STAGE` (N, SAMPLE) float32; what was kept in
full as `RUN/full/I/STAGE` (1, C, H, W) float32; `RUN/boxes/counts` (N,) int64, -1 where no boxes were made, and for all
boxes in a row `RUN/boxes/lengths` (B,) int64, `RUN/boxes/points` (P, 2) float64 and `RUN/boxes/scores` (B,) float64.
No time, no path and no name of a machine is in it: the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dbnet.errors import DbnetError, short, shown
from dbnet.safetensors_layout import METADATA, DamagedError, check_layout, header_bytes, header_of, metadata_of
from dbnet.writing import check_target, replacing
from parity.trace import LEVELS, ORDER, PIXELS, VERSION, Trace, TracedImage, shapes_of
from parity.trace_statistics import FIELDS

KEY = "dbnet_trace"
#: What a run is called where there is but one.
ONLY = "model"
#: The types that a trace's arrays have.
DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8"),
                               "U8": np.dtype("u1")}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RUN = re.compile(r"[A-Za-z0-9_.+@-]{1,120}")
#: More images than any run has, and points than any outline: what a damaged file may claim.
_MOST_IMAGES, _MOST_POINTS = 1_000_000, 100_000
#: Of levels of its JSON; of a statistic of float32, whose square must be a number too; of a place in pixels.
_DEEPEST, _LARGEST, _FARTHEST = 20, 1e60, 1e9


def is_trace(path: Path) -> bool:
    """Whether a file says that it is one. False for what cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            return f'"{KEY}"'.encode() in stream.read(min(size, 4096))
    except OSError:
        return False


def write_traces(path: Path, runs: Mapping[str, Trace], force: bool = False) -> None:
    """Writes the runs, by name. The file is complete and read back, or was not touched.

    Raises DbnetError for a target that exists already (unless `force`) or cannot be written, ValueError for no run or
    a name that is no name.
    """
    if not runs or not all(_RUN.fullmatch(name) for name in runs):
        raise ValueError(f"not the names of runs: {list(runs)}")
    check_target(path, force=force)
    arrays = {f"{name}/{key}": array for name, run in sorted(runs.items()) for key, array in run.arrays.items()}
    ordered = dict(sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    told = {"version": VERSION, "runs": {name: _plain(run) for name, run in sorted(runs.items())}}
    text = json.dumps(told | {"sha256": _digest(told, ordered)}, sort_keys=True, allow_nan=False)
    with replacing(path) as (stream, temporary):
        _write(stream, text, ordered)
        stream.flush()
        read_traces(temporary)


def read_traces(path: Path) -> dict[str, Trace]:
    """The runs of a file, by name, checked against its digest. The arrays are views into the mapped file.

    Raises DbnetError for what is no trace, damaged, or written by a newer version.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DbnetError(f"{path}: is not a regular file; name a trace")
        data = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # of an empty file
        raise DbnetError(f"{path}: is empty; copy it again") from error
    try:
        return _read(data)
    except _NewerError as error:
        raise DbnetError(f"{path}: {error}") from error
    except DamagedError as error:
        raise DbnetError(f"{path}: is damaged or no trace: {short(error)}; copy or record it again") from error


def read_trace(path: Path, run: str | None = None) -> Trace:
    """The run of that name, or the only one. Raises DbnetError as `read_traces` does, and if it is not there."""
    runs = read_traces(path)
    if run is None and len(runs) == 1:
        return next(iter(runs.values()))
    if run is None or run not in runs:
        what = "holds several runs" if run is None else f"has no run {shown(run)}"
        raise DbnetError(f"{path}: {what}; name one of them: {', '.join(f'{path}:{name}' for name in runs)}")
    return runs[run]


def split_run(path: Path) -> tuple[Path, str | None]:
    """`result.trace:exact` -> the file and the run's name; a file of that whole name comes first."""
    file, colon, run = str(path).rpartition(":")
    if colon and not path.exists() and file and _RUN.fullmatch(run):
        return Path(file), run
    return path, None


# Writing --------------------------------------------------------------------------------------------------------------


def _plain(run: Trace) -> dict[str, Any]:
    return {"about": run.about, "level": run.level, "stages": list(run.stages),
            "images": [[image.name, image.sha256, *map(list, (image.size, image.covered, image.shape))]
                       for image in run.images]}


def _digest(told: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name}\0{_NAMES[array.dtype]}{list(array.shape)}".encode())
        found.update(_bytes_of(array).data)
    return found.hexdigest()


def _bytes_of(array: np.ndarray) -> np.ndarray:
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8)


def _write(stream: BinaryIO, text: str, arrays: Mapping[str, np.ndarray]) -> None:
    header: dict[str, Any] = {METADATA: {KEY: text}}
    position = 0
    for name, array in arrays.items():
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    stream.write(header_bytes(header))
    for array in arrays.values():
        stream.write(_bytes_of(array).data)


# Reading --------------------------------------------------------------------------------------------------------------


class _NewerError(ValueError):
    """One phrase."""


def _read(data: np.ndarray) -> dict[str, Trace]:
    header, begin = header_of(data.data)
    text = metadata_of(header.pop(METADATA, {})).get(KEY)
    if text is None:
        raise DamagedError(f"its metadata has no {KEY}")
    told = _json(text)
    printable = _printable(told)
    check_layout(header, len(data) - begin, DTYPES)
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        arrays[name] = np.frombuffer(data[begin + first:begin + last], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    digest = told.pop("sha256", None)
    if digest != _digest(told, arrays):
        raise DamagedError("its digest is not that of its content")
    runs = _table(printable.get("runs"), "runs")
    found = {name: _run(name, _table(run, name), arrays) for name, run in runs.items()}
    known = {f"{name}/{key}" for name, run in found.items() for key in run.arrays}
    if not found or (strange := set(arrays) - known):
        what = f"{shown(sorted(strange)[0])}, which belongs to no run" if found else "no run"
        raise DamagedError(f"it holds {what}")
    return found


def _json(text: str) -> dict[str, Any]:
    try:
        told = _table(json.loads(text), KEY)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"its {KEY} is no JSON ({error})") from error
    version = told.get("version")
    if type(version) is not int or version < 1:
        raise DamagedError(f"its version is {shown(version)}")
    if version > VERSION:
        raise _NewerError(f"is a trace of version {shown(version)}, and this dbnet-parity reads up to {VERSION}; "
                          f"install a newer one: pip install -U dbnet-parity")
    return told


def _printable(value: Any, depth: int = 0) -> Any:
    """What a terminal and a report may get of what a stranger wrote: other characters become question marks."""
    if depth > _DEEPEST:
        raise DamagedError(f"its {KEY} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else "?" for c in value)
    if isinstance(value, list):
        return [_printable(each, depth + 1) for each in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(each, depth + 1) for key, each in value.items()}
    return value


def _table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedError(f"{shown(what)} is no table")
    return value


def _run(name: str, told: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Trace:
    if not _RUN.fullmatch(name):
        raise DamagedError(f"{shown(name)} is no name of a run")
    level, stages, images = told.get("level"), told.get("stages"), told.get("images")
    if level not in LEVELS:
        raise DamagedError(f"its level is {shown(level)}")
    if not isinstance(stages, list) or stages != [stage for stage in ORDER if stage in stages] or not stages:
        raise DamagedError(f"its stages are {shown(stages)}")
    if not isinstance(images, list) or not 0 < len(images) <= _MOST_IMAGES:
        raise DamagedError("it has no list of images")
    own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
    run = Trace(_table(told.get("about"), "about"), level, tuple(stages), [_image(each) for each in images], own)
    if len({image.name for image in run.images}) < len(run.images):
        raise DamagedError("two of its images have one name")
    _check_arrays(run)
    return run


def _image(told: Any) -> TracedImage:
    if not isinstance(told, list) or len(told) != 5:
        raise DamagedError(f"an image is {shown(told)}")
    name, sha256, *sides = told
    lengths = [[*side] if isinstance(side, list) else [] for side in sides]
    numbers = [number for side in lengths for number in side]
    if (not isinstance(name, str) or not (sha256 is None or (isinstance(sha256, str) and re.fullmatch(
            "[0-9a-f]{64}", sha256))) or [len(side) for side in lengths] != [2, 2, 4]
            or not all(type(number) is int and 0 < number < 1 << 31 for number in numbers)):
        raise DamagedError(f"an image is {shown(told)}")
    size, covered, shape = (tuple(side) for side in lengths)
    return TracedImage(name, sha256, size, covered, shape)  # type: ignore[arg-type]


def _check_arrays(run: Trace) -> None:
    wanted = shapes_of(run)
    for name, (dtype, shape) in wanted.items():
        array = run.arrays.get(name)
        if array is None or array.dtype != dtype or array.shape != shape:
            raise DamagedError(f"{name} is {'missing' if array is None else f'{array.dtype} {array.shape}'}, not "
                               f"{dtype} {shape}")
    for name, array in run.arrays.items():
        if name not in wanted and not name.startswith("boxes/"):
            _check_full(run, name, array)
    if run.level == "full" and len([name for name in run.arrays if name.startswith("full/")]) != len(
            run.images) * len(run.stages):
        raise DamagedError("it is of level full and has not every stage in full")
    for stage in run.stages:
        _check_numbers(run, stage)
    _check_boxes(run)


def _check_numbers(run: Trace, stage: str) -> None:
    """That shapes are shapes and statistics are some that maps of these shapes can have."""
    shapes, rows = run.arrays[f"shape/{stage}"], run.arrays[f"statistics/{stage}"]
    if (shapes < 1).any() or (shapes >= 1 << 31).any() or (
            stage == PIXELS and [tuple(shape) for shape in shapes.tolist()] != [image.shape for image in run.images]):
        raise DamagedError(f"its shapes of {stage} are no shapes, or not those of the images")
    size, missing, low, high, _, std, l2 = rows[:, :len(FIELDS)].T
    if (not np.isfinite(rows).all() or (np.abs(rows) > _LARGEST).any() or (size != shapes.astype(float).prod(1)).any()
            or (missing < 0).any() or (missing > size).any() or (low > high).any() or (std < 0).any()
            or (l2 < 0).any()):
        raise DamagedError(f"its statistics of {stage} are none of such maps")


def _check_full(run: Trace, name: str, array: np.ndarray) -> None:
    match = re.fullmatch(r"full/(0|[1-9]\d{0,9})/(\w+)", name, re.ASCII)
    if match is None or int(match[1]) >= len(run.images) or match[2] not in run.stages:
        raise DamagedError(f"it holds {shown(name)}, which belongs to no image or stage")
    if array.dtype != np.float32 or array.shape != run.shape(int(match[1]), match[2]):
        raise DamagedError(f"{name} is {array.dtype} {array.shape}, not float32 of the shape that it tells")


def _check_boxes(run: Trace) -> None:
    counts = run.arrays["boxes/counts"]
    if (counts < -1).any() or (counts > _MOST_POINTS).any():
        raise DamagedError("its counts of boxes are no counts")
    total, kinds = int(np.maximum(counts, 0).sum()), ("lengths", "points", "scores")
    lengths, points, scores = (run.arrays.get(f"boxes/{kind}") for kind in kinds)
    if extra := {name for name in run.arrays if name.startswith("boxes/")} - {
            "boxes/counts", *(f"boxes/{kind}" for kind in kinds)}:
        raise DamagedError(f"it holds {shown(sorted(extra)[0])}")
    if not total and lengths is points is scores is None:
        return
    if (lengths is None or points is None or scores is None or lengths.dtype != np.int64 or lengths.shape != (total,)
            or scores.dtype != np.float64 or scores.shape != (total,) or points.dtype != np.float64
            or (lengths < 3).any() or (lengths > _MOST_POINTS).any() or points.shape != (int(lengths.sum()), 2)
            or not (np.abs(points) <= _FARTHEST).all() or not np.isfinite(scores).all()):
        raise DamagedError("its boxes are not as many, or no outlines")
