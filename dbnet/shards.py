"""`--shard I/N`: one of N parts of a list of images, so that several machines share the work.

Parts are runs of neighbours, whose sizes differ by one at most: put one after the other they are the whole list in its
order, whatever the images are. An image is in one part, and in which depends on nothing but its place and the length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from dbnet.errors import DbnetError, shown

T = TypeVar("T")

#: More parts than any cluster has machines.
MAX_PARTS = 1_000_000
_FORM = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)


class ShardError(DbnetError):
    """A text that names no part of anything: a slip of whoever typed it."""


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1 to `count`. Raises ShardError for anything else."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_PARTS:
            raise ShardError(f"{self}: from 1 to {MAX_PARTS} parts, not {self.count}; write I/N, such as 2/5")
        if not 1 <= self.index <= self.count:
            raise ShardError(f"{self}: the parts are 1/{self.count} to {self.count}/{self.count}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def places(self, length: int) -> range:
        """Which of `length` items are in this part, never none.

        Raises DbnetError for more parts than items, whichever part this is: all machines are told, and no part of a
        merge is empty.
        """
        if self.count > length:
            items = "1 image" if length == 1 else f"{length} images"
            raise DbnetError(f"--shard {self}: there are {items} for {self.count} parts; take at most {length}")
        return range((self.index - 1) * length // self.count, self.index * length // self.count)

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """This part's items, in their order. Raises DbnetError as `places` does."""
        places = self.places(len(items))
        return items[places.start:places.stop]


def parse_shard(text: str) -> Shard:
    """`2/5` -> the second of five. Raises ShardError."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ShardError(f"{shown(text)} is no part: write I/N, such as 2/5 for the second of five")
    return Shard(int(match[1]), int(match[2]))


def whole_of(parts: Sequence[tuple[str, Shard]], length: int) -> list[int]:
    """The order in which parts, (name in errors, part), are `length` images. They need not be of one count: 1/2, 3/4
    and 4/4 are a whole. Raises DbnetError unless every image is in one part and no other.
    """
    order = sorted(range(len(parts)), key=lambda i: (parts[i][1].places(length).start, parts[i][1].places(length).stop))
    place, before = 0, order[0] if order else 0
    for i in order:
        name, shard = parts[i]
        places = shard.places(length)
        if places.start < place:
            other, earlier = parts[before]
            what = (f"are both the part {shard}" if earlier.places(length) == places else
                    f"hold the same images ({earlier} and {shard})")
            raise DbnetError(f"{other} and {name} {what}; give every part once")
        if places.start > place:
            raise _missing(place, places.start, length, shard.count)
        place, before = places.stop, i
    if place < length:
        raise _missing(place, length, length, parts[order[-1]][1].count if parts else 1)
    return order


def _missing(first: int, stop: int, length: int, count: int) -> DbnetError:
    """Says what has to be run, if that is parts of `count`."""
    bounds = {i * length // count: i for i in range(count + 1)}
    run = ""
    if first in bounds and stop in bounds:
        absent = [str(Shard(i + 1, count)) for i in range(bounds[first], bounds[stop])]
        run = f" (--shard {', '.join(absent[:5])}{f' and {len(absent) - 5} more' if len(absent) > 5 else ''})"
    images = f"image {stop} of {length} is" if stop == first + 1 else f"images {first + 1} to {stop} of {length} are"
    return DbnetError(f"{images} in no part{run}; run what is missing, and give all parts")
