"""Anybody's result files: what a detector found, image by image, as data sets and projects write it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dbnet.datasets import labelfile
from dbnet.datasets.archive import image_stem, natural_order, read_texts, shown_name, zips_inside
from dbnet.datasets.labels import FORMATS, where_of
from dbnet.errors import DbnetError
from dbnet.sample import Detection, Sample
from evaluation.result_json import read_json, read_label_file
from evaluation.result_lines import parse_lines

SUFFIXES = (".txt", ".json", ".jsonl")
#: What may stand before an image's name in the name of its result file.
PREFIX = re.compile(r"^(res_|pred_|det_|poly_)+", re.IGNORECASE)
LABELS = re.compile(r"^(poly_)?gt_|\.gt$")

#: Result files by their names without prefix and suffix, told apart by data sets; the case counts.
NAMES = (
    ("totaltext", re.compile(r"img\d+")),
    ("ctw1500", re.compile(r"\d+")),
    ("td500", re.compile(r"IMG_\d+")),
    ("icdar2015", re.compile(r"(ts_|tr_)?img_\d+")),
)


#: Formats of the Robust Reading Competition, whose script is strict.
OFFICIAL = ("icdar2015", "mlt2017")


@dataclass(frozen=True, eq=False)
class Results:
    """format: whose form the files have, one of `FORMATS` or "dbnet". detections: by the image's name without suffix
    (`img_12` for res_img_12.txt). notes: what a user must know about them, one line each.
    """

    format: str
    detections: dict[str, list[Detection]]
    notes: list[str] = field(default_factory=list)


def read_results(path: str | Path, dataset: str | None = None) -> Results:
    """The detections in a folder, a zip (folders in it are ignored), or one file for all images.

    dataset: one of `FORMATS`, whose form files with a line for each detection have; best that of the labels. Without
    it their names tell. Files for all images (`--json` and `--save` of dbnet evaluate, MindOCR's and PaddleOCR's label
    files) are told by themselves. Raises DbnetError if files cannot be read or told, a line has another form (naming
    it), or two files are for one image.
    """
    path = Path(path)
    if dataset is not None and dataset not in FORMATS:
        raise DbnetError(f"unknown format {dataset!r}; choose from {', '.join(FORMATS)}")
    texts = read_texts(path, SUFFIXES)
    # Settings and reports lie beside the results of many detectors.
    texts = {name: text for name, text in texts.items() if name.lower().endswith(".txt")} or texts
    if not texts:
        raise DbnetError(f"{path}: no results (.txt files) in it" + _labels_hint(path))
    name, text = next(iter(texts.items()))
    where = where_of(path, name)
    if len(texts) == 1 and not name.lower().endswith(".txt"):
        form, detections = "dbnet", read_json(text, where)
    elif len(texts) == 1 and labelfile.is_label_file(text):
        form, detections = "labelfile", read_label_file(text, where)
    else:
        form, detections = _read_files(path, texts, dataset)
    return Results(form, detections, _notes(detections) + (_official(detections) if form in OFFICIAL else []))


def _labels_hint(path: Path) -> str:
    return "; its .gt files are labels" if path.is_dir() and any(path.glob("*.gt")) else zips_inside(path)


def _read_files(path: Path, texts: Mapping[str, str], dataset: str | None) -> tuple[str, dict[str, list[Detection]]]:
    files: dict[str, str] = {}
    for name in sorted(texts, key=natural_order):
        if LABELS.search(name) or not name.lower().endswith(".txt"):
            raise DbnetError(f"{path}: {shown_name(name)} is no result file; they are called res_img_N.txt, or as "
                             f"their image with .txt; gt_ begins the name of labels: are --gt and --results the other "
                             f"way round?")
        stem = PREFIX.sub("", image_stem(Path(name).stem))
        if stem in files:
            raise DbnetError(f"{path}: {shown_name(files[stem])} and {shown_name(name)} are both results of "
                             f"{shown_name(stem)}; keep the one that counts")
        files[stem] = name
    dataset = dataset or _told(path, files)
    return dataset, {stem: parse_lines(texts[name], where_of(path, name), dataset) for stem, name in files.items()}


def _told(path: Path, files: Mapping[str, str]) -> str:
    """The data set whose images are called like all of `files` (stem -> file name)."""
    for dataset, pattern in NAMES:
        if all(map(pattern.fullmatch, files)):
            return dataset
    if all(name.startswith("res_") for name in files.values()):  # the competition's way to call them
        return "icdar2015"
    raise DbnetError(f"{path}: cannot tell whose results these are ({shown_name(min(files.values()))}); say --format "
                     f"{'|'.join(dataset for dataset, _ in NAMES)}")


def _notes(detections: Mapping[str, list[Detection]]) -> list[str]:
    scores = [detection.score for found in detections.values() for detection in found]
    if not scores or 0 <= min(scores) <= max(scores) <= 1:
        return []
    return [f"scores run from {min(scores):g} to {max(scores):g}: no fractions, so thresholds on them mean little"]


def _official(detections: Mapping[str, list[Detection]]) -> list[str]:
    """What the competition's script would have refused the files for, and is scored here all the same."""
    polygons = [detection.polygon for found in detections.values() for detection in found]
    quads = np.array(polygons, np.float64).reshape(-1, 4, 2)
    following = np.roll(quads, -1, axis=1)
    # The sum over edges of (x2 - x1) (y2 + y1), which the script wants to be 0 or less.
    turned = int((((following - quads)[..., 0] * (following + quads)[..., 1]).sum(axis=1) > 0).sum())
    broken = int((quads != np.trunc(quads)).any(axis=(1, 2)).sum())
    told = [f"{count} {what}" for count, what in ((turned, "run anticlockwise"), (broken, "have fractions of pixels"))
            if count]
    return [f"of {len(polygons)} quadrilaterals {' and '.join(told)}: the competition's script refuses such files"
            ] if told else []


def by_sample(results: Results, samples: Sequence[Sample], partial: bool = False) -> list[list[Detection]]:
    """The detections of each sample's image; an image without results has none, as in the official scripts.

    Names match as they are, or but for zeros before a number (1001.txt and 0001001.txt). partial: the samples are some
    of the images that the results are for; the others are left alone. Raises DbnetError if two results are for one
    image, if none is for any of the images, and if one is for another image, unless `partial`.
    """
    exact = {image_stem(sample.name): i for i, sample in enumerate(samples)}
    if len(exact) != len(samples):
        name = Counter(image_stem(sample.name) for sample in samples).most_common(1)[0][0]
        raise DbnetError(f"two images are called {name}, and results are kept by name; rename one of them")
    counts = Counter(map(_without_zeros, exact))
    loose = {key: i for stem, i in exact.items() if counts[key := _without_zeros(stem)] == 1}
    found: dict[int, str] = {}
    unknown = []
    for stem in results.detections:
        i = exact.get(stem, loose.get(_without_zeros(stem)))
        if i is None:
            unknown.append(stem)
        elif i in found:
            raise DbnetError(f"results called {found[i]} and {stem} are both for {samples[i].name}; keep one of them")
        else:
            found[i] = stem
    if samples and unknown and not (partial and found):
        raise DbnetError(_unknown(unknown, len(results.detections), samples))
    return [results.detections[found[i]] if i in found else [] for i in range(len(samples))]


def _unknown(unknown: Sequence[str], count: int, samples: Sequence[Sample]) -> str:
    if len(unknown) == count:
        return (f"no result is for {samples[0].name} or another of the {len(samples)} images; the first result is for "
                f"{unknown[0]}: these are results of other images")
    return (f"{len(unknown)} of {count} results are for images without labels, the first for {unknown[0]}; take them "
            f"away, or add the labels")


def _without_zeros(stem: str) -> str:
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", stem)

