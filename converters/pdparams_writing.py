"""Paddle's .pdparams, written by hand as a pickle of protocol 4: no Paddle, and nothing of it is ever executed here.

As `paddle.save(model.state_dict(), path)` lays it out: name -> numpy array, then the table of names, without which
`paddle.load` gives arrays in place of tensors. Source: python/paddle/framework/io.py (`_build_saved_state_dict`).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from converters.pickle_writing import global_, number, text, tuple_
from converters.weights import bytes_of
from dbnet.errors import DbnetError
from dbnet.record import RECORD_KEY

#: Layer names -> names of the static graph; no weights.
NAME_TABLE = "StructuredToParameterName@@"
#: dtype -> numpy's code for it; Paddle keeps bfloat16 in unsigned 16-bit integers.
_CODES = {"float16": "f2", "bfloat16": "u2", "float32": "f4", "float64": "f8"}


def write(stream: BinaryIO, tensors: Mapping[str, np.ndarray], record: str | None) -> None:
    """Writes a state dict that paddle.load takes. Raises DbnetError for a type that Paddle has no place for."""
    for name, array in tensors.items():
        if array.dtype.name not in _CODES:
            raise DbnetError(f"{name}: {array.dtype.name} cannot be stored in a .pdparams; convert it to float32 first")
        if name in (RECORD_KEY, NAME_TABLE):
            raise DbnetError(f"a tensor cannot be named {name!r} in a .pdparams; rename it")
    stream.write(pickle.PROTO + b"\x04" + pickle.EMPTY_DICT)
    for name, array in tensors.items():
        stream.write(text(name) + _reconstructed() + pickle.MARK + number(1) + tuple_(*map(number, array.shape)))
        stream.write(_dtype(_CODES[array.dtype.name]) + pickle.NEWFALSE)
        data = bytes_of(array)
        stream.write(pickle.BINBYTES8 + struct.pack("<Q", len(data)))
        stream.write(data)
        stream.write(pickle.TUPLE + pickle.BUILD + pickle.SETITEM)
    if record is not None:
        stream.write(text(RECORD_KEY) + text(record) + pickle.SETITEM)
    stream.write(text(NAME_TABLE) + pickle.EMPTY_DICT + pickle.MARK)
    for name in tensors:
        stream.write(text(name) * 2)
    stream.write(pickle.SETITEMS + pickle.SETITEM + pickle.STOP)


def _reconstructed() -> bytes:
    """numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b"b"): an array that awaits its state."""
    return (global_("numpy.core.multiarray", "_reconstruct") + global_("numpy", "ndarray") + tuple_(number(0))
            + pickle.SHORT_BINBYTES + b"\x01b" + pickle.TUPLE3 + pickle.REDUCE)


def _dtype(code: str) -> bytes:
    """numpy.dtype(code, False, True), little-endian."""
    state = number(3), text("<"), pickle.NONE * 3, number(-1), number(-1), number(0)
    return (global_("numpy", "dtype") + text(code) + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE
            + pickle.MARK + b"".join(state) + pickle.TUPLE + pickle.BUILD)
