"""Labels of one data set as they were published, spoilt lines left out and listed instead of ending it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dbnet.datasets import labelfile, totaltext
from dbnet.datasets.archive import MAX_TOTAL, base_name, decode, image_stem, lines_of, read_files, zips_inside
from dbnet.datasets.labels import (
    FORMATS,
    PARSERS,
    SUFFIXES,
    by_lines,
    label_files,
    speaks_against,
    told_dataset,
    where_of,
)
from dbnet.datasets.repair import Repair
from dbnet.datasets.totaltext_mat import parse_mat
from dbnet.errors import DbnetError
from dbnet.sample import Sample

Parser = Callable[[str, str, Path], Sample]
#: The labels, None where there are none to be had; what is wrong with each spoilt line; how many lines there are.
Parsed = tuple[Sample | None, list[str], int]
#: Share of lines, and of files, that may be spoilt; beyond it these are other labels than was said.
MOST_SPOILT = 0.5
#: Share of lines that may be in another data set's form, or end otherwise than in MhLiao/DB's marks of MSRA-TD500.
MOST_OTHER = 0.1
TD500_MARKS = ("", "0", "1", "###")
CHOICES = (*PARSERS, "prepared")


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
    if all(name.lower().endswith(".mat") for name in raw):
        return _from_mat(path, raw)
    texts = {name: decode(data) for name, data in raw.items()}
    if len(texts) == 1 and (dataset == "labelfile" or labelfile.is_label_file(next(iter(texts.values())))):
        return _from_label_file(path, next(iter(texts.values())), dataset)
    is_lone = path.is_file() and path.name in texts and dataset is None
    if is_lone and not texts[path.name].strip("\ufeff \t\r\n"):
        return LabelSet(path, "labelfile", [], by_path=True)
    if dataset == "labelfile":
        raise DbnetError(f"{path}: no label file, whose lines are {labelfile.LINE}; give one file")
    # A label file may have been written into the folder; it is no label of one image.
    texts = {name: text for name, text in texts.items() if not labelfile.is_label_file(text)}
    if not texts:
        raise DbnetError(f"{path}: holds several label files ({', '.join(sorted(raw)[:3])}); give one of them")
    return _from_files(path, texts, dataset)


def _read(path: Path, dataset: str | None) -> dict[str, bytes]:
    # A label file may be called anything: Label.txt, but also train.list.
    suffix = path.suffix.lower()
    if suffix == ".mat" and path.is_file():
        if dataset not in (None, "totaltext"):
            raise DbnetError(f"{path}: a MATLAB file, which Total-Text and SynthText have; name one of those")
        if path.stat().st_size > MAX_TOTAL:
            raise DbnetError(f"{path}: is too large for Total-Text's labels of an image; if it is SynthText's gt.mat, "
                             f"say so: dbnet data check synthtext --images DIR --labels {path}")
    lone = (suffix,) if path.is_file() and suffix != ".zip" else ()
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
    if fault := _zeros(text, str(path)):
        raise DbnetError(fault)
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
        labels: list[tuple[str, np.ndarray]] = []
        for index, entry in enumerate(entries):
            try:
                said, polygon = labelfile.label_of(_padded(entry), where)
            except DbnetError as error:
                repairs.append(Repair(name, index, "unreadable label", str(error)))
                continue
            if entry.get("difficult") is True and said not in labelfile.DO_NOT_CARE:
                repairs.append(Repair(name, len(labels), "difficult", f"{said[:40]!r}"))
                said = labelfile.DO_NOT_CARE[0]
            labels.append((said, polygon))
        samples[name] = labelfile.sample_of(Path(name), labels)
    _check_spoilt([(sum(repair.index is None for repair in repairs), lines)], repairs)
    return LabelSet(path, dataset or "labelfile", list(samples.values()), by_path=True, repairs=repairs)


def _padded(entry: object) -> object:
    """One or two points as three: a text that encloses nothing is dropped with the others of its kind, not spoilt."""
    if isinstance(entry, dict) and isinstance(points := entry.get("points"), list) and 0 < len(points) < 3:
        return {**entry, "points": points + points[-1:] * (3 - len(points))}
    return entry


# A file for each image ------------------------------------------------------------------------------------------------


def _from_mat(path: Path, raw: dict[str, bytes]) -> LabelSet:
    def parse(name: str, where: str, image: Path) -> Parsed:
        return _parse_mat(raw[name], where, image)

    return _gathered(path, "totaltext", label_files(path, raw), parse)


def _from_files(path: Path, texts: dict[str, str], dataset: str | None) -> LabelSet:
    if dataset is not None and dataset not in FORMATS:
        raise DbnetError(f"unknown data set {dataset!r}; choose from {', '.join(PARSERS)}")
    files = label_files(path, texts)
    zeros = {name: fault for name in files.values() if (fault := _zeros(texts[name], where_of(path, name)))}
    readable = {name: texts[name] for name in files.values() if name not in zeros}
    if not readable:
        raise DbnetError(next(iter(zeros.values())))
    dataset = _checked(path, readable, dataset)
    parser = PARSERS[dataset]

    def parse(name: str, where: str, image: Path) -> Parsed:
        return (None, [zeros[name]], 1) if name in zeros else parse_leniently(parser, texts[name], where, image)

    return _gathered(path, dataset, files, parse)


def _zeros(text: str, where: str) -> str | None:
    """What is wrong with text that was decoded as what it is not."""
    if "\0" not in text:
        return None
    line = text[:text.index("\0")].count("\n") + 1
    return f"{where}, line {line}: holds bytes of 0; is it UTF-16? Save it as UTF-8"


def _gathered(path: Path, dataset: str, files: dict[str, str],
              parse: Callable[[str, str, Path], Parsed]) -> LabelSet:
    """The labels of all files (stem of the image -> name)."""
    samples, repairs, counts = [], [], []
    for stem, name in files.items():
        sample, faults, lines = parse(name, where_of(path, name), Path(stem))
        counts.append((len(faults), lines))
        repairs += [Repair(stem, None, "unreadable label", fault) for fault in faults]
        samples += [] if sample is None else [sample]
    _check_spoilt(counts, repairs)
    names = {stem: told for stem, name in files.items() if (told := Path(name).stem) != image_stem(told)}
    return LabelSet(path, dataset, samples, names=names, repairs=repairs)


def _checked(path: Path, texts: dict[str, str], dataset: str | None) -> str:
    """The data set, told, or confirmed: many lines can be read as those of another, with points as transcriptions."""
    if dataset is None:
        return told_dataset(path, texts, "name the data set:", CHOICES)
    fitting = by_lines(texts.values())
    if fitting is None or (dataset == "mlt2017" and "icdar2015" in fitting):  # the parser tells a script that is none
        return dataset
    try:
        told = {told_dataset(path, texts)}
    except DbnetError:  # several would do
        told = fitting
    # A folder of one's own may have any names, so that they alone speak against little.
    by_name = dataset == "totaltext" or (dataset == "td500" and _has_transcriptions(texts))
    if (dataset not in told and by_name if dataset in fitting else
            speaks_against(dataset, texts.values()) > MOST_OTHER):
        others = " or ".join(sorted(told - {dataset} or fitting))
        raise DbnetError(f"{path}: its lines are those of {others}, not of {dataset}; name that one")
    return dataset


def _has_transcriptions(texts: dict[str, str]) -> bool:
    """Whether lines of four corners end in more than MSRA-TD500's marks, and no name is one of MhLiao/DB's copies."""
    if all(image_stem(stem) != stem for stem in (Path(name).stem for name in texts)):
        return False
    ends = [line.split(",", 8)[8:] for text in texts.values() for _, line in lines_of(text, "")]
    return sum(bool(end) and end[0].strip() not in TD500_MARKS for end in ends) > MOST_OTHER * len(ends)


def _parse_mat(data: bytes, where: str, image: Path) -> Parsed:
    try:
        sample = parse_mat(data, where, image)
    except DbnetError as error:
        return None, [str(error)], 1
    return sample, [], len(sample.polygons)


def parse_leniently(parse: Parser, text: str, where: str, image: Path) -> Parsed:
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


def _check_spoilt(counts: list[tuple[int, int]], repairs: list[Repair]) -> None:
    """Raises DbnetError if most lines are spoilt, in most files. counts: of spoilt and of all lines, for each file."""
    spoilt, lines = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    files = sum(bad > MOST_SPOILT * every for bad, every in counts)
    if spoilt > MOST_SPOILT * lines and files > MOST_SPOILT * len(counts):
        rest = f" ({spoilt} of {lines} lines are spoilt; are these other labels?)" if spoilt > 1 else ""
        raise DbnetError(f"{repairs[0].detail}{rest}")
