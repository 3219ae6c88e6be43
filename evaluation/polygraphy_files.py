"""Polygraphy's JSON: the inputs that `polygraphy run --load-inputs` feeds, and outputs for its `--load-outputs`.

Written by hand, for Polygraphy need not be here: an array is the base64 of an .npy file. Read with Polygraphy 0.48 to
0.53 (`polygraphy/json/serde.py`, `comparator/struct.py`).
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from converters.onnx_graph import INPUT
from converters.writing import WEIGHT_SUFFIXES
from dbnet.errors import DbnetError
from dbnet.preprocess import prepare, read_image
from dbnet.writing import check_target, replacing
from evaluation.pipeline import naming
from evaluation.runners import Runner

#: Named arrays.
Arrays = Mapping[str, np.ndarray]
#: What marks a value as one of Polygraphy's types.
_TYPE = "polygraphy_class"


class SameNameError(DbnetError):
    """Two arrays of a run would be called the same, which a `names` of somebody's own makes them."""


@dataclass(frozen=True)
class Written:
    """inputs: the names of the arrays. outputs: theirs -> the largest value in any, for Polygraphy's tolerances are
    absolute. images: how many of each there are.
    """

    inputs: tuple[str, ...]
    outputs: dict[str, float]
    images: int


def check_targets(inputs: Path, outputs: Path, sources: Collection[Path], force: bool) -> None:
    """Raises DbnetError if these files cannot or must not be written. sources: what is read, the model and images."""
    for path in (inputs, outputs):
        check_target(path, force=force)
        if not path.suffix:
            raise DbnetError(f"{path}: has no suffix, and Polygraphy takes such a path for a folder; call it "
                             f"{path.name}.json")
        if path.suffix.lower() in WEIGHT_SUFFIXES or path.resolve() in {source.resolve() for source in sources}:
            raise DbnetError(f"{path}: is a source, or named like a weight file; name another file")
    if inputs.resolve() == outputs.resolve():
        raise DbnetError(f"{inputs}: is named for the inputs and for the outputs; name two files")


def write_exchange(pairs: Iterable[tuple[Arrays, Arrays]], runner: str, inputs: Path, outputs: Path,
                   names: Mapping[str, str]) -> Written:
    """Writes what goes in and what came out, image by image, so that memory does not grow with their number.

    runner: whose outputs these are, a name that Polygraphy shows. names: ours -> those to be written, of inputs and
    outputs. Both files are whole, on the disk, before either takes its place. Raises DbnetError, also for a name that
    is not there, and SameNameError.
    """
    count, largest = 0, dict[str, float]()
    seen: tuple[str, ...] = ()
    with replacing(outputs) as (out, _), replacing(inputs) as (into, _):
        into.write(b"[")
        out.write(b'{"lst": [[' + json.dumps(runner).encode() + b", [")
        for pair in pairs:
            if not count:
                _check_names(pair, names)
                seen = tuple(names.get(name, name) for name in pair[0])
            fed, given = ({names.get(name, name): array for name, array in arrays.items()} for arrays in pair)
            for name, array in given.items():
                largest[name] = max(largest.get(name, 0.0), float(np.abs(array).max(initial=0)))
            for stream, value in ((into, _arrays(fed)), (out, _result(given, runner))):
                _put(stream, value, not count)
            count += 1
        into.write(b"\n]\n")
        out.write(b"\n]]], " + json.dumps(_TYPE).encode() + b': "RunResults"}\n')
        if not count:
            raise DbnetError("there is no image to write")
        out.flush()
        os.fsync(out.fileno())  # `replacing` does so for the inputs, which are renamed first
    return Written(seen, largest, count)


def exchanges(runner: Runner, files: Iterable[str]) -> Iterator[tuple[Arrays, Arrays]]:
    """What each image is to the network and what that makes of it. Raises DbnetError for the first that fails."""
    exchanged = getattr(runner, "exchanged", None)
    pixels = runner.spec.pixels
    for file in files:
        with naming(Path(file)):
            tensor = prepare(read_image(file, pixels.ignore_orientation), pixels).tensor
            pair = ({INPUT: tensor}, runner.run(tensor)) if exchanged is None else exchanged(tensor)
        yield pair


def encoded(array: np.ndarray) -> dict[str, str]:
    """An array as Polygraphy's JSON holds it."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return {"array": base64.b64encode(stream.getvalue()).decode("ascii"), _TYPE: "ndarray"}


def _arrays(arrays: Arrays) -> dict[str, Any]:
    return {name: encoded(array) for name, array in arrays.items()}


def _result(arrays: Arrays, runner: str) -> dict[str, Any]:
    """One iteration. Its time is left out, so that the same outputs are the same file."""
    outputs = {name: {"values": value, _TYPE: "LazyArray"} for name, value in _arrays(arrays).items()}
    return {"outputs": outputs, "runtime": None, "runner_name": runner, _TYPE: "IterationResult"}


def _put(stream: BinaryIO, value: dict[str, Any], first: bool) -> None:
    stream.write(b"\n" if first else b",\n")
    stream.write(json.dumps(value).encode())


def _check_names(pair: tuple[Arrays, Arrays], names: Mapping[str, str]) -> None:
    there = [*pair[0], *pair[1]]
    for name in names:
        if name not in there:
            raise DbnetError(f"there is no {name} to be renamed, only {', '.join(there)}")
    called = [names.get(name, name) for name in there]
    if twice := [name for name in called if called.count(name) > 1]:
        raise SameNameError(f"two inputs or outputs would be called {twice[0]}; these are {', '.join(there)}")
