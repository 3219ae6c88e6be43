"""torch's .pth, read and written without torch and without executing anything in it.

Since torch 1.6 a zip: data.pkl (the object, its tensors as references), data/<key> (the bytes of a storage),
byteorder, version. Before, five pickles and the storages behind them (converters.pth_legacy).
Source: torch/serialization.py (`_save`, `_load`), caffe2/serialize/inline_container.cc of 2.13.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from converters import pth_legacy
from converters.mapped_file import MappedFile
from converters.pickle_writing import global_, number, text, tuple_
from converters.pickled_objects import ArrayData, RefusedError, printable
from converters.pth_contents import unpack
from converters.pth_tensors import ALLOWED, STORAGES, Storage, Tensor, array, storage
from converters.restricted_pickle import load
from converters.stored_zip import BadZipError, StoredZip, write_stored
from converters.tensor_file import TensorFile
from converters.training_state import split_training_state
from converters.weights import bytes_of
from dbnet.errors import DbnetError, short
from dbnet.record import RECORD_KEY

#: A pickle holds names and shapes; 1 MiB is a large one.
MAX_PICKLE_BYTES = 1 << 26
#: What tensors that must be copied may cost beyond the size of the file.
SPARE_BYTES = 1 << 26
#: The folder in our archives, and the version of torch's layout that we write.
_FOLDER, _VERSION = "archive", b"3\n"
#: Fields of a persistent id in a zip.
_FIELDS = 5
_NAMES = {dtype.name: name for name, dtype in STORAGES.items()}

#: A storage's bytes, 1-d uint8, little-endian.
Fetch = Callable[[Storage], np.ndarray]


def read(path: Path) -> TensorFile:
    """Reads a state dict, plain or wrapped in a training file, in torch's zip or its older format.

    Tensors are read-only views into the mapped file where they lie there in C order. Raises DbnetError.
    """
    where = str(path)
    file = MappedFile(path)
    notes = []
    try:
        head = bytes(file.view[:32])
        if head[:4] == b"PK\x03\x04":
            root, fetch = _open_zip(file, where)
        elif pth_legacy.is_legacy(head):
            root, fetch = _open_legacy(file, where)
            notes = ["older format without checksums: damage inside its tensors would not be noticed"]
        else:
            raise RefusedError("is no file of torch.save (neither a zip archive nor its older format); save the state "
                               "dict with torch.save")
        contents = unpack(root, where)
        one = _maker(fetch, len(file.view) + SPARE_BYTES)
        tensors = {name: one(name, tensor) for name, tensor in contents.tensors.items()}
        ema = None if contents.ema is None else {name: one(name, tensor) for name, tensor in contents.ema.items()}
    except RefusedError as error:
        raise DbnetError(f"{where}: {short(error, 400)}") from error
    except BadZipError as error:
        raise DbnetError(f"{where}: is a damaged or incomplete archive ({short(error)}); copy or download it "
                         f"again") from error
    raw = tensors
    tensors, training, prefixed = split_training_state(tensors)
    for what, count in contents.training.items():
        training[what] = training.get(what, 0) + count
    return TensorFile("pth", tensors, contents.record, contents.metadata, training, contents.notes + notes,
                      ema if ema is not None else prefixed, raw,
                      lambda: [_optimizer(optimizer, one, where) for optimizer in contents.optimizers], contents.scaler,
                      file.release)


def _open_zip(file: MappedFile, where: str) -> tuple[Any, Fetch]:
    archive = StoredZip(file)
    folders = [name.removesuffix("/data.pkl") for name in archive.entries
               if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise RefusedError("is a zip archive, but not one of torch.save; unpack it, or save the state dict with "
                           "torch.save")
    folder = folders[0]
    if f"{folder}/constants.pkl" in archive.entries or any(n.startswith(f"{folder}/code/") for n in archive.entries):
        raise RefusedError(f"is a TorchScript program, not weights; in Python: "
                           f"torch.save(torch.jit.load({Path(where).name!r}).state_dict(), 'weights.pth')")
    order = archive.entries.get(f"{folder}/byteorder")
    byteorder = bytes(archive.bytes_of(order, limit=16)) if order else b"little"
    if byteorder not in (b"little", b"big"):
        raise BadZipError("its byte order is unknown")
    data = archive.bytes_of(archive.entries[f"{folder}/data.pkl"], MAX_PICKLE_BYTES)
    root, end = load(data, 0, where, ALLOWED, lambda pid: storage(pid, _FIELDS), _refusal(data))
    if end != len(data):
        raise BadZipError("there is something behind its pickle")
    known: dict[Storage, np.ndarray] = {}

    def fetch(source: Storage) -> np.ndarray:
        if source not in known:
            entry = archive.entries.get(f"{folder}/data/{source.key}")
            if entry is None or entry.size != source.nbytes:
                raise BadZipError(f"the storage {printable(source.key)} is missing or has another size")
            known[source] = _flat(archive.bytes_of(entry))
            if byteorder == b"big":
                known[source] = _swapped(known[source], source)
        return known[source]

    return root, fetch


def _open_legacy(file: MappedFile, where: str) -> tuple[Any, Fetch]:
    root, storages = pth_legacy.read(file.view, where, _refusal(file.view))
    return root, lambda source: _flat(storages[source.key])


def _flat(data: memoryview) -> np.ndarray:
    return np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)


def _swapped(data: np.ndarray, source: Storage) -> np.ndarray:
    if source.untyped:
        raise RefusedError("was written on a big-endian machine with tensors of unusual types; save it again there "
                           "in float32")
    return data.view(f"u{source.dtype.itemsize}").byteswap().view(np.uint8)


def _maker(fetch: Fetch, budget: int) -> Callable[[str, Any], np.ndarray]:
    """What makes arrays of tensors. budget: bytes that may be copied, all together.

    A strided tensor of a few bytes in the file can stand for any size (stride 0).
    """
    def one(name: str, tensor: Any) -> np.ndarray:
        nonlocal budget
        try:
            if isinstance(tensor, ArrayData):
                return tensor.array()
            found = array(tensor, fetch(tensor.storage))
        except (ValueError, TypeError) as error:
            raise RefusedError(f"{printable(name)}: {error}; the file is damaged, copy or download it again") from error
        if found.flags.c_contiguous and found.flags.aligned:
            return found
        budget -= found.nbytes
        if budget < 0:
            raise RefusedError(f"{printable(name)}: its strided tensors are far larger than the file; save them with "
                               f".contiguous()")
        return np.array(found, order="C")

    return one


def _optimizer(optimizer: dict[str, Any], one: Callable[[str, Any], np.ndarray], where: str) -> dict[str, Any]:
    """A `state_dict()` of torch.optim with arrays for its tensors. Raises DbnetError."""
    slots = optimizer["state"]
    if not isinstance(slots, dict):
        return optimizer
    try:
        made = {number: {slot: one(f"{number}.{slot}", value) if isinstance(value, (Tensor, ArrayData)) else value
                         for slot, value in kept.items()} if isinstance(kept, dict) else kept
                for number, kept in slots.items()}
    except RefusedError as error:
        raise DbnetError(f"{where}: {short(error, 400)}") from error
    except BadZipError as error:
        raise DbnetError(f"{where}: is a damaged or incomplete archive ({short(error)}); copy or download it "
                         f"again") from error
    return {**optimizer, "state": made}


def _refusal(data: memoryview) -> Callable[[str], str]:
    """What to say of a name that is not allowed in the pickle at the beginning of `data`."""
    def sentence(name: str) -> str:
        start = bytes(data[:MAX_PICKLE_BYTES])
        if name.startswith("torch.nn.modules.") or (b"_parameters" in start and b"_modules" in start):
            return (f"holds a whole model object ({printable(name)}), which is code; where its class is at hand, load "
                    f"it and save model.state_dict()")
        return (f"its pickle asks for {printable(name)}, which is no data; nothing was executed. If you trust where "
                f"it comes from, load it there and save model.state_dict()")
    return sentence


# Writing --------------------------------------------------------------------------------------------------------------


def write(stream: BinaryIO, tensors: Mapping[str, np.ndarray], record: str | None) -> None:
    """Writes a state dict that torch.load(weights_only=True) takes, also with mmap=True: one storage per tensor.

    The stream must be seekable and empty. The same tensors and record give the same bytes. Raises DbnetError for a
    type that torch has no storage for, OSError as the stream does.
    """
    for name, values in tensors.items():
        if values.dtype.name not in _NAMES:
            raise DbnetError(f"{name}: {values.dtype.name} cannot be stored in a .pth; convert it to float32 first")
    write_stored(stream, _entries(tensors, record))


def _entries(tensors: Mapping[str, np.ndarray], record: str | None) -> Iterator[tuple[str, bytes | memoryview]]:
    yield f"{_FOLDER}/data.pkl", _pickled(tensors, record)
    yield f"{_FOLDER}/.format_version", b"1"
    yield f"{_FOLDER}/byteorder", b"little"
    for key, values in enumerate(tensors.values()):
        yield f"{_FOLDER}/data/{key}", bytes_of(values)
    yield f"{_FOLDER}/version", _VERSION


def _pickled(tensors: Mapping[str, np.ndarray], record: str | None) -> bytes:
    """The state dict as a pickle of protocol 2, written by hand: `pickle` would have to import torch."""
    parts = [pickle.PROTO, b"\x02", _ORDERED_DICT, pickle.MARK]
    for key, (name, values) in enumerate(tensors.items()):
        parts += [text(name), _tensor(str(key), values)]
    parts.append(pickle.SETITEMS)
    if record is not None:
        # load_state_dict hands _metadata[path] to the module at that path and asks it for .get("version"): a dict with
        # a version serves a model that has a module named "dbnet", where a text would raise.
        entry = [pickle.EMPTY_DICT, pickle.MARK, text("version"), number(1), text("record"), text(record),
                 pickle.SETITEMS]
        parts += [pickle.EMPTY_DICT, text("_metadata"), _ORDERED_DICT, text(RECORD_KEY), *entry, pickle.SETITEM,
                  pickle.SETITEM, pickle.BUILD]
    return b"".join((*parts, pickle.STOP))


def _tensor(key: str, values: np.ndarray) -> bytes:
    """_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks)."""
    strides = [1] * values.ndim
    for axis in range(values.ndim - 1, 0, -1):
        strides[axis - 1] = strides[axis] * max(values.shape[axis], 1)
    reference = tuple_(text("storage"), global_("torch", _NAMES[values.dtype.name]), text(key), text("cpu"),
                       number(values.size))
    arguments = tuple_(reference + pickle.BINPERSID, number(0), tuple_(*map(number, values.shape)),
                       tuple_(*map(number, strides)), pickle.NEWFALSE, _ORDERED_DICT)
    return global_("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


_ORDERED_DICT = global_("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
