"""Traces spoilt value by value and sealed again with a digest that is right, so that what lies behind it is reached.

The digest is made here by what the format's documentation says, not by the code that checks it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from converters.weights import digest
from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.sample import Detection
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from parity.staged import StagedModel
from parity.trace import PIXELS, Recorder, Trace, TracedImage
from parity.trace_compare import compare_traced
from parity.trace_file import read_traces, write_traces
from parity.traced import TracedModel, side_of
from tests.fuzz_bytes import NUMBERS, remembered
from tests.fuzz_texts import VALUES, changed

TYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "U8": np.uint8}
#: In place of numbers of the arrays.
_ODD = (float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 1e-320, -0.0, 1.0)
_WHOLE = tuple(number for number in (*NUMBERS, -1, -2, -2**31, -2**63) if -2**63 <= number < 2**63)

#: What is in a file: its JSON without the digest, and its arrays by name.
Content = tuple[dict[str, Any], dict[str, np.ndarray]]


# Sound files ----------------------------------------------------------------------------------------------------------


def _about() -> dict[str, Any]:
    spec = SPECS["dbnet_mobilenetv3"]
    record = Record(spec, "mindocr", digest(seeded_weights(spec)))
    return {"record": record.to_json(), "origin": "mindocr", "file": "m.ckpt", "runner": "torch", "device": "cpu",
            "digest": "a" * 64, "pixels": json.loads(json.dumps(spec.pixels.__dict__)), "boxes": spec.boxes.__dict__,
            "environment": {"framework": "torch", "version": "2.13.0"}, "machine": {"cores": 2}, "versions": {},
            "notes": []}


def sound(level: str, seed: int, boxes: bool = True) -> Trace:
    """A run on two images."""
    chance = np.random.default_rng(seed)
    recorder = Recorder(_about(), (PIXELS, "logits", "probability"), level)
    for name in ("a.png", "b/c.jpg"):
        maps = {PIXELS: chance.standard_normal((1, 3, 32, 64)), "logits": chance.standard_normal((1, 1, 32, 64)),
                "probability": chance.random((1, 1, 32, 64))}
        found = [Detection(chance.random((points, 2)) * 60, 0.5) for points in (4, 6)] if boxes else None
        recorder.add(TracedImage(name, hashlib.sha256(name.encode()).hexdigest(), (40, 70), (32, 64), (1, 3, 32, 64)),
                     maps, found)
    return recorder.trace()


@cache
def traces() -> tuple[bytes, ...]:
    """Every level, with boxes and without, one run and two."""
    with tempfile.TemporaryDirectory() as name:
        files = []
        for i, runs in enumerate(({"model": sound("statistics", 1)}, {"model": sound("sampled", 2)},
                                  {"model": sound("full", 3)}, {"model": sound("statistics", 4, boxes=False)},
                                  {"a": sound("statistics", 5), "b": sound("full", 6)})):
            path = Path(name) / f"{i}.trace"
            write_traces(path, runs)
            files.append(path.read_bytes())
    return tuple(files)


# Taking apart and putting together ------------------------------------------------------------------------------------


@remembered
def _taken_apart(data: bytes) -> Content:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    told = json.loads(header.pop("__metadata__")["dbnet_trace"])
    told.pop("sha256")
    arrays = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return told, arrays


def content(data: bytes) -> Content:
    """Of a sound file, to be changed."""
    return deepcopy(_taken_apart(data))


def sealed(told: Any, arrays: dict[str, np.ndarray]) -> bytes:
    """A file with that content and its digest."""
    names = {np.dtype(kind): name for name, kind in TYPES.items()}
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name}\0{names[array.dtype]}{list(array.shape)}".encode("utf-8", "surrogatepass"))
        found.update(np.ascontiguousarray(array).tobytes())
    whole = told | {"sha256": found.hexdigest()} if isinstance(told, dict) else told
    header: dict[str, Any] = {"__metadata__": {"dbnet_trace": json.dumps(whole, sort_keys=True)}}
    position = 0
    for name, array in arrays.items():
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape),
                        "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())


# Spoiling -------------------------------------------------------------------------------------------------------------


def _words(chance: Random, told: dict[str, Any], _arrays: dict[str, np.ndarray]) -> None:
    """One field of the JSON."""
    name, run = chance.choice(list(told["runs"].items()))
    kind = chance.randrange(9)
    if kind == 0:
        told["version"] = chance.choice((0, -1, 2, 99, True, 1.0, "1", None, 2**70, [1]))
    elif kind == 1:
        run["level"] = chance.choice(("full", "sampled", "statistics", "", None, 3, ["full"], {}))
    elif kind == 2:
        run["stages"] = chance.choice((run["stages"][::-1], run["stages"] * 2, [], ["pixels"], ["x"], [[1]], "pixels",
                                       None, run["stages"][1:], [*run["stages"], "binary"], [{}]))
    elif kind == 3:
        told["runs"][chance.choice(("", "a/b", "model", "x" * 200, "\x1b[0m", "a\nb", "..", "\ud800"))] = \
            told["runs"].pop(name) if chance.random() < 0.5 else deepcopy(run)
    elif kind == 4:
        run["images"] = chance.choice(([], run["images"] * 2, run["images"][:1], None, {}, run["images"] * 700))
    elif kind < 7 and isinstance(run["images"], list) and run["images"]:
        _image(chance, chance.choice(run["images"]))
    elif kind == 7:
        told.update(changed(chance, {"runs": told["runs"]}))
    else:
        _about_field(chance, run["about"])


def _image(chance: Random, image: list[Any]) -> None:
    place = chance.randrange(5)
    if place < 2:
        image[place] = chance.choice((None, "", "a" * 64, "A" * 64, "../../etc/passwd", "\x1b[2J", "\ud800", "a\tb\nc",
                                      "x" * 3000, 7, [], "0" * 63, "\u0663" * 64))
    elif chance.random() < 0.5:
        image[place] = chance.choice(([], [1], [0, 1], [-1, 32], [2**31, 1], [2**31 - 1] * 2, [1.0, 2.0], [True, True],
                                      ["1", "2"], None, [1] * 5, [2**70, 1], [1, 3, 2**30, 2**30], [32, 64]))
    else:
        image[place][chance.randrange(len(image[place]))] = chance.choice((*NUMBERS, -1, None, 1.5, "1", True))


def _about_field(chance: Random, about: dict[str, Any]) -> None:
    key = chance.choice(list(about) or ["file"])
    kind = chance.randrange(4)
    if kind == 0:
        about.pop(key, None)
    elif kind == 1:
        about[chance.choice(("opaque", "runner", "device", "x", "precision"))] = deepcopy(chance.choice(VALUES))
    elif kind == 2 and isinstance(about.get(key), dict):
        about[key] = changed(chance, about[key])
    else:
        about[key] = deepcopy(chance.choice((*VALUES, {"output": "a", "sigmoid": True})))


def _tables(chance: Random, _told: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """One array: gone, called otherwise, of another type or shape, or with other values."""
    name = chance.choice(list(arrays))
    array, kind = arrays[name], chance.randrange(8)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        run, _, rest = name.partition("/")
        arrays[chance.choice((f"{run}/full/0/c2", f"{run}/full/9/probability", f"{run}/full/00/probability",
                              f"{run}/boxes/more", "x", "/", f"{run}//", f"{run}x/{rest}", rest,
                              f"{run}/full/{'9' * 30}/pixels", "a\x1b[0m", f"{run}/full/-1/probability"))] = array
    elif kind == 2:
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(chance.choice(list(TYPES.values())))
    elif kind == 3:
        arrays[name] = chance.choice((array.reshape(-1), array[None], array[:1], array.reshape(*array.shape, 1),
                                      np.concatenate([array, array]), array.T, array.reshape(-1)[:1]))
    elif kind == 4:
        other = chance.choice(list(arrays))
        arrays[name], arrays[other] = arrays[other], arrays[name]
    else:
        flat = array.reshape(-1).copy()
        for _ in range(chance.choice((1, 1, 2, len(flat)))):
            value = chance.choice(_ODD if flat.dtype.kind == "f" else [n for n in _WHOLE if flat.dtype != np.uint8 or
                                                                       0 <= n < 256])
            with np.errstate(all="ignore"):
                flat[chance.randrange(len(flat))] = value
        arrays[name] = flat.reshape(array.shape)


def _bombs(chance: Random, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """What claims to be much."""
    run = chance.choice(list(told["runs"]))
    if f"{run}/boxes/lengths" in arrays and chance.random() < 0.5:
        lengths = arrays[f"{run}/boxes/lengths"].copy()
        lengths[:] = chance.choice((2**62, 2**63 - 1, 2**31, -1, 100_000, 3))  # sums that overflow too
        arrays[f"{run}/boxes/lengths"] = lengths
    elif chance.random() < 0.5:
        counts = arrays[f"{run}/boxes/counts"].copy()
        counts[:] = chance.choice((2**62, 2**63 - 1, 100_000, -1, 0))
        arrays[f"{run}/boxes/counts"] = counts
    else:
        nested: Any = []
        for _ in range(chance.choice((300, 480, 900))):
            nested = [nested] if chance.random() < 0.5 else {"a": nested}
        told["runs"][run]["about"][chance.choice(("notes", "environment", "x"))] = nested


_CHANGES: tuple[Callable[[Random, dict[str, Any], dict[str, np.ndarray]], None], ...] = (
    _words, _words, _tables, _tables, _bombs)


def resealed(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A thing or two changed, and the digest of that."""
    told, arrays = content(data)
    for _ in range(chance.choice((1, 1, 1, 2))):
        chance.choice(_CHANGES)(chance, told, arrays)
    return sealed(told, arrays)


# Reading --------------------------------------------------------------------------------------------------------------


def trace(path: Path, chance: Random) -> int:
    """All that a trace gives; as a side of a comparison; or compared with a sound one."""
    kind, runs = chance.random(), read_traces(path)
    if kind < 0.5:
        return sum(map(_touched, runs.values())) + path.stat().st_size
    side = side_of(chance.choice(list(runs.values())), path)
    json.dumps(side.told(), allow_nan=False).encode()
    if any(not text.isprintable() for text in (*side.notes, *(image.name for image in side.recorded.images))):
        raise ValueError("what is not printable, and would be printed")
    if kind < 0.75:
        return path.stat().st_size + len(str(side.rule))
    other = _sound_side()
    pair: tuple[StagedModel, StagedModel] = (other, side) if chance.random() < 0.5 else (side, other)
    try:
        compare_traced(*pair, (other.rule, side.rule), {})
    except DbnetError as error:  # of two sides: which one is meant, it says by A and B
        raise DbnetError(f"{path}: {error}") from error
    return 4 * path.stat().st_size


def _touched(run: Trace) -> int:
    for i in range(len(run.images)):
        for box in run.boxes(i) or ():
            if box.polygon.ndim != 2 or not np.isfinite(box.polygon).all():
                raise ValueError(f"a box {box}")
        for stage in run.stages:
            run.sha256(i, stage), run.shape(i, stage), run.sample(i, stage), run.full(i, stage)
            run.statistics(i, stage)
    return 0


@cache
def _sound_side() -> TracedModel:
    """What was recorded on the same images."""
    return side_of(sound("sampled", 2), Path("sound.trace"))
