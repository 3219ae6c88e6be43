"""Every data set as it was published, or as a prepared label file: found, read, and put beside its images."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dbnet.datasets import icdar2015
from dbnet.datasets.archive import natural_order
from dbnet.datasets.label_set import LabelSet, read_label_set
from dbnet.datasets.layouts import LAYOUTS, find_place
from dbnet.datasets.pairing import Paired, common_folder, pair, without_images
from dbnet.datasets.prepared import load_prepared
from dbnet.errors import DbnetError
from dbnet.sample import Sample

#: What can be read with its images. `prepared`: a label file (MindOCR's, PaddleOCR's).
DATASETS = (*LAYOUTS, "prepared")
#: Other names of the data sets; MindOCR's first.
ALIASES = {"ic15": "icdar2015", "icdar15": "icdar2015", "msratd500": "td500", "husttr400": "td500", "tr400": "td500",
           "tdtr": "td500", "ctw": "ctw1500", "scutctw1500": "ctw1500", "mlt17": "mlt2017", "mlt2019": "mlt2017",
           "mlt19": "mlt2017", "mlt": "mlt2017", "icdar2017mlt": "mlt2017", "labelfile": "prepared",
           "mindocr": "prepared", "paddle": "prepared", "paddleocr": "prepared", "own": "prepared"}


def dataset_name(text: str, names: Sequence[str] = DATASETS) -> str:
    """The data set that is meant: `ic15`, `Total-Text`, `MSRA_TD500`, ... Raises DbnetError with the nearest name."""
    bare = re.sub(r"[\s_.-]", "", text.lower())
    name = ALIASES.get(bare, bare)
    if name in names:
        return name
    near = difflib.get_close_matches(bare, [*names, *ALIASES], 1)
    hint = f", did you mean {ALIASES.get(near[0], near[0])}" if near else ""
    raise DbnetError(f"unknown data set {text!r}{hint}? There are {', '.join(names)}")


def load(dataset: str, root: Path | None = None, images: Path | None = None, labels: Path | None = None,
         split: str = "test") -> list[Sample]:
    """The labelled images of a data set, as they are labelled, in natural order (a prepared file: in its own).

    root: the folder it was unpacked into, in any layout of `layouts.LAYOUTS`; images, labels: where they lie instead.
    split: test, train or validation; MLT 2017's test labels are not public, and its validation part stands for them.
    The images that exist count, labels of others are left alone. Raises DbnetError if something is not where it should
    be, an image has no label, or a label cannot be read.
    """
    dataset = dataset_name(dataset)
    if root is not None and dataset != "prepared":
        if dataset == "icdar2015" and images is None and labels is None and _is_part(root, split):
            return icdar2015.load(root)
        place = find_place(dataset, root, split)
        image_folders = [images] if images is not None else place.images
        sources = [labels] if labels is not None else place.labels
    else:
        if labels is None:
            raise DbnetError(f"{dataset}: where its labels lie is not said; give them, or the folder of the data set")
        image_folders = [folder for folder in (images or root,) if folder is not None]
        sources = [labels]
    if not image_folders:
        raise DbnetError(f"{sources[0]}: the images are nowhere beside it; say where they lie")
    if dataset == "prepared":
        return load_prepared(sources[0], image_folders[0])
    return _strict(paired(dataset, image_folders, sources))


def _is_part(root: Path, split: str) -> bool:
    """Whether `root` is one part of ICDAR 2015 rather than the folder above it."""
    return (root / "images").is_dir() and not (root / split).is_dir()


def paired(dataset: str | None, images: Sequence[Path], labels: Sequence[Path]) -> Paired:
    """Labels with their images; without any `images` the labels alone. dataset: None if the labels shall tell.

    As many sources of labels as folders of images belong together one by one (MSRA-TD500 with HUST-TR400); else all
    labels are looked for in all folders. Raises DbnetError.
    """
    form = "labelfile" if dataset == "prepared" else dataset
    sets = [read_label_set(source, form) for source in labels]
    if len({found.dataset for found in sets}) > 1:
        raise DbnetError(f"{labels[0]} and {labels[1]} are of different data sets: "
                         f"{', '.join(sorted({found.dataset for found in sets}))}; take one at a time")
    if images and len(sets) == len(images):
        base = common_folder(images)
        parts = [pair(found, [folder], base) for found, folder in zip(sets, images, strict=True)]
    elif images:
        parts = [pair(_merged(sets), images)]
    else:
        parts = [without_images(found) for found in sets]
    result = parts[0]
    for part in parts[1:]:
        result = replace(result, entries=result.entries + part.entries, repairs=result.repairs + part.repairs)
    twice = next((name for name, count in Counter(entry.name for entry in result.entries).items() if count > 1), None)
    if twice is not None:
        raise DbnetError(f"{', '.join(map(str, labels))}: {twice} is labelled twice; keep the labels that count")
    return replace(result, entries=sorted(result.entries, key=lambda entry: natural_order(entry.name)))


def _merged(sets: Sequence[LabelSet]) -> LabelSet:
    first = sets[0]
    seen: dict[Path, LabelSet] = {}
    for found in sets:
        for sample in found.samples:
            if sample.image in seen:
                raise DbnetError(f"{seen[sample.image].source} and {found.source} both hold labels of {sample.image}; "
                                 f"give as many --images as --labels, in the same order")
            seen[sample.image] = found
    return replace(first, samples=[sample for found in sets for sample in found.samples],
                   by_path=any(found.by_path for found in sets),
                   names={key: name for found in sets for key, name in found.names.items()},
                   repairs=[repair for found in sets for repair in found.repairs])


def _strict(found: Paired) -> list[Sample]:
    """The samples for scoring, of which nothing may be left out unseen. Raises DbnetError."""
    for kind in ("unreadable label", "no label"):
        faults = [repair for repair in found.repairs if repair.kind == kind]
        if faults:
            more = f" ({len(faults)} of these)" if len(faults) > 1 else ""
            raise DbnetError(f"{faults[0].detail}{more}" if kind == "unreadable label" else
                             f"{faults[0].image}: image without a label, {faults[0].detail}{more}; add it, or take the "
                             f"image away")
    samples = [replace(entry.sample, image=entry.image) for entry in found.entries if entry.image is not None]
    gifs = [sample.image for sample in samples if sample.image.suffix.lower() == ".gif"]
    if gifs:
        raise DbnetError(f"{gifs[0]}: one of {len(gifs)} gif images, which OpenCV does not read; dbnet data convert "
                         f"{found.dataset} ... --out-images DIR converts them")
    return samples
