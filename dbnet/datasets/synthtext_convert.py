"""SynthText's labels put right, a few thousand images at a time in several threads.

What takes long (the images' beginnings, geometry on arrays, compression) lets go of Python's lock, so threads suffice;
boxes and words are packed and folded in the thread that made them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from dbnet.datasets import synthtext_boxes as boxes
from dbnet.datasets import synthtext_summary as codes
from dbnet.datasets.matfile import Variable
from dbnet.datasets.matfile_values import NUMERIC
from dbnet.datasets.synthtext_labels import BOXES, CHARS, NAMES, WORDS, Labels
from dbnet.datasets.synthtext_sizes import FOUND, MISSING, read_sizes
from dbnet.datasets.synthtext_summary import Faults
from dbnet.datasets.synthtext_write import Folded, Output, fold, pack_boxes, pack_words, write_cells, write_header
from dbnet.errors import DbnetError

#: Images that a thread works on at a time. The pieces of the file's streams depend on it, and on nothing else.
AT_ONCE = 2048
#: Largest coordinate where the size of an image is not known, in pixels.
NO_LIMIT = 1e6

Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class Part:
    """What became of the images from `first` on. kept: (N,) bool, which of them stay. kept_words: how many words do.

    boxes, words: the packed matrices of those images. entry, word, code, numbers: as in `Faults`.
    hashes: (N,) int64, of the images' names.
    """

    first: int
    kept: np.ndarray
    kept_words: int
    boxes: Folded
    words: Folded
    entry: np.ndarray
    word: np.ndarray
    code: np.ndarray
    numbers: dict[int, tuple[int, int]]
    hashes: np.ndarray


def put_right(labels: Labels, images: Path | None, pool: ThreadPoolExecutor,
              progress: Progress | None) -> list[Part]:
    """The parts of the whole set in order, the same for any number of threads. Raises DbnetError."""
    parts = []
    for part in pool.map(lambda first: _part(labels, images, first), range(0, len(labels), AT_ONCE)):
        parts.append(part)
        if progress is not None:
            progress(part.first + len(part.kept), len(labels))
    return parts


def _part(labels: Labels, images: Path | None, first: int) -> Part:
    last = min(first + AT_ONCE, len(labels))
    names, words = labels.names(first, last), labels.words(first, last)
    if images is None:
        limits, states = np.full((last - first, 2), NO_LIMIT), np.full(last - first, FOUND)
    else:
        sizes, states = read_sizes(str(images), names)
        limits = sizes - 1.0
    kept = states == FOUND
    # Boxes and words belong together in their order. What has no partner goes, and what has no image.
    counts, texts = labels.counts[first:last], np.array([len(row) for row in words], np.int64)
    owner = np.repeat(np.arange(last - first), counts)
    index = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    used = (index < texts[owner]) & kept[owner]
    owner, index = owner[used], index[used]
    quads, single = labels.quads(first, last)
    quads, what = boxes.repair(quads[used], single[used], limits[owner])
    stays = what & boxes.DROPPED == 0
    left = np.bincount(owner[stays], minlength=last - first)

    packed = (fold(pack_boxes(quads[stays], left[kept].tolist(), labels.order)),
              fold(pack_words(_kept_words(words, kept, owner, stays), labels.order)))
    uneven = np.flatnonzero(kept & (counts != texts))
    found = [(np.flatnonzero(states == MISSING), -1, codes.MISSING),
             (np.flatnonzero(~kept & (states != MISSING)), -1, codes.UNREADABLE),
             (uneven, -1, codes.COUNT), (np.flatnonzero(kept & (left == 0)), -1, codes.NO_WORDS)]
    for bit in codes.BITS:
        which = np.flatnonzero(what & bit)
        found.append((owner[which], index[which], bit))
    entry, word, code = _in_order([np.broadcast_arrays(*columns) for columns in found])
    numbers = {first + i: (int(counts[i]), int(texts[i])) for i in uneven.tolist()}
    hashes = np.array([hash(name) for name in names], np.int64)
    return Part(first, kept, int(stays.sum()), *packed, first + entry, word, code, numbers, hashes)


def _kept_words(words: Sequence[Sequence[str]], kept: np.ndarray, owner: np.ndarray,
                stays: np.ndarray) -> list[list[str]]:
    """The words whose boxes stay, of the images that do."""
    ends = np.cumsum(np.bincount(owner, minlength=len(words))).tolist()
    flags, result, begin = stays.tolist(), [], 0
    for row, is_kept, end in zip(words, kept.tolist(), ends, strict=True):
        if is_kept:
            result.append(list(compress(row, flags[begin:end])))
        begin = end
    return result


def _in_order(found: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries, words and codes together, sorted."""
    entry, word, code = (np.concatenate([np.ravel(columns[i]) for columns in found]).astype(kind)
                         for i, kind in enumerate((np.int32, np.int32, np.uint8)))
    order = np.lexsort((code, word, entry))
    return entry[order], word[order], code[order]


def gather_faults(labels: Labels, parts: Sequence[Part]) -> Faults:
    """The faults of all parts, and images that come twice."""
    found: list[Sequence[np.ndarray]] = [(part.entry, part.word, part.code) for part in parts]
    again = _again(labels, np.concatenate([part.hashes for part in parts]))
    found.append(np.broadcast_arrays(np.array(again, np.int32), -1, codes.TWICE))
    numbers = {entry: both for part in parts for entry, both in part.numbers.items()}
    return Faults(labels.name_cells, *_in_order(found), numbers)


def _again(labels: Labels, hashes: np.ndarray) -> list[int]:
    """The entries whose name stood in an earlier one."""
    order = np.argsort(hashes, kind="stable")
    same = np.zeros(len(order) + 1, bool)
    same[1:-1] = hashes[order][1:] == hashes[order][:-1]
    seen: set[str] = set()
    again = []
    for entry in sorted(order[same[:-1] | same[1:]].tolist()):
        name, = labels.names(entry, entry + 1)
        if name in seen:
            again.append(entry)
        seen.add(name)
    return again


# Writing --------------------------------------------------------------------------------------------------------------


def write_labels(stream: Output, labels: Labels, parts: Sequence[Part], pool: ThreadPoolExecutor) -> None:
    """The file: charBB and names as they are, boxes and words as they have become. Raises DbnetError."""
    order = labels.order
    count = sum(int(part.kept.sum()) for part in parts)
    write_header(stream, order)
    if labels.chars is not None:
        _copy(stream, CHARS, labels.chars, count, parts, pool)
    write_cells(stream, BOXES, count, [part.boxes for part in parts], order)
    _copy(stream, NAMES, labels.names_variable, count, parts, pool)
    write_cells(stream, WORDS, count, [part.words for part in parts], order)


def _copy(stream: Output, name: str, variable: Variable, count: int, parts: Sequence[Part],
          pool: ThreadPoolExecutor) -> None:
    """A variable byte by byte, compressed or not, as it came; without the images that were left out, if there are."""
    if variable.shape == (1, count):
        stream.write(variable.raw)
        return
    cells = variable.cells()

    def kept(part: Part) -> Folded:
        return fold(b"".join(bytes(cells.raw(i, i + 1)) for i in (part.first + np.flatnonzero(part.kept)).tolist()))

    write_cells(stream, name, count, list(pool.map(kept, parts)), variable.order)


def check_whole(variable: Variable) -> None:
    """Raises DbnetError if a variable of boxes that is copied is damaged."""
    if variable.compressed:
        deque(variable.pieces(), maxlen=0)  # unfolds it, and keeps nothing
        return
    cells = variable.cells()  # without a checksum of its own
    for i in np.flatnonzero((cells.mclass < NUMERIC.start) | (cells.mclass >= NUMERIC.stop))[:1].tolist():
        raise DbnetError(f"{cells.entry(i)}: is no matrix of numbers (class {cells.mclass[i]}); fetch the file again")
