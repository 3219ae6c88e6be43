"""An unpickler that builds data and nothing else, for files that anyone may have written.

A pickle is a program. Here a name in it is never imported: it is looked up in a table of functions of ours, and what
is not in the table is refused. The pure Python `pickle._Unpickler` is the base because the C one allocates what a
file announces (gigabytes for ten bytes: LONG_BINPUT 2**28, BINBYTES8 2**40) before it looks whether that is there.
"""

from __future__ import annotations

import pickle
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import Any

from converters.pickled_objects import (
    ArrayData,
    DtypeData,
    Global,
    Maker,
    Opaque,
    OrderedItems,
    RefusedError,
    printable,
    set_items,
)
from dbnet.errors import DbnetError, short

#: Calls of read() in one pickle, one to three per instruction: about 1 s on a slow machine, or 60 MiB of empty
#: containers. A training file of the largest spec with Adam's state needs below 100,000.
MAX_READS = 600_000
MAX_MARKS = 1000
MAX_LINE_BYTES = 1024
#: Arguments up to this long are free; what is longer may be copied only as often as the file itself is long.
FREE_ARGUMENT = 64

_DAMAGED = (pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError,
            OverflowError, RecursionError, MemoryError, struct.error)
#: typeshed knows no instruction of it.
_Base: Any = pickle._Unpickler


class _Source:
    """The bytes of a pickle as a file, with a limit on calls; a read past the end is an error at once."""

    def __init__(self, data: memoryview, position: int):
        self.data, self.position, self.reads = data, position, 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        end = self.position + size
        if end > len(self.data):
            raise EOFError("it ends in the middle")
        if self.reads > MAX_READS:
            raise RefusedError("its pickle has hundreds of thousands of instructions, far more than weights need; "
                               "save the state dict alone")
        piece = bytes(self.data[self.position:end])
        self.position = end
        return piece

    def readline(self) -> bytes:
        piece = bytes(self.data[self.position:self.position + MAX_LINE_BYTES])
        if b"\n" not in piece:
            raise ValueError("a name without an end")
        return self.read(piece.index(b"\n") + 1)


class _Instructions(dict[int, Any]):
    def __missing__(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"unknown instruction {code:#04x}")


class _Unpickler(_Base):
    """Protocols 2 to 5. Instructions of protocol 0 and 1, extension codes and out-of-band buffers are left out."""

    dispatch = _Instructions((code[0], _Base.dispatch[code[0]]) for code in (
        pickle.PROTO, pickle.STOP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1,
        pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES,
        pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8,
        pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST,
        pickle.EMPTY_DICT, pickle.POP, pickle.POP_MARK, pickle.DUP, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT,
        pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID))

    def __init__(self, source: _Source, allowed: Mapping[str, Maker], persistent: Callable[[Any], Any] | None,
                 refusal: Callable[[str], str]):
        super().__init__(source, encoding="latin1")  # Python 2's texts; torch's and Paddle's names are ASCII
        self.allowed, self.persistent, self.refusal = allowed, persistent, refusal
        self.budget = len(source.data)

    def find_class(self, module: str, name: str) -> Global:
        if self.proto < 3:  # Python 2's names, also in what Python 3 writes
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in self.allowed:
            raise RefusedError(self.refusal(full))
        return Global(full, self.allowed[full])

    def persistent_load(self, pid: Any) -> Any:
        if self.persistent is None:
            raise pickle.UnpicklingError("it refers to data outside the pickle")
        return self.persistent(pid)

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("it calls what is no function")
        if function.make is None:
            return Opaque(function.name)
        if arguments:  # most calls of a hostile file have none, and are the dearer for adding up nothing
            self.budget -= sum(len(a) for a in arguments if isinstance(a, (str, bytes, list, tuple, dict))
                               and len(a) > FREE_ARGUMENT)
            if self.budget < 0:
                raise ValueError("it copies the same data over and over")
        return function.make(*arguments)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self.call(function, arguments))

    def load_newobj_ex(self) -> None:
        if self.stack.pop():
            raise TypeError("it makes an object with named arguments")
        self.load_reduce()

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (Opaque, OrderedItems, DtypeData, ArrayData)):
            raise TypeError("it sets attributes of what has none")
        target.build(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.add(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self.add(self.stack[-1], items)

    def load_append(self) -> None:
        item = self.stack.pop()
        self.add(self.stack[-1], [item])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self.add(self.stack[-1], items)

    def add(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, dict):
            set_items(target, items)
        elif isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise TypeError("it adds to what is no container")

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(items)

    def load_mark(self) -> None:
        if len(self.metastack) >= MAX_MARKS:
            raise RecursionError("it nests too deeply")
        super().load_mark()

    def load_frame(self) -> None:
        self.read(8)  # a frame tells a reader how much to fetch; here all is at hand

    def load_bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_empty_set(self) -> None:
        self.append([])

    dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_reduce, pickle.NEWOBJ_EX[0]: load_newobj_ex,
                 pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems,
                 pickle.APPEND[0]: load_append, pickle.APPENDS[0]: load_appends, pickle.ADDITEMS[0]: load_appends,
                 pickle.FROZENSET[0]: load_frozenset, pickle.MARK[0]: load_mark, pickle.FRAME[0]: load_frame,
                 pickle.BYTEARRAY8[0]: load_bytearray8, pickle.EMPTY_SET[0]: load_empty_set}


def _refusal(name: str) -> str:
    return (f"its pickle asks for {printable(name)}, which is no data; nothing was executed. If you trust where it "
            f"comes from, save the weights alone there")


def load(data: memoryview, start: int, where: str, allowed: Mapping[str, Maker],
         persistent: Callable[[Any], Any] | None = None,
         refusal: Callable[[str], str] = _refusal) -> tuple[Any, int]:
    """Reads one pickle at byte `start` -> (the object, the byte after its end).

    allowed: what the names in it stand for. persistent: called with what refers to data outside the pickle.
    refusal: the sentence for a name that is not allowed. Nothing in the file is ever imported or executed.
    Raises DbnetError, naming the file `where`.
    """
    source = _Source(data, start)
    try:
        return _Unpickler(source, allowed, persistent, refusal).load(), source.position
    except RefusedError as error:
        raise DbnetError(f"{where}: {short(error, 400)}") from error
    except _DAMAGED as error:
        raise DbnetError(f"{where}: its pickle is damaged ({type(error).__name__}: {short(error, 100)}); copy or "
                         f"download it again") from error
