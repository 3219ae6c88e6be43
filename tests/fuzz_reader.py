"""What a reader is to the harness."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dbnet.datasets.archive import MAX_TIMES, UNFOLDED
from tests.fuzz_bytes import Mutator
from tests.fuzz_guard import MAX_SECONDS

#: (the file, chance) -> bytes of what came of it.
Call = Callable[[Path, Random], int]
MIB = 1 << 20
#: What a mutator may raise on a file that another one has spoilt; of sound ones it must raise nothing.
_LOST = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error)


@dataclass(frozen=True)
class Reader:
    """names: what the files may be called, the first one mostly. seeds: sound files, whole: how many of them, the last
    ones, are whole networks, which come as seldom as `wholes` says. share: of the files of a run. times, floor, writes:
    as in `fuzz_guard.Limits`. unfolds: its zips may be smaller than their texts. warm: its sound files are read before
    anything is watched. seconds: for a small file. slow: its sound files take
    long to make, which only `make fuzz` does.
    """

    names: tuple[str, ...]
    seeds: Callable[[], Sequence[bytes]]
    mutators: tuple[Mutator, ...]
    call: Call
    share: float = 4
    whole: int = 0
    wholes: float = 0.02
    times: float = 1.5
    floor: int = 32 * MIB
    writes: bool = False
    unfolds: bool = False
    warm: bool = True
    seconds: float = MAX_SECONDS
    slow: bool = False

    def counted(self, size: int) -> int:
        """Bytes that count for the memory of a file: of a zip of texts, what it may unfold to."""
        return max(UNFOLDED, MAX_TIMES * size) if self.unfolds else size

    def case(self, chance: Random) -> tuple[str, bytes]:
        """Name and bytes of one spoilt file."""
        seeds = self.seeds()
        few = seeds[:len(seeds) - self.whole]
        data = chance.choice(seeds[len(few):] if self.whole and chance.random() < self.wholes else few)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            with suppress(*_LOST):
                data = chance.choice(self.mutators)(chance, data, few)
        return self.names[0] if chance.random() < 0.97 else chance.choice(self.names), data
