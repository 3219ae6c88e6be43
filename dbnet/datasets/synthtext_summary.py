"""What was repaired, left out or noticed in SynthText's labels, kept in arrays: there are millions of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from dbnet.datasets import synthtext_boxes as boxes
from dbnet.datasets.matfile_values import Matrices

#: Of an image, beside the bits of a box: its file is missing or no image (left out), boxes and words differ in number,
#: no word is left, and its name came before.
MISSING, UNREADABLE, COUNT, NO_WORDS, TWICE = 128, 129, 130, 131, 132
#: What may have happened to a box, each by itself.
BITS = tuple(1 << bit for bit in range(7))
#: Code -> (kind, what is said of it).
KINDS = {
    boxes.REORDERED: ("reordered", "corners put in order clockwise"),
    boxes.TURNED: ("turned", "begins at another corner"),
    boxes.CLIPPED: ("clipped", "clipped to the image"),
    boxes.INVALID: ("invalid", "dropped: no polygon, its corners have no area or no numbers"),
    boxes.OUTSIDE: ("outside", "dropped: outside of the image"),
    boxes.FLAT: ("flat", "dropped: nothing of it is left inside the image"),
    boxes.WHOLE: ("whole", "dropped: the whole image"),
    COUNT: ("count", "{} boxes and {} words; what has no partner is dropped"),
    NO_WORDS: ("no words", "none of its words is left; it stays without any"),
    MISSING: ("missing", "left out: no such image"),
    UNREADABLE: ("unreadable", "left out: no image that can be read"),
    TWICE: ("twice", "is in the labels twice"),
}


@dataclass(frozen=True)
class Fault:
    """One thing that was repaired, left out or noticed. entry, word: which one in the file, from 1; word None for the
    image itself. kind: one of the first names in `KINDS`. detail: in words."""

    image: str
    entry: int
    word: int | None
    kind: str
    detail: str

    def __str__(self) -> str:
        image = self.image if self.image.isprintable() else repr(self.image)  # a line stays a line
        return f"{image}{'' if self.word is None else f', word {self.word}'}: {self.detail}"


@dataclass(frozen=True, eq=False)
class Faults(Sequence[Fault]):
    """All faults in the file's order. entry, word, code: one number for each, from 0, word -1 for an image.

    numbers: entry -> its boxes and words, where they differ.
    """

    names: Matrices
    entry: np.ndarray
    word: np.ndarray
    code: np.ndarray
    numbers: dict[int, tuple[int, int]]

    def __len__(self) -> int:
        return len(self.entry)

    @overload
    def __getitem__(self, index: int) -> Fault: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Fault]: ...

    def __getitem__(self, index: int | slice) -> Fault | Sequence[Fault]:
        if isinstance(index, slice):
            return Faults(self.names, self.entry[index], self.word[index], self.code[index], self.numbers)
        place = range(len(self))[index]
        fault, = self[place:place + 1]
        return fault

    def __iter__(self) -> Iterator[Fault]:
        last, name = -1, ""
        for entry, word, code in zip(self.entry.tolist(), self.word.tolist(), self.code.tolist(), strict=True):
            if entry != last:
                last, name = entry, self.names.rows(entry)[0]
            kind, detail = KINDS[code]
            yield Fault(name, entry + 1, None if word < 0 else word + 1, kind,
                        detail.format(*self.numbers[entry]) if kind == "count" else detail)

    def of(self, kind: str) -> Faults:
        """Those of one kind."""
        which = np.isin(self.code, [code for code, (name, _) in KINDS.items() if name == kind])
        return Faults(self.names, self.entry[which], self.word[which], self.code[which], self.numbers)

    def counts(self) -> dict[str, int]:
        """How many there are of each kind that occurs, in the order of `KINDS`."""
        found = np.bincount(self.code, minlength=256)
        return {name: int(found[code]) for code, (name, _) in KINDS.items() if found[code]}


@dataclass(frozen=True, eq=False)
class Summary:
    """What a conversion, or a check, found.

    images, words: in the labels; kept_images, kept_words: in the result. counts: of `faults` by kind. sha256: of the
    file that was written, or would be. notes: what holds for the whole set, in words.
    """

    labels: Path
    images: int
    kept_images: int
    words: int
    kept_words: int
    faults: Faults
    sha256: str
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        return self.faults.counts()
