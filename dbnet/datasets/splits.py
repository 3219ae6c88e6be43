"""Training, test and validation parts of a data set: which is meant by a name, and labels of one beside images of
another.

MindOCR's page puts MSRA-TD500's train_det_gt.txt into test/, and ICDAR 2015 calls its images img_1.jpg in both parts:
a mix-up that no missing file shows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dbnet.sample import Sample

SPLITS = ("test", "train", "validation")
ALIASES = {"test": "test", "testing": "test", "train": "train", "training": "train", "val": "validation",
           "valid": "validation", "validation": "validation"}
WORD = re.compile(r"(?<![a-zA-Z])(testing|test|training|train|validation|valid|val)(?![a-zA-Z])", re.IGNORECASE)
#: Data set and split -> images, texts and readable texts of all its labels, by which they are known.
OFFICIAL = {
    ("icdar2015", "test"): (500, 5230, 2077),
    ("icdar2015", "train"): (1000, 11886, 4468),
    ("ctw1500", "test"): (500, 3068, 3068),
}


def counts(samples: list[Sample]) -> tuple[int, int, int]:
    """Images, texts and readable texts."""
    texts = sum(len(sample.texts) for sample in samples)
    return len(samples), texts, texts - sum(int(sample.ignore.sum()) for sample in samples)


def official_part(dataset: str, found: tuple[int, int, int]) -> tuple[str, str] | None:
    """The data set and split whose published counts these are; `labelfile` may hold any data set."""
    return next((part for part, official in OFFICIAL.items()
                 if official == found and dataset in (part[0], "labelfile")), None)


def named_splits(images: Path, labels: Path) -> tuple[str | None, str | None]:
    """The splits that a folder of images and the labels are named after, by the parts of their paths that differ."""
    first, second = images.absolute(), labels.absolute()
    common = Path(os.path.commonpath([first, second]))
    return _named(first.relative_to(common).parts or common.parts[-1:]), _named(second.relative_to(common).parts)


def _named(parts: tuple[str, ...]) -> str | None:
    """The split of the last part that names one; None if none does, or it names several."""
    for part in reversed(parts):
        found = {ALIASES[word.lower()] for word in WORD.findall(part)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def other_folders(folder: Path) -> Iterator[Path]:
    """Existing folders called like `folder`, but after another split: train/images for test/images."""
    seen = {folder}
    for depth, part in enumerate(reversed(folder.parts[-3:])):
        for match in WORD.finditer(part):
            for other in ALIASES:
                for word in (other, other.capitalize(), other.upper()):
                    renamed = part[:match.start()] + word + part[match.end():]
                    parts = list(folder.parts)
                    parts[len(parts) - 1 - depth] = renamed
                    candidate = Path(*parts)
                    if candidate not in seen and candidate.is_dir():
                        seen.add(candidate)
                        yield candidate
