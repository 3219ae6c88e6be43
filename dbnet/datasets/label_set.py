"""Labels of one data set as they were published, spoilt lines left out and listed instead of ending it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dbnet.datasets import labelfile, totaltext
from dbnet.datasets.archive import base_name, decode, image_stem, lines_of, read_files, zips_inside
from dbnet.datasets.labels import FORMATS, PARSERS, SUFFIXES, by_lines, label_files, told_dataset, where_of
from dbnet.datasets.repair import Repair
from dbnet.datasets.totaltext_mat import parse_mat
from dbnet.errors import DbnetError
from dbnet.sample import Sample

Parser = Callable[[str, str, Path], Sample]
#: Their lines are those of quadrilaterals and polygons, but for a script or #### before the text.
UNMISTAKABLE = ("mlt2017", "ctw1500")
#: Share of lines that may be spoilt; beyond it these are other labels than was said.
MOST_SPOILT = 0.5


@dataclass(frozen=True)
class LabelSet:
    """Labels without their images.

    dataset: one of `labels.FORMATS`. samples: `Sample.image` is the image's stem, or its path where `by_path`, in the
    order in which they were found. names: the images' file names, as far as their label files tell (IMG_0030.JPG).
    """

    source: Path
    dataset: str
    samples: list[Sample]
    by_path: bool = False
    names: dict[str, str] = field(default_factory=dict)
    repairs: list[Repair] = field(default_factory=list)


def read_label_set(path: Path, dataset: str | None = None) -> LabelSet:
    """The labels in a folder, a zip or a label file, which may be told by itself whatever `dataset` says.

    Raises DbnetError if nothing can be read, `dataset` is not given and cannot be told, or more lines are spoilt than
    not.
    """
    raw = _read(path, dataset)
    if len(raw) == 1 and labelfile.is_label_file(text := decode(next(iter(raw.values())))):
        return _from_label_file(path, text, dataset)
    is_lone = path.is_file() and path.name in raw and dataset in (None, "labelfile")
    if is_lone and not decode(raw[path.name]).strip("\ufeff \t\r\n"):
        return LabelSet(path, "labelfile", [], by_path=True)
    if dataset == "labelfile":
        raise DbnetError(f"{path}: no label file, whose lines are {labelfile.LINE}")
    return _from_files(path, raw, dataset)


def _read(path: Path, dataset: str | None) -> dict[str, bytes]:
    # A label file may be called anything: Label.txt, but also train.list.
    lone = (path.suffix.lower(),) if path.is_file() and path.suffix.lower() != ".zip" else ()
    raw = read_files(path, (*SUFFIXES, *lone))
    if not raw and dataset in (None, "totaltext"):
        raw = read_files(path, (".mat",))
    if not raw:
        raise DbnetError(f"{path}: no labels ({', '.join(SUFFIXES)} files) in it{zips_inside(path)}")
    return raw


# Label files ----------------------------------------------------------------------------------------------------------


def _from_label_file(path: Path, text: str, dataset: str | None) -> LabelSet:
    samples: dict[str, Sample] = {}
    repairs: list[Repair] = []
    lines = 0
    for where, line in lines_of(text, str(path)):
        lines += 1
        try:
            name, (entries, *_) = labelfile.row_of(line, where)
        except DbnetError as error:
            repairs.append(Repair(base_name(line.partition("\t")[0])[:80], None, "unreadable label", str(error)))
            continue
        name = labelfile.posix_path(name)
        if name in samples:
            raise DbnetError(f"{where}: {name[:80]} comes twice; keep the line that counts")
        labels = []
        for index, entry in enumerate(entries):
            try:
                labels.append(labelfile.label_of(_padded(entry), where))
            except DbnetError as error:
                repairs.append(Repair(name, index, "unreadable label", str(error)))
        samples[name] = labelfile.sample_of(Path(name), labels)
    _check_spoilt(sum(repair.index is None for repair in repairs), lines, repairs)
    return LabelSet(path, dataset or "labelfile", list(samples.values()), by_path=True, repairs=repairs)


def _padded(entry: object) -> object:
    """One or two points as three: a text that encloses nothing is dropped with the others of its kind, not spoilt."""
    if isinstance(entry, dict) and isinstance(points := entry.get("points"), list) and 0 < len(points) < 3:
        return {**entry, "points": points + points[-1:] * (3 - len(points))}
    return entry


# A file for each image ------------------------------------------------------------------------------------------------


def _from_files(path: Path, raw: dict[str, bytes], dataset: str | None) -> LabelSet:
    if dataset is not None and dataset not in FORMATS:
        raise DbnetError(f"unknown data set {dataset!r}; choose from {', '.join(PARSERS)}")
    files = label_files(path, raw)
    samples, repairs, lines, spoilt = [], [], 0, 0
    is_mat = all(name.lower().endswith(".mat") for name in raw)
    texts = {} if is_mat else {name: decode(raw[name]) for name in files.values()}
    dataset = "totaltext" if is_mat else _checked(path, texts, dataset)
    for stem, name in files.items():
        where, image = where_of(path, name), Path(stem)
        sample, faults, count = (_parse_mat(raw[name], where, image) if is_mat else
                                 parse_leniently(PARSERS[dataset], texts[name], where, image))
        lines, spoilt = lines + count, spoilt + len(faults)
        repairs += [Repair(stem, None, "unreadable label", fault) for fault in faults]
        samples += [] if sample is None else [sample]
    _check_spoilt(spoilt, lines, repairs)
    names = {stem: told for stem, name in files.items() if (told := Path(name).stem) != image_stem(told)}
    return LabelSet(path, dataset, samples, names=names, repairs=repairs)


def _checked(path: Path, texts: dict[str, str], dataset: str | None) -> str:
    """The data set, told or confirmed where another could be read as it, with its marks for a part of the texts."""
    if dataset is None:
        return told_dataset(path, texts, "name the data set:")
    for told in UNMISTAKABLE:
        if dataset != told and by_lines(texts.values()) == {told}:
            raise DbnetError(f"{path}: its lines are those of {told}, not of {dataset}; name that one")
    return dataset


def _parse_mat(data: bytes, where: str, image: Path) -> tuple[Sample | None, list[str], int]:
    try:
        sample = parse_mat(data, where, image)
    except DbnetError as error:
        return None, [str(error)], 1
    return sample, [], len(sample.polygons)


def parse_leniently(parse: Parser, text: str, where: str, image: Path) -> tuple[Sample | None, list[str], int]:
    """The labels of one file, what is wrong with each spoilt line, and how many lines there are.

    No sample where nothing in the file can be read, as in broken XML.
    """
    try:
        sample = parse(text, where, image)
        return sample, [], len(sample.polygons)
    except DbnetError as error:
        if text.lstrip().startswith("<"):
            return None, [str(error)], 1
    found, faults = [], []
    for line_where, record in _records(text, where):
        try:
            found.append(parse(record, where, image))
        except DbnetError as error:
            faults.append(str(error).replace(f"{where}, line 1", line_where, 1))
    sample = Sample(image, [polygon for part in found for polygon in part.polygons],
                    np.array([ignore for part in found for ignore in part.ignore], bool),
                    [said for part in found for said in part.texts])
    return sample, faults, len(sample.polygons) + len(faults)


def _records(text: str, where: str) -> Iterator[tuple[str, str]]:
    """Each line with where it stands; records of Total-Text, which may span lines, in one piece."""
    pending: tuple[str, list[str]] | None = None
    spans = totaltext.START.search(text) is not None
    for line_where, line in lines_of(text, where):
        if pending is not None and spans and not totaltext.START.match(line):
            pending[1].append(line)
            continue
        if pending is not None:
            yield pending[0], "\n".join(pending[1])
        pending = line_where, [line]
    if pending is not None:
        yield pending[0], "\n".join(pending[1])


def _check_spoilt(spoilt: int, lines: int, repairs: list[Repair]) -> None:
    if spoilt > MOST_SPOILT * lines:
        rest = f" ({spoilt} of {lines} lines are spoilt; are these other labels?)" if spoilt > 1 else ""
        raise DbnetError(f"{repairs[0].detail}{rest}")
