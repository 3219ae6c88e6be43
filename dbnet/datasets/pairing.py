"""Which image belongs to which labels: found by name below any folders, and told where one is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbnet.datasets.archive import IMAGE_SUFFIX, image_stem, natural_order
from dbnet.datasets.label_set import LabelSet
from dbnet.datasets.repair import Repair
from dbnet.datasets.splits import OFFICIAL, counts, named_splits, official_part, other_folders
from dbnet.errors import DbnetError
from dbnet.sample import Sample

#: MSRA-TD500 in the copies of DRRG and TextBPN: gt_img_7.txt is of the seventh image.
RANK = re.compile(r"img_(\d{1,4})")
#: How a data set calls its images, where only labels are given.
SUFFIXES = {"td500": ".JPG"}
#: Share of labels without an image, or the reverse, that is left alone although the names speak of two splits.
MOST_ODD = 0.1


@dataclass(frozen=True)
class Entry:
    """One labelled image. name: its path below the folder of the images, as label files say it; image: where it lies,
    None where only labels were given.
    """

    name: str
    image: Path | None
    sample: Sample


@dataclass(frozen=True)
class Paired:
    """entries: in natural order of their names. folder: what the names are relative to."""

    dataset: str
    folder: Path | None
    entries: list[Entry]
    repairs: list[Repair] = field(default_factory=list)


def without_images(labels: LabelSet) -> Paired:
    """The labels alone, under the names that their images have in the published data set."""
    entries = [Entry(_assumed_name(labels, sample), None, sample) for sample in labels.samples]
    return Paired(labels.dataset, None, sorted(entries, key=_by_name), list(labels.repairs))


def _assumed_name(labels: LabelSet, sample: Sample) -> str:
    name = sample.image.as_posix()
    if labels.by_path:
        return name
    if labels.dataset == "ctw1500" and re.fullmatch(r"0001\d{3}", name):  # 0001001.txt of gt_ctw1500.zip
        name = name[3:]
    return labels.names.get(name, name + SUFFIXES.get(labels.dataset, ".jpg"))


def pair(labels: LabelSet, folders: Sequence[Path], base: Path | None = None) -> Paired:
    """Labels with their images, which lie anywhere below the folders; the ones without the other are listed.

    base: the folder that names are relative to; default the one that holds all `folders`. Raises DbnetError if a
    folder holds no images, none of them is labelled, an image's name is there twice, or the labels are those of
    another split.
    """
    folder = base or common_folder(folders)
    files = [file for part in folders for file in find_images(part)]
    _check_split(labels, folders, files)
    found, notes = _matched(labels, folders, files)
    if labels.samples and not found:
        raise DbnetError(_nothing_fits(labels, folders, files))
    entries, repairs = [], [*labels.repairs, *notes]
    for sample in labels.samples:
        key = sample.image.as_posix()
        if key in found:
            entries.append(Entry(name_below(folder, found[key]), found[key], sample))
        else:
            repairs.append(Repair(_assumed_name(labels, sample), None, "missing image", f"not in {_all(folders)}"))
    used = {entry.image for entry in entries}
    # Other folders below, say those of another split, are not what these labels are about.
    around = {file.parent for file in used if file is not None} or {file.parent for file in files}
    stems = {(file.parent, file.stem) for file in used if file is not None}
    repairs += [Repair(name_below(folder, file), None, "no label", f"nothing for it in {labels.source}")
                for file in files if file not in used and file.parent in around
                and (file.parent, file.stem) not in stems]
    repairs += _split_names(labels, folders, repairs)
    return Paired(labels.dataset, folder, sorted(entries, key=_by_name), repairs)


def name_below(folder: Path, image: Path) -> str:
    """The image's path below the folder, or all of it where it lies elsewhere, which label files may say."""
    whole, above = image.absolute(), folder.absolute()
    return (whole.relative_to(above) if whole.is_relative_to(above) else whole).as_posix()


def _by_name(entry: Entry) -> list[str | int]:
    return natural_order(entry.name)


def _all(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


def common_folder(folders: Sequence[Path]) -> Path:
    """The folder that holds all of them; itself, if it is one. Raises DbnetError if one is none."""
    for folder in folders:
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "no such folder"
            hint = "; unzip it first" if folder.suffix.lower() in (".zip", ".tar", ".rar", ".gz") else ""
            raise DbnetError(f"{folder}: {problem}; give a folder of images{hint}")
    if len(folders) == 1:
        return folders[0]
    return Path(os.path.commonpath([folder.absolute() for folder in folders]))


# Finding --------------------------------------------------------------------------------------------------------------


def find_images(folder: Path) -> list[Path]:
    """Every image below `folder`, img_2 before img_10. Raises DbnetError if there is none."""
    files = sorted(_walk(folder, set()), key=lambda file: natural_order(file.relative_to(folder).as_posix()))
    if not files:
        zips = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in (".zip", ".tar", ".rar"))
        hint = f"; unzip {', '.join(zips[:3])} first" if zips else ""
        raise DbnetError(f"{folder}: no images (.jpg, .png, .gif, ...) in it{hint}")
    return files


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in seen:  # a link that leads back
        return
    seen.add(real)
    try:
        inside = sorted(os.scandir(folder), key=lambda item: item.name)
    except OSError as error:
        raise DbnetError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    for item in inside:
        if item.name.startswith(".") or item.name == "__MACOSX":
            continue
        if item.is_dir():
            yield from _walk(folder / item.name, seen)
        elif IMAGE_SUFFIX.search(item.name) and item.is_file():
            yield folder / item.name


# Matching -------------------------------------------------------------------------------------------------------------


def _matched(labels: LabelSet, folders: Sequence[Path], files: Sequence[Path]) -> tuple[dict[str, Path], list[Repair]]:
    """Key of a sample -> its image, and what is to be said about how it was found."""
    keys = [sample.image.as_posix() for sample in labels.samples]
    if labels.by_path:
        direct = {key: folder / key for key in keys for folder in reversed(folders) if (folder / key).is_file()}
        stems = [image_stem(key) for key in keys]
        if direct or len(set(stems)) < len(stems):
            return direct, []
        # The folder that stands in the file was renamed, or is the one that was given.
        found = _by_stem(stems, files, lambda stem: stem)
        return {key: found[stem] for key, stem in zip(keys, stems, strict=True) if stem in found}, []
    rules: list[Callable[[str], str]] = [lambda stem: stem, str.casefold]
    if labels.dataset == "ctw1500":
        rules.append(_ctw1500_number)
    found = {}
    for rule in rules:
        found |= _by_stem([key for key in keys if key not in found], files, rule)
    if found:
        return found, []
    ranked = _by_rank(labels, keys, files)
    notes = [Repair(key, None, "by order", f"taken for {file.name}") for key, file in list(ranked.items())[:1]]
    return ranked, notes


def _ctw1500_number(stem: str) -> str:
    """1001 for 1001.jpg and 0001001.txt."""
    return stem.lstrip("0") if stem.isdecimal() else stem


def _by_stem(keys: Iterable[str], files: Iterable[Path], rule: Callable[[str], str]) -> dict[str, Path]:
    """Raises DbnetError if an image that is labelled is there twice."""
    places: dict[str, list[Path]] = {}
    for file in files:
        places.setdefault(rule(image_stem(file.name)), []).append(file)
    return {key: _only(key, places[rule(key)]) for key in keys if rule(key) in places}


def _only(key: str, files: Sequence[Path]) -> Path:
    # A gif's converted copy beside it, as MindOCR's converter of MLT2017 leaves it.
    left = [file for file in files if file.suffix.lower() != ".gif"] or files
    if len(left) > 1:
        raise DbnetError(f"{left[0]} and {left[1]}: two images of the name {key}; take one away, or give the folder of "
                         f"one part of the data set")
    return left[0]


def _by_rank(labels: LabelSet, keys: Sequence[str], files: Sequence[Path]) -> dict[str, Path]:
    ordered = sorted(files, key=lambda file: file.name)
    ranks = [RANK.fullmatch(key) for key in keys]
    if labels.dataset != "td500" or len(keys) != len(files) or any(RANK.fullmatch(file.stem) for file in files):
        return {}
    numbers = [int(match[1]) if match else 0 for match in ranks]
    if sorted(numbers) != list(range(1, len(files) + 1)):
        return {}
    return {key: ordered[number - 1] for key, number in zip(keys, numbers, strict=True)}


# Labels of another split ----------------------------------------------------------------------------------------------


def _check_split(labels: LabelSet, folders: Sequence[Path], files: Sequence[Path]) -> None:
    """Raises DbnetError if these are all labels of one split, known by their counts, and the images of another."""
    part = official_part(labels.dataset, counts(labels.samples))
    if part is None:
        return
    dataset, split = part
    folder_split = next(filter(None, (named_splits(folder, labels.source)[0] for folder in folders)), None)
    image_counts = {other: official[0] for (name, other), official in OFFICIAL.items() if name == dataset}
    by_number = next((other for other, number in image_counts.items() if number == len(files) and other != split), None)
    other = folder_split if folder_split in image_counts and folder_split != split else by_number
    if other is not None:
        raise DbnetError(f"{labels.source}: holds the labels of all {len(labels.samples)} {split} images of {dataset}, "
                         f"but {_all(folders)} its {other} images ({len(files)} here); train and test labels are "
                         f"swapped")


def _nothing_fits(labels: LabelSet, folders: Sequence[Path], files: Sequence[Path]) -> str:
    first = _assumed_name(labels, labels.samples[0])
    stems = {image_stem(sample.image.as_posix()) for sample in labels.samples}
    for folder in (other for given in folders for other in other_folders(given.absolute())):
        there = {image_stem(file.name) for file in _walk(folder, set())}
        if len(stems & there) > len(stems) / 2:
            return (f"{labels.source}: names the images of {folder} ({first}, ...), none of {_all(folders)}; train and "
                    f"test label files are swapped (as MindOCR's page does with those of MSRA-TD500)")
    return (f"{labels.source}: none of its {len(labels.samples)} images ({first}, ...) is in {_all(folders)} "
            f"({files[0].name}, ...); are these the labels of other images, train and test swapped?")


def _split_names(labels: LabelSet, folders: Sequence[Path], repairs: Sequence[Repair]) -> list[Repair]:
    """A note where labels are called after one split and their images after another; DbnetError if they do not fit."""
    for folder in folders:
        images, named = named_splits(folder, labels.source)
        if images and named and images != named:
            odd = sum(repair.kind in ("missing image", "no label") for repair in repairs)
            told = f"{labels.source} is named after the {named} part, {folder} after the {images} part"
            if odd > MOST_ODD * len(labels.samples):
                raise DbnetError(f"{told}, and {odd} of their names have no counterpart; train and test labels are "
                                 f"swapped, or a name is wrong")
            return [Repair(labels.source.name, None, "named", f"{told}; taken, for the images are there")]
    return []
