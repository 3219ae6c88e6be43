"""What a restricted pickle is made of: plain containers, numbers, NumPy arrays, and placeholders for the rest.

OrderedDict becomes `OrderedItems`, sets become lists (their elements need no hash), objects that only stand beside
weights become `Opaque`. Nothing here walks nested values: a few hundred bytes of tuples of tuples can stand for 2**100
elements.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from converters.mapped_file import MAX_DIMS

#: More values than any machine has.
MAX_ELEMENTS = 1 << 47
MAX_NAME = 500

_SCALARS = (type(None), bool, int, float, str, bytes)
_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}

#: What a name in a pickle stands for: a function of ours, called with the arguments in the file. None: the name may
#: stand in the file, and calling it gives an `Opaque`.
Maker = Callable[..., Any] | None


class RefusedError(Exception):
    """The file is sound, but holds what we do not take. The message follows "<file>: "."""


class Global:
    """A name in a pickle, not the object that bears it in Python."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Maker):
        self.name, self.make = name, make


class Opaque:
    """An object that was recognised and not built: a date, a path, command line arguments."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def build(self, state: object) -> None:
        """Its content is of no use here."""


class OrderedItems(dict[Any, Any]):
    """collections.OrderedDict. state: its attributes, such as torch's `_metadata`."""

    __slots__ = ("state",)

    def __init__(self, items: Any = ()) -> None:
        super().__init__()
        self.state: dict[Any, Any] = {}
        set_items(self, [part for key, value in items for part in (key, value)])

    def build(self, state: object) -> None:
        """Keeps the attributes. Raises TypeError if there is no dict of them."""
        if not isinstance(state, dict):
            raise TypeError("the state of an OrderedDict is a dict")
        self.state = state


class DtypeData:
    """numpy.dtype, by its code ("f4")."""

    __slots__ = ("code", "order", "plain")

    def __init__(self, code: str, align: object = False, copy: object = True):
        self.code = code
        self.order: Any = "="
        self.plain = True

    def build(self, state: Any) -> None:
        """(version, byte order, subdtype, names, fields, ...)"""
        self.order, self.plain = state[1], not any(state[2:5])

    def resolve(self) -> np.dtype:
        """Raises RefusedError for what is no number: objects, texts, records, complex."""
        known = isinstance(self.code, str) and self.code in _NUMBERS and self.order in ("<", ">", "|", "=")
        if not known or not self.plain:
            raise RefusedError(f"holds a numpy array of {str(self.code)[:20]!r}, which is no tensor; leave it out "
                               f"where the file was saved")
        return np.dtype(self.code).newbyteorder("<" if self.order == "=" else self.order)


class ArrayData:
    """numpy.ndarray: built when it is asked for, since most stand in training state that nobody asks for."""

    __slots__ = ("_array", "content")

    def __init__(self, *content: Any):
        self.content = content
        self._array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """(version, shape, dtype, Fortran order, bytes)"""
        _, shape, dtype, fortran, data = state
        self.content = (data, dtype, shape, "F" if fortran else "C")

    def array(self) -> np.ndarray:
        """Read-only, native byte order, C order. Raises RefusedError for objects, ValueError for what does not fit."""
        if self._array is None:
            data, dtype, shape, order = self.content
            if not isinstance(dtype, DtypeData):
                raise TypeError("an array without a dtype")
            kind = dtype.resolve()
            if isinstance(data, str):  # Python 2's bytes
                data = data.encode("latin1")
            if not isinstance(data, bytes) or len(data) != element_count(shape) * kind.itemsize:
                raise ValueError("an array whose bytes do not fit its shape")
            flat = np.frombuffer(data, kind) if data else np.zeros(0, kind)
            array = np.ascontiguousarray(flat.astype(kind.newbyteorder("="), copy=False).reshape(shape, order=order))
            self._array = array.reshape(shape)  # ascontiguousarray makes 1-d of 0-d
            self._array.flags.writeable = False
        return self._array


def printable(text: str) -> str:
    """A name from a file, safe and short enough for a message: no control characters reach the terminal."""
    return text[:120] if text.isprintable() else ascii(text[:120])[:120]


def is_tensor_name(name: object) -> bool:
    """False for what could not be shown in one line: such a name comes from damage or malice."""
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()


def element_count(shape: Any) -> int:
    """The number of elements. Raises ValueError for a shape that no array of ours can have."""
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_DIMS:
        raise ValueError("a shape that is no short tuple")
    if any(type(size) is not int or not 0 <= size <= MAX_ELEMENTS for size in shape):
        raise ValueError("a size in a shape is out of range")
    if prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise ValueError("a shape is too large")
    return prod(shape)


def set_items(target: dict[Any, Any], items: list[Any]) -> None:
    """Adds [key, value, key, value, ...].

    Raises ValueError for a key that is there already: no program writes that, and the first value would be lost.
    """
    if len(items) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not _is_key(key):
            raise TypeError("a key that is neither a text nor a number")
        if key in target:
            raise ValueError(f"the key {printable(str(key))} is set twice")
        target[key] = value


def _is_key(key: object) -> bool:
    if type(key) is tuple:  # nested ones could take forever to hash
        return len(key) <= 8 and all(isinstance(part, _SCALARS) for part in key)
    if type(key) is int:  # longer ones could all be chosen to collide
        return -(1 << 63) <= key < 1 << 64
    return isinstance(key, (*_SCALARS, Global, Opaque))


def _scalar(dtype: DtypeData, data: Any = b"") -> Any:
    if not dtype.plain or dtype.code not in _NUMBERS:
        return Opaque("numpy scalar")
    return np.frombuffer(data if isinstance(data, bytes) else data.encode("latin1"), dtype.resolve())[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


#: Plain containers and NumPy's arrays, as any version of Python and NumPy names them.
COMMON: dict[str, Maker] = {
    "collections.OrderedDict": OrderedItems,
    "builtins.set": lambda items=(): list(items),
    "builtins.frozenset": lambda items=(): list(items),
    "_codecs.encode": _encode, "builtins.bytes": lambda: b"",  # bytes, at protocol 2
    "numpy.dtype": DtypeData,
    "numpy.ndarray": None,
    **{f"numpy.{core}.multiarray._reconstruct": lambda *arguments: ArrayData() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": ArrayData for core in ("core", "_core")},  # protocol 5
}
