"""Pickles spoilt instruction by instruction, in .pdparams, in both formats of .pth and wherever else one lies."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Sequence
from random import Random

from tests.fuzz_bytes import NUMBERS, Mutator, remembered

#: What would run a program, or load one.
CALLS = ("posix\nsystem", "nt\nsystem", "os\nsystem", "builtins\neval", "builtins\nexec", "__builtin__\neval",
         "builtins\n__import__", "builtins\ngetattr", "builtins\nopen", "io\nopen", "subprocess\nPopen",
         "importlib\nimport_module", "webbrowser\nopen", "ctypes\nCDLL", "numpy\nload", "numpy\nfromfile",
         "numpy.core.multiarray\nfromfile", "zlib\ndecompress", "torch\nload", "torch.serialization\nload",
         "torch.hub\nload", "functools\npartial", "operator\nattrgetter", "collections\nOrderedDict.fromkeys",
         "pickle\nloads", "types\nFunctionType", "shutil\nrmtree", "os\nremove", "runpy\nrun_path", "a.b.c\nd")
#: What stands in sound files: calls with arguments of the wrong kind.
KNOWN = ("collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_tensor_v3",
         "torch._utils\n_rebuild_parameter", "torch._tensor\n_rebuild_from_type_v2", "torch\nFloatStorage",
         "torch\nSize", "torch\ndevice", "numpy\ndtype", "numpy\nndarray", "numpy.core.multiarray\n_reconstruct",
         "numpy.core.multiarray\nscalar", "numpy._core.numeric\n_frombuffer", "_codecs\nencode", "builtins\nset",
         "builtins\nbytes", "builtins\ntuple", "datetime\ndatetime", "pathlib\nPosixPath", "argparse\nNamespace")


def text(value: str) -> bytes:
    """The instruction that pushes a text."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """The instruction that pushes an integer of any size."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def program(chance: Random) -> bytes:
    """Instructions that push one thing, mostly: a call, a giant, a bomb, a claim, or nonsense."""
    value = chance.choice(NUMBERS)
    signed = number(chance.choice((value, -value)))
    call = f"c{chance.choice((*CALLS, *CALLS, *KNOWN))}\n".encode()
    argument = chance.choice((text("touch executed"), text("/etc/passwd"), b"]", b"}", b"N", signed, b"C\x03abc"))
    return chance.choice((
        call, call + b"(" + argument + b"tR", call + argument + b"\x85R", call + b")R" + argument + b"b",
        call + b")\x81" + argument + b"b", call + b")}\x92", argument + b"b", argument + b"Q",
        text("os") + text("system") + b"\x93" + argument + b"\x85R",
        signed, b"K\xff", b"h\x00", b"q" + bytes([chance.randrange(256)]), b"j" + struct.pack("<I", value % 2**32),
        b"r" + struct.pack("<I", value % 2**32), bytes([chance.choice(b"\x94012(teuasRb")]),
        b"\x8e" + struct.pack("<Q", value % 2**64), b"\x8d" + struct.pack("<Q", value % 2**64),
        b"\x96" + struct.pack("<Q", value % 2**64), b"\x95" + struct.pack("<Q", value % 2**64),
        b"B" + struct.pack("<I", value % 2**32), b"X" + struct.pack("<I", value % 2**32),
        b"\x8b" + struct.pack("<I", value % 2**32), b"T" + struct.pack("<I", value % 2**32),
        b"(" * chance.choice((3, 999, 5000)), b")" + b"2\x86" * chance.choice((9, 200)),
        b"]" * chance.choice((9, 3000)),
        b"\x80" + bytes([chance.randrange(256)]), b"\x97", b"\x98", b"\x82\x01", b"I01\n", b"Vabc\n", b"P1\n",
        b"G" + struct.pack(">d", chance.choice((0.0, float("nan"), float("inf"), 1e300))),
        text(chance.choice(("", "a" * 600, "\x1b[31m", "a\nb", "\udc80", "state_dict", "__class__", "dbnet"))),
        b"(" + signed * chance.choice((1, 4, 40)) + b"t", bytes([chance.randrange(256)])))


def _sizes() -> dict[int, int]:
    """Instruction -> how many bytes follow it; below 0, one of pickletools' marks for what says so itself."""
    return {ord(code.code): 0 if code.arg is None else code.arg.n for code in pickletools.opcodes}


_SIZES = _sizes()
#: pickletools' marks -> the length's own length.
_LENGTHS = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4,
            pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
#: GLOBAL and INST have two lines.
_TWO_LINES = b"ci"


@remembered
def instructions(data: bytes) -> tuple[tuple[int, int, int], ...]:
    """(code, begin, end) of every instruction of the pickles that follow on each other from the beginning."""
    found: list[tuple[int, int, int]] = []
    at = 0
    while at < len(data) and (found or data[0] == 0x80):
        code, begin = data[at], at
        if code not in _SIZES or (found and found[-1][0] == ord(".") and code != 0x80):
            break
        size, at = _SIZES[code], at + 1
        if size == pickletools.UP_TO_NEWLINE:
            for _ in range(1 + (code in _TWO_LINES)):
                at = data.find(b"\n", at) + 1 or len(data) + 1
        elif size < 0:
            width = _LENGTHS[size]
            at += width + int.from_bytes(data[at:at + width], "little")
        else:
            at += size
        if at > len(data):
            break
        found.append((code, begin, at))
    return tuple(found)


def in_pickle(change: Mutator) -> Mutator:
    """A mutator of the instructions; it damages files blindly where there are none."""
    def mutate(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        return change(chance, data, others) if len(instructions(data)) > 1 else data[:-1]
    mutate.__name__ = change.__name__
    return mutate


@in_pickle
def inserted(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A program between two instructions."""
    _, begin, _ = chance.choice(instructions(data))
    return data[:begin] + program(chance) + data[begin:]


@in_pickle
def replaced(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A program in place of an instruction."""
    _, begin, end = chance.choice(instructions(data))
    return data[:begin] + program(chance) + data[end:]


@in_pickle
def moved(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """An instruction left out, twice, in another's place, or from another file."""
    here = instructions(data)
    (_, a, b), (_, c, d) = sorted(chance.choices(here, k=2), key=lambda part: part[1])
    other = chance.choice(others)
    strange = instructions(other)
    first = chance.randrange(len(strange)) if strange else 0
    piece = other[strange[first][1]:strange[min(first + chance.choice((1, 2, 5, 40)), len(strange)) - 1][2]] \
        if strange else b"N"
    if b > c:
        c = d = b
    return chance.choice((data[:a] + data[b:], data[:b] + data[a:b] + data[b:], data[:a] + piece + data[b:],
                          data[:a] + piece + data[a:], data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:],
                          data[:a] + data[a:d] * 2 + data[d:]))


@in_pickle
def argued(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """An instruction with another argument: an integer, or a text."""
    here = [part for part in instructions(data) if data[part[1]:part[1] + 1] in (b"K", b"M", b"J", b"\x8a", b"X",
                                                                                b"\x8c", b"C", b"U", b"h", b"j")]
    if not here:
        return data[:-1]
    code, begin, end = chance.choice(here)
    value = chance.choice(NUMBERS)
    new = number(chance.choice((value, -value, data[begin + 1] + 1, data[begin + 1] - 1)))
    if bytes([code]) in b"X\x8cU":
        said = data[begin + 2:end].decode("latin-1")
        new = text(chance.choice(("", said + "x", said[:-1], "\x1b[0m" + said, said * 50, "../../1", "0", "1", "<f4",
                                  "O8", "O", "V8", "S8", "U9", "M8", "f16", "c8", "=", ">", "|", "i4,f4")))
    elif bytes([code]) in b"hj":
        new = b"j" + struct.pack("<I", chance.choice((0, 1, 2, 5, 9, 60, value)) % 2**32)
    elif code == 0x43 and chance.random() < 0.5:
        new = b"C" + bytes([chance.randrange(256)]) + data[begin + 2:end]
    return data[:begin] + new + data[end:]


PICKLE: tuple[Mutator, ...] = (inserted, inserted, replaced, moved, argued, argued)
