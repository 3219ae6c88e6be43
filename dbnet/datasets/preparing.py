"""From paired labels and images to a prepared label file: every image looked at, every label mended, all of it listed.

Images are checked in threads (OpenCV and Pillow decode without holding up the others). What comes out does not depend
on how many there are.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from dbnet.datasets.image_facts import DAMAGE, ImageFacts, first_frame, inspect_image
from dbnet.datasets.pairing import Entry, Paired
from dbnet.datasets.prepared import digest, line_of
from dbnet.datasets.repair import Repair, fits, mend_labels
from dbnet.datasets.splits import counts, official_part
from dbnet.errors import DbnetError
from dbnet.preprocess import read_image
from dbnet.sample import Sample

MAX_WORKERS = 8
#: Data set of label files that name none.
OWN = "labelfile"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """One image. entry: as it was read. sample: its mended labels, None if the image is left out. kept: which of the
    entry's texts they are. as_stored: whether they are in the image's pixels as stored, in spite of an orientation.
    """

    entry: Entry
    name: str
    sample: Sample | None
    kept: list[int] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    as_stored: bool = False


@dataclass(frozen=True, eq=False)
class Preparation:
    """The whole set. outcomes: in natural order of the names. repairs: of all, those of the pairing first."""

    dataset: str
    outcomes: list[Outcome]
    repairs: list[Repair]

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the prepared label file."""
        return [line_of(outcome.name, outcome.sample) for outcome in self.outcomes if outcome.sample is not None]

    @cached_property
    def sha256(self) -> str:
        """`prepared.digest` of the lines."""
        return digest(self.lines)

    @property
    def read(self) -> tuple[int, int, int]:
        """Images, texts and readable texts that have labels and, where images were given, an image."""
        return counts([outcome.entry.sample for outcome in self.outcomes])

    @property
    def written(self) -> tuple[int, int, int]:
        """Images, texts and readable texts that were kept."""
        return counts([outcome.sample for outcome in self.outcomes if outcome.sample is not None])

    @property
    def official(self) -> str | None:
        """The data set and split whose published counts were read, if they are those of one."""
        part = official_part(self.dataset, self.read)
        return None if part is None else f"{part[0]} {part[1]}"

    @property
    def complete(self) -> bool:
        """Whether nothing had to be left out."""
        return all(repair.effect != "left out" for repair in self.repairs)


def prepare(paired: Paired, workers: int | None = None, progress: Progress | None = None,
            copies: Path | None = None, link: bool = True) -> Preparation:
    """Checks every image and mends every label.

    copies: an existing folder that gets every image: those that OpenCV and EXIF make no trouble with as hard links (the
    same file under another name; copies where that cannot be, or without `link`), the others as PNG. The names then lie
    below it. Raises DbnetError if `workers` is below 1 or a copy cannot
    be written.
    """
    if workers is not None and workers < 1:
        raise DbnetError(f"workers must be at least 1, not {workers}")
    if copies is not None:
        _check_copies(paired.entries)
    outcomes: list[Outcome] = []
    spoilt = frozenset(repair.image for repair in paired.repairs if repair.kind == "unreadable label")
    work = partial(_prepared, copies=copies, link=link, spoilt=spoilt, own=paired.dataset == OWN)
    with ThreadPoolExecutor(workers or min(cores(), MAX_WORKERS)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about files that are told of here
        try:
            for outcome in pool.map(work, paired.entries):
                outcomes.append(outcome)
                if progress is not None:
                    progress(len(outcomes), len(paired.entries))
        except BaseException:  # Ctrl-C too must not wait for the other images
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    repairs = [*paired.repairs, *(repair for outcome in outcomes for repair in outcome.repairs)]
    return Preparation(paired.dataset, outcomes, repairs)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepared(entry: Entry, copies: Path | None, link: bool, spoilt: frozenset[str], own: bool) -> Outcome:
    """One image and its labels; runs in a thread. spoilt: images of which labels could not be read."""
    if fault := _name_fault(entry.name):
        return Outcome(entry, entry.name, None, [], [Repair(ascii(entry.name), None, "file name", fault)])
    name, size, sample, repairs, as_stored = entry.name, None, entry.sample, [], False
    if entry.image is not None:
        facts = inspect_image(entry.image)
        repairs += [Repair(name, None, kind, detail) for kind, detail in facts.notes]
        if facts.damage is not None:
            return Outcome(entry, name, None, [], [*repairs, Repair(name, None, "damaged image", facts.damage)])
        as_stored, told = _frame(facts, entry.sample, own)
        size = facts.size if as_stored else facts.shown_size
        repairs += [Repair(name, None, "EXIF", told)] if told else []
    mended, kept, steps = mend_labels(entry.name, sample, size)
    if not mended.texts and sample.image.as_posix() in spoilt:
        nothing = Repair(name, None, "unreadable label", "none of its labels is left; the image would count as empty")
        return Outcome(entry, name, None, [], [*repairs, *steps, nothing])
    if entry.image is not None:
        if copies is not None:
            name, step = _copied(entry.image, name, copies, facts, as_stored, link)
            repairs += [Repair(entry.name, None, "converted", step)] if step else []
        elif not facts.opencv:
            return Outcome(entry, name, None, [], [*repairs, Repair(name, None, "not for OpenCV", "see --out-images")])
    if not sample.texts:
        repairs.append(Repair(name, None, "no text", "its label file is empty, or its list of labels"))
    return Outcome(entry, name, replace(mended, image=entry.image or Path(name)), kept, repairs + steps, as_stored)


def _name_fault(name: str) -> str | None:
    """Why a label file cannot hold a name; None if it can."""
    if any(c in name for c in "\t\n\r") or name != name.strip():
        return "holds a tab, a line end, or blanks at an end; rename it"
    return "is no UTF-8; rename it" if any("\ud800" <= c <= "\udfff" for c in name) else None


def safe_name(name: str) -> str:
    """A name that stays below the folder it is put into, whatever a label file says."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("/", ".."))


def _frame(facts: ImageFacts, sample: Sample, own: bool) -> tuple[bool, str | None]:
    """Whether the labels are in the image's pixels as stored in spite of an orientation, and what is to be told of it.

    The data sets' authors mostly measured pixels as they are stored, and MindOCR's recipes for them ignore the
    orientation. Who labels images of his `own` sees them turned, as viewers and OpenCV show them. The labels themselves
    tell where only one of the two can be.
    """
    if facts.orientation == 1:
        return False, None
    stored, shown = (fits(sample.polygons, size) for size in (facts.size, facts.shown_size))
    as_stored = stored if stored != shown else not own
    which = "only as it is stored" if stored and not shown else "only as it is shown" if shown and not stored else (
        "both ways" if stored else "neither way")
    which += "" if stored != shown else f", taken as it is {'stored' if as_stored else 'shown'}"
    (height, width), (shown_height, shown_width) = facts.size, facts.shown_size
    return as_stored, (f"orientation {facts.orientation}: stored as {width} x {height}, shown as {shown_width} x "
                       f"{shown_height}; its labels fit {which}")


# Copies ---------------------------------------------------------------------------------------------------------------


def _check_copies(entries: Sequence[Entry]) -> None:
    """Raises DbnetError if two copies would have one name; a gif becomes a png."""
    seen: dict[str, str] = {}
    for entry in entries:
        stem = PurePosixPath(safe_name(entry.name)).with_suffix("").as_posix()
        if stem in seen:
            raise DbnetError(f"{entry.name} and {seen[stem]} would have one name as copies; rename one of them")
        seen[stem] = entry.name


def _copied(image: Path, name: str, copies: Path, facts: ImageFacts, as_stored: bool,
            link: bool) -> tuple[str, str | None]:
    """Puts the image into `copies`; its name there, and what was done to it if it is no plain copy."""
    name = safe_name(name)
    if facts.opencv and facts.orientation == 1:
        _place(image, copies / name, link)
        return name, None
    name = PurePosixPath(name).with_suffix(".png").as_posix()
    if facts.opencv:
        pixels = read_image(image, ignore_orientation=as_stored)
        done = f"{name}, {'as stored' if as_stored else 'turned'}, without an orientation"
    else:
        try:
            pixels, done = first_frame(image), f"{name}, the first frame"
        except DAMAGE as error:
            raise DbnetError(f"{image}: cannot be converted ({error}); take it away") from error
    _write_png(copies / name, pixels)
    return name, done


def _place(source: Path, target: Path, link: bool) -> None:
    """The same file under another name; a copy without `link`, or where the file system has no such links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.unlink(missing_ok=True)
        if not (link and _linked(source, target)):
            shutil.copyfile(source, target)
    except OSError as error:
        raise DbnetError(f"{target}: could not be written ({error.strerror}); choose another --out-images") from error


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True


def _write_png(target: Path, pixels: np.ndarray) -> None:
    done, data = cv2.imencode(".png", pixels)
    temporary = target.with_suffix(".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data.tobytes() if done else b"")
        temporary.replace(target)
    except OSError as error:
        raise DbnetError(f"{target}: could not be written ({error.strerror}); choose another --out-images") from error
