"""Prepared label files: a line `path<TAB>[{"transcription", "points"}]` for each image, whose folder is given apart.

What MindOCR's and PaddleOCR's recipes read (`label_file` and `data_dir`), and what `dbnet data convert` writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dbnet.datasets import labelfile
from dbnet.datasets.archive import base_name, natural_order, read_texts
from dbnet.datasets.repair import DECIMALS
from dbnet.errors import DbnetError
from dbnet.sample import Sample


def read_prepared(label_file: str | Path) -> list[Sample]:
    """The images of a label file in its own order; `Sample.image` is the path that stands in the file.

    Raises DbnetError if it cannot be read, is no label file, or names an image twice.
    """
    label_file = Path(label_file)
    if label_file.is_dir():
        raise DbnetError(f"{label_file}: is a folder; give the label file in it, with lines {labelfile.LINE}")
    texts = read_texts(label_file, (label_file.suffix.lower(),))
    samples = labelfile.read_label_file(next(iter(texts.values())), str(label_file), by_path=True)
    return [replace(sample, image=Path(sample.image)) for sample in samples]


def load_prepared(label_file: str | Path, images: str | Path) -> list[Sample]:
    """The images of a prepared label file in its own order, `Sample.image` below the folder `images`.

    An empty file is an empty list. Raises DbnetError if the label file cannot be read or names an image twice, or if
    images are missing, naming the first.
    """
    folder = Path(images)
    samples = read_prepared(label_file)
    if not folder.is_dir():
        raise DbnetError(f"{folder}: is no folder; give the one with the images of {label_file}")
    samples = [replace(sample, image=folder / sample.image) for sample in samples]
    missing = [sample.image for sample in samples if not sample.image.is_file()]
    if missing:
        raise DbnetError(f"{label_file}: {len(missing)} of its {len(samples)} images are missing: "
                         f"{', '.join(map(str, missing[:3]))}{', ...' if len(missing) > 3 else ''}")
    return samples


# Writing --------------------------------------------------------------------------------------------------------------


def line_of(name: str, sample: Sample) -> str:
    """The line of one image, without its end. Whole pixels are written as such, others with at most two decimals."""
    labels = [{"transcription": text, "points": [[_number(x), _number(y)] for x, y in polygon.tolist()]}
              for text, polygon in zip(sample.texts, sample.polygons, strict=True)]
    return f"{name}\t{json.dumps(labels, ensure_ascii=False)}"


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else round(value, DECIMALS)


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of a label file's content, hexadecimal: of its lines, each without the folders of its image, in natural
    order.

    So it tells labels apart by names, polygons and transcriptions, wherever the images lie and however the lines are
    ordered. For images in one folder, in the order that is written here, it is what `sha256sum` prints.
    """
    bare = [base_name(name) + tab + labels for name, tab, labels in (line.partition("\t") for line in lines)]
    total = hashlib.sha256()
    for line in sorted(bare, key=lambda line: (natural_order(line.partition("\t")[0]), line)):
        total.update(line.encode() + b"\n")
    return total.hexdigest()
