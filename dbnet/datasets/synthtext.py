"""SynthText (Gupta et al., 2016): 858,750 drawn images in 200 folders, and one gt.mat, about half of it faulty.

`convert` is the preprocessing that the seed asks for (section 4.2.6), by the rule of MindOCR's converter
(`dbnet.datasets.synthtext_boxes`): out comes a gt_processed.mat in the same format, which MindOCR's SynthTextDataset
reads as it is. Where MindOCR's converter stops or is silent, this one goes on and tells:

- an image whose words are all dropped stays, with empty boxes and words (as in MindOCR);
- boxes and words that differ in number are matched in their order as far as they go (as in MindOCR);
- an image that is missing or cannot be read is left out, with its entry in all four variables;
- an image without words has 0 x 0 matrices; one with a single word has 2 x 4 x 1;
- boxes are doubles, as MindOCR's have become by clipping; charBB and imnames are copied byte for byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.datasets.synthtext_convert import Part, Progress, check_whole, gather_faults, put_right, write_labels
from dbnet.datasets.synthtext_labels import Labels, open_labels
from dbnet.datasets.synthtext_summary import Summary
from dbnet.datasets.synthtext_write import Output, check_target, nowhere, replacing
from dbnet.errors import DbnetError
from dbnet.sample import Sample, Samples

#: Threads unless told otherwise, at least and at most: while one waits for the disk, others compute.
LEAST_WORKERS, MOST_WORKERS = 4, 32


def convert(labels: Path, images: Path | None, out: Path, workers: int | None = None,
            progress: Progress | None = None, force: bool = False) -> Summary:
    """Writes the labels put right to `out`, a .mat file; its bytes are the same on every run and for every `workers`.

    labels: gt.mat. images: the folder that holds 1/ to 200/; without it the images' sizes are not known, so that boxes
    are clipped at 0 only, no box of a whole image is noticed and no missing image either. workers: threads; default one
    per core, at least 4. progress: called with (done, total) images. force: replace an older .mat file.

    Raises DbnetError if the labels cannot be read, none of the images is there, or `out` cannot be written; then
    nothing is changed.
    """
    check_target(out, labels, force)
    return _run(labels, images, lambda: replacing(out), workers, progress)


def check(labels: Path, images: Path | None, workers: int | None = None, progress: Progress | None = None) -> Summary:
    """What `convert` would do, and the hash of what it would write. Raises DbnetError like it."""
    return _run(labels, images, nowhere, workers, progress)


def _run(labels: Path, images: Path | None, target: Callable[[], AbstractContextManager[Output]], workers: int | None,
         progress: Progress | None) -> Summary:
    opened = _open(labels, images)
    with _threads(workers) as pool:
        copied = pool.submit(check_whole, opened.chars) if opened.chars is not None else None
        parts = put_right(opened, images, pool, progress)
        _check_some_left(opened, images, parts)
        if copied is not None:
            copied.result()
        with target() as stream:
            write_labels(stream, opened, parts, pool)
    return _summary(opened, images, parts, stream.sha256)


def load(labels: Path, images: Path) -> SynthText:
    """The samples of gt.mat or gt_processed.mat as they stand there. Raises DbnetError if the labels cannot be read.

    Nothing is repaired, and the images are not looked for: `convert` does both, once.
    """
    return SynthText(labels, images)


class SynthText(Samples):
    """Samples that are made when they are asked for: the labels stay as they lie in the file.

    An uncompressed gt.mat is not even read but mapped; of a compressed one the three variables unfold into memory (all
    of SynthText: about 0.9 GB). Another process gets the paths only, and opens the file itself.
    """

    def __init__(self, labels: Path, images: Path):
        self.labels, self.images = labels, images
        self._opened = open_labels(labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.labels, self.images)

    def __len__(self) -> int:
        return len(self._opened)

    def at(self, index: int) -> Sample:
        (name,), (words,) = self._opened.names(index, index + 1), self._opened.words(index, index + 1)
        quads = list(self._opened.quads_of(index))[:len(words)]
        return Sample(self.images / name, quads, np.zeros(len(quads), bool), words[:len(quads)])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, range(len(self)))


def _open(labels: Path, images: Path | None) -> Labels:
    opened = open_labels(labels)
    if not len(opened):
        raise DbnetError(f"{labels}: holds no images")
    if images is not None and not images.is_dir():
        raise DbnetError(f"{images}: no such folder; give the one that holds SynthText's folders 1 to 200")
    return opened


@contextmanager
def _threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool that begins nothing new once something has failed."""
    if workers is not None and workers < 1:
        raise DbnetError(f"workers must be at least 1, not {workers}")
    number = workers or min(max(len(os.sched_getaffinity(0)), LEAST_WORKERS), MOST_WORKERS)
    with ThreadPoolExecutor(number, thread_name_prefix="dbnet") as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_some_left(labels: Labels, images: Path | None, parts: Sequence[Part]) -> None:
    if images is None or any(part.kept.any() for part in parts):
        return
    name, = labels.names(0, 1)
    below = sorted(folder.name for folder in images.iterdir() if os.path.lexists(folder / name))
    where = f"it is in {images / below[0]}" if below else "give the folder that holds SynthText's folders 1 to 200"
    raise DbnetError(f"{images}: none of the {len(labels)} images of {labels.path.name} can be read there, such as "
                     f"{name}; {where}")


def _summary(labels: Labels, images: Path | None, parts: Sequence[Part], sha256: str) -> Summary:
    notes = []
    if images is None:
        notes.append("without the images their sizes are not known: boxes are clipped at 0 only, and none is dropped "
                     "for lying beyond the right or lower edge, or for being the whole image")
    if labels.chars is None:
        notes.append("the labels hold no charBB, and so does the result")
    return Summary(labels.path, len(labels), sum(int(part.kept.sum()) for part in parts), int(labels.counts.sum()),
                   sum(part.kept_words for part in parts), gather_faults(labels, parts), sha256, tuple(notes))
