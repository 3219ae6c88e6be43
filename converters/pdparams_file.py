"""Paddle's .pdparams, read and written without Paddle: a pickle of name -> numpy array, and the record as a text.

Paddle 2.x also writes (tensor name, array) in place of an array, adds a table `StructuredToParameterName@@`, and holds
bfloat16 as uint16. Files of Python 2 are read as latin1.
Source: python/paddle/framework/io.py (`_build_saved_state_dict`, `_pickle_save`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from converters.mapped_file import MAX_ENTRIES, MappedFile
from converters.pdparams_writing import NAME_TABLE, write
from converters.pickled_objects import COMMON, ArrayData, Maker, RefusedError, is_tensor_name, printable
from converters.restricted_pickle import load
from converters.tensor_file import TensorFile
from dbnet.errors import DbnetError, short
from dbnet.record import RECORD_KEY

__all__ = ["read", "write"]

#: Paddle cuts arrays above 1 GiB into pieces at protocol 2 and 3, and says here how.
_PIECES = "UnpackBigParamInfor@@"
#: Accumulators of Paddle's optimizers ("conv2d_0.w_0_moment1_0"), and their schedule.
_OPTIMIZER = re.compile(r".*_(moment[12]?|momentum|velocity|beta[12]_pow_acc|mean_square|mean_grad|inf_norm"
                        r"|moment2_max|avg_squared_(grad|update))_\d+")
_SCHEDULE = ("LR_Scheduler", "master_weights")

_ALLOWED: dict[str, Maker] = {**COMMON, "builtins.tuple": lambda items=(): tuple(items)}


def read(path: Path) -> TensorFile:
    """Reads the weights; nothing in the file is executed. Raises DbnetError."""
    where = str(path)
    if path.suffix.lower() == ".pdopt":
        raise DbnetError(f"{where}: is an optimizer's state, not weights; name the .pdparams file beside it")
    file = MappedFile(path)
    if bytes(file.view[:1]) != b"\x80":
        raise DbnetError(f"{where}: is no .pdparams of paddle.save (a pickle); an inference model (.pdiparams) has no "
                         f"names: take the training checkpoint")
    root, end = load(file.view, 0, where, _ALLOWED)
    if end != len(file.view):
        raise DbnetError(f"{where}: has {len(file.view) - end} bytes after its pickle; copy or download it again")
    file.discard(0, end)  # the arrays are copies
    if not isinstance(root, dict):
        raise DbnetError(f"{where}: holds a {type(root).__name__}, not a state dict; save model.state_dict()")
    try:
        return _file(root)
    except RefusedError as error:
        raise DbnetError(f"{where}: {short(error, 400)}") from error
    except (TypeError, ValueError) as error:
        raise DbnetError(f"{where}: {short(error)}; the file is damaged, copy or download it again") from error


def _file(root: dict[Any, Any]) -> TensorFile:
    if any(key in root for key in _SCHEDULE) or any(isinstance(n, str) and _OPTIMIZER.fullmatch(n) for n in root):
        raise RefusedError("is an optimizer's state, not weights; name the .pdparams file beside the .pdopt")
    if _PIECES in root:
        raise RefusedError("holds arrays in pieces (above 1 GiB at pickle protocol 2 or 3); save it again with "
                           "paddle.save(..., protocol=4)")
    if len(root) > MAX_ENTRIES:
        raise RefusedError(f"holds {len(root)} entries, far more than a network has tensors; is it the right file?")
    found = TensorFile("pdparams", {})
    for name, value in root.items():
        if not is_tensor_name(name):
            raise RefusedError(f"holds an entry named {str(name)[:80]!r}; save model.state_dict()")
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            value = value[1]
        if isinstance(value, ArrayData):
            found.tensors[name] = _array(name, value, found)
        elif name == NAME_TABLE and isinstance(value, dict):
            found.metadata[name] = f"{len(value)} names, dropped"
        elif name == RECORD_KEY and isinstance(value, str):
            found.record = value
        elif isinstance(value, (bool, int, float, str)):
            found.metadata[name] = printable(str(value))
        else:
            raise RefusedError(f"{printable(name)} is a {type(value).__name__}, not an array; save "
                               f"model.state_dict()")
    return found


def _array(name: str, value: ArrayData, found: TensorFile) -> np.ndarray:
    try:
        array = value.array()
    except (RefusedError, TypeError, ValueError) as error:
        raise type(error)(f"{printable(name)}: {error}") from error
    if array.dtype != np.uint16:
        return array
    note = "uint16 arrays are taken as bfloat16, which Paddle stores so"
    found.notes += [note] * (note not in found.notes)
    return array.view(ml_dtypes.bfloat16)
