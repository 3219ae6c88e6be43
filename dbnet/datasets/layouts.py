"""Where each data set's images and labels lie below the folder that it was unpacked into.

The trees of MindOCR's page, of the releases themselves, and of the copies that MhLiao/DB and PaddleOCR hand around.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from dbnet.datasets.splits import ALIASES, SPLITS
from dbnet.errors import DbnetError

#: Data set -> split -> patterns of image folders, patterns of labels; the first that exists counts, in any case of
#: letters. Image folders that fit one pattern (the parts of MLT 2017) count together.
LAYOUTS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "icdar2015": {
        "test": (("test/images", "ch4_test_images", "test_images", "images"),
                 ("test/gt", "test/gt.zip", "test/*gt*.zip", "challenge4_test_task[14]_gt",
                  "challenge4_test_task[14]_gt.zip", "ch4_test_localization_transcription_gt",
                  "ch4_test_localization_transcription_gt.zip", "test_gts", "test/test_det_gt.txt", "test_det_gt.txt",
                  "test_icdar2015_label.txt", "gt", "gt.zip", "*gt*.zip")),
        "train": (("train/images", "ch4_training_images", "icdar_c4_train_imgs", "train_images"),
                  ("train/gt", "train/gt.zip", "train/*gt*.zip", "ch4_training_localization_transcription_gt",
                   "ch4_training_localization_transcription_gt.zip", "train_gts", "train/train_det_gt.txt",
                   "train_det_gt.txt", "train_icdar2015_label.txt")),
    },
    "td500": {
        "test": (("test", "msra-td500/test", "td500/test_images", "test_images"),
                 ("test", "msra-td500/test", "td500/test_gts", "test_gts")),
        # HUST-TR400 is added to the training part, as the seed and the paper train.
        "train": (("train", "msra-td500/train", "td500/train_images", "train_images"),
                  ("train", "msra-td500/train", "td500/train_gts", "train_gts")),
    },
    "ctw1500": {
        "test": (("test_images", "test/text_image"),
                 ("gt_ctw1500", "gt_ctw_1500", "gt_ctw1500.zip", "gt_ctw_1500.zip", "gt.zip", "gt", "test_labels",
                  "ctw1500_test_labels", "test/text_label_circum", "test/text_label_curve", "test_gts",
                  "test_det_gt.txt")),
        "train": (("train_images", "train/text_image"),
                  ("ctw1500_train_labels", "ctw1500_train_labels.zip", "train_labels", "train_labels.zip",
                   "train/text_label_curve", "train/text_label_circum", "train_gts", "train_det_gt.txt")),
    },
    "totaltext": {
        "test": (("images/test", "test_images"),
                 ("gt/test", "gt_test", "test", "groundtruth/text/test", "txt_format/test", "groundtruth/polygon/test",
                  "test_gts", "gt", "gt.zip", "groundtruth/text/*legacy*.zip", "txt_format.zip", "test_det_gt.txt")),
        "train": (("images/train", "train_images"),
                  ("gt/train", "gt_train", "train", "groundtruth/text/train", "txt_format/train",
                   "groundtruth/polygon/train", "train_gts", "txt_format.zip", "train_det_gt.txt")),
    },
    "mlt2017": {
        "train": (("train", "train_images", "ch8_training_images_*", "ch8_training_images"),
                  ("ch8_training_localization_transcription_gt_v2", "ch8_training_localization_transcription_gt_v2.zip",
                   "train_gt", "train_gts", "train_det_gt.txt")),
        "validation": (("validation", "ch8_validation_images", "validation_images", "val"),
                       ("ch8_validation_localization_transcription_gt_v2",
                        "ch8_validation_localization_transcription_gt_v2.zip", "validation_gt", "val_gt",
                        "validation_det_gt.txt")),
    },
}
#: Further images and labels that belong to a split, the first pair that exists: HUST-TR400, beside MSRA-TD500.
ADDED = {("td500", "train"): (("tr400/train_images", "tr400/train_gts"), ("hust-tr400/tr400", "hust-tr400/tr400"),
                              ("hust-tr400", "hust-tr400"), ("tr400", "tr400"))}
#: What a split is called where a data set has no such part: MLT 2017 is scored on its validation images.
INSTEAD = {("mlt2017", "test"): "validation"}


@dataclass(frozen=True)
class Place:
    """Where one split lies. images: empty where there are labels only."""

    split: str
    images: list[Path]
    labels: list[Path]


def find_place(dataset: str, root: Path, split: str) -> Place:
    """The images and labels of a split of a data set below `root`. Raises DbnetError if there are no labels."""
    split = ALIASES.get(split.lower(), split)
    if not root.is_dir():
        raise DbnetError(f"{root}: is no folder; give the one that {dataset} was unpacked into")
    if dataset not in LAYOUTS:
        raise DbnetError(f"{dataset}: has no layout of its own; give --images and --labels")
    split = INSTEAD.get((dataset, split), split)
    if split not in LAYOUTS[dataset]:
        raise DbnetError(f"{dataset} has no {split} part; choose from {', '.join(LAYOUTS[dataset])}")
    image_patterns, label_patterns = LAYOUTS[dataset][split]
    images, labels = _first(root, image_patterns), _first(root, label_patterns)[:1]
    if not labels and dataset == "td500" and any(path.suffix.lower() == ".gt" for path in root.iterdir()):
        labels = [root]
    if not labels:
        raise DbnetError(f"{root}: no labels of the {split} part of {dataset} in it ({', '.join(label_patterns[:3])}, "
                         f"...); give them with --labels, and the images with --images")
    if dataset == "td500" and labels[0] == root:
        images = [root]
    for image_pattern, label_pattern in ADDED.get((dataset, split), ()):
        more_images, more_labels = _first(root, (image_pattern,))[:1], _first(root, (label_pattern,))[:1]
        if more_images and more_labels:
            return Place(split, images + more_images, labels + more_labels)
    return Place(split, images, labels)


def splits_of(dataset: str) -> tuple[str, ...]:
    """The splits that a data set's layout knows."""
    return tuple(split for split in SPLITS if split in LAYOUTS.get(dataset, {}))


def _first(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    """What fits the first pattern that fits anything, folders before files."""
    for pattern in patterns:
        found = [root]
        for part in pattern.split("/"):
            found = [path for folder in found if folder.is_dir() for path in sorted(folder.iterdir())
                     if fnmatchcase(path.name.lower(), part)]
        if found:
            return sorted(found, key=lambda path: not path.is_dir())
    return []
