"""SynthText's gt.mat, opened: 858,750 images whose names, boxes and words stay where they are until asked for.

`imnames` (1, N) cell of names; `wordBB` (1, N) cell of (2, 4, W) x and y of four corners of W words, (2, 4) for a
single word; `txt` (1, N) cell of matrices of characters, whose rows hold one or more words with blanks or line ends
between them; `charBB` like `wordBB`, for characters, which detection does not use. A processed gt.mat looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from dbnet.datasets.matfile import Variable, open_variables
from dbnet.datasets.matfile_values import CELL, NUMERIC, STORED, Matrices
from dbnet.errors import DbnetError

NAMES, BOXES, WORDS, CHARS = "imnames", "wordBB", "txt", "charBB"


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N images. counts: (N,) int64, how many boxes each has. chars: charBB, where there is one."""

    path: Path
    names_variable: Variable
    chars: Variable | None
    name_cells: Matrices
    box_cells: Matrices
    word_cells: Matrices
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def order(self) -> str:
        """ "<" or ">", the byte order of the file."""
        return self.names_variable.order

    def names(self, first: int, last: int) -> list[str]:
        """Paths of the images from `first` to before `last`, below their folder. Raises DbnetError for a bad one."""
        names = []
        for i, rows in enumerate(self.name_cells.texts(first, last), start=first):
            name = rows[0] if len(rows) == 1 else ""
            if not name or name[0] == "/" or (".." in name and ".." in PurePosixPath(name).parts):
                raise DbnetError(f"{self.name_cells.entry(i)}: {name[:80]!r} is no image below a folder; give "
                                 f"SynthText's own gt.mat")
            names.append(name)
        return names

    def words(self, first: int, last: int) -> list[list[str]]:
        """The words of each image. Raises DbnetError for text that cannot be decoded."""
        return [[word for row in rows for word in row.split()] for rows in self.word_cells.texts(first, last)]

    def quads_of(self, i: int) -> np.ndarray:
        """The boxes of one image, (W, 4, 2) float64 in pixels."""
        if not self.counts[i]:
            return np.empty((0, 4, 2))
        # Column by column, (2, 4, W) lies in the file as W times four corners.
        with np.errstate(invalid="ignore"):  # some NaNs are told when they are converted
            return self.box_cells.numbers(i).transpose().reshape(-1, 4, 2).astype(np.float64)

    def quads(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The boxes of all these images, (K, 4, 2) float64 in pixels, and (K,) bool: which are float32 in the file."""
        cells, counts = self.box_cells, self.counts[first:last]
        begin = np.cumsum(counts) - counts
        quads, single = np.empty((int(counts.sum()), 4, 2)), np.zeros(int(counts.sum()), bool)
        kinds = np.where(counts > 0, cells.kind[first:last], 0)
        for kind in np.unique(kinds[kinds > 0]).tolist():
            stored = STORED[kind]
            width = int(stored[1])
            chosen = np.flatnonzero(kinds == kind)
            values = np.frombuffer(cells.buffer, cells.order + stored, len(cells.buffer) // width)
            places = _ranges(cells.data[first:last][chosen] // width, 8 * counts[chosen])
            rows = _ranges(begin[chosen], counts[chosen])
            with np.errstate(invalid="ignore"):
                quads[rows] = values[places].reshape(-1, 4, 2)
            single[rows] = stored == "f4"
        return quads, single


def open_labels(path: Path) -> Labels:
    """Opens gt.mat or gt_processed.mat. Raises DbnetError if it is no such file, cut off, or another's."""
    if path.is_dir():
        raise DbnetError(f"{path}: is a folder; give the gt.mat in it")
    variables = open_variables(path)
    missing = [name for name in (NAMES, BOXES, WORDS) if name not in variables]
    if missing:
        raise DbnetError(f"{path}: holds no {' and no '.join(missing)}, only {', '.join(variables) or 'nothing'}; give "
                         f"SynthText's own gt.mat")
    chars = variables.get(CHARS)
    used = [variables[name] for name in (NAMES, BOXES, WORDS)]
    number = int(np.prod(used[0].shape, dtype=np.float64))
    for variable in (*used, *([chars] if chars else [])):
        if variable.mclass != CELL or sorted(variable.shape)[:-1] != [1] * (len(variable.shape) - 1):
            shape = " x ".join(map(str, variable.shape))
            raise DbnetError(f"{variable.where}: is not one row of cells, but {shape} of class {variable.mclass}; give "
                             f"SynthText's own gt.mat")
        if max(variable.shape) != number:
            raise DbnetError(f"{variable.where}: has {max(variable.shape)} entries, and {NAMES} {number}; the file is "
                             f"damaged, fetch it again")
    names, boxes, words = (variable.cells() for variable in used)
    return Labels(path, variables[NAMES], chars, names, boxes, words, _box_counts(boxes))


def _box_counts(boxes: Matrices) -> np.ndarray:
    """(N,) int64. Raises DbnetError, naming the entry, for a matrix that is not 2 x 4 x W of numbers."""
    empty = (boxes.shape == 0).any(axis=1)
    deep = boxes.shape.shape[1] > 2
    wrong = (boxes.ndim > 3) | (boxes.shape[:, 0] != 2) | (boxes.shape[:, 1] != 4)
    wrong = ~empty & (wrong | (boxes.mclass < NUMERIC.start) | (boxes.mclass >= NUMERIC.stop))
    if wrong.any():
        i = int(np.argmax(wrong))
        shape = " x ".join(map(str, boxes.shape[i, :boxes.ndim[i]].tolist()))
        raise DbnetError(f"{boxes.entry(i)}: {shape} of class {boxes.mclass[i]}, where boxes are 2 x 4 x words; give "
                         f"SynthText's own gt.mat")
    return np.where(empty, 0, boxes.shape[:, 2] if deep else 1).astype(np.int64)


def _ranges(begin: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """begin[0], begin[0] + 1, ... for lengths[0] numbers, then the same for the next."""
    return np.repeat(begin - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
