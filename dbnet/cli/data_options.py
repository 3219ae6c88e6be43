"""What `dbnet data` is told about a data set, in this project's words and in those of MindOCR's converter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import PathArgument
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.datasets.pairing import Paired

SYNTHTEXT = "synthtext"


@dataclass(frozen=True)
class Source:
    """Where the labels of a data set and their images lie. dataset: None if the labels shall tell."""

    dataset: str | None
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    split: str | None = None

    def paired(self) -> Paired:
        """The labels with their images. Raises DbnetError."""
        from dbnet.datasets.sources import paired
        return paired(self.dataset, self.images, self.labels)


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """DATASET, --images, --labels, --root and --split; the command gets them as one `source: Source`."""

    @click.argument("what", metavar="[DATASET|LABELS]", required=False)
    @click.option("--images", "-i", "--image_dir", "--image-dir", type=PathArgument, multiple=True, metavar="DIR",
                  help="Folder of the images, in it or in folders below (repeatable). Without it the labels alone.")
    @click.option("--labels", "-l", "--label_dir", "--label-dir", "--label_path", "--label-path", type=PathArgument,
                  multiple=True, metavar="PATH", help="Folder or zip of the labels, or label file (repeatable).")
    @click.option("--root", type=PathArgument, metavar="DIR",
                  help="Instead of both: the folder that the data set was unpacked into.")
    @click.option("--split", metavar="NAME", help="With --root: train, test or validation.")
    @click.option("--dataset_name", "--dataset-name", "-d", "named", hidden=True)
    @click.option("--task", "-t", hidden=True, callback=_detection_only, expose_value=False)
    @click.option("--path_mode", "--path-mode", hidden=True, callback=_relative_only, expose_value=False)
    @functools.wraps(command)
    def wrapped(what: str | None, named: str | None, images: Sequence[Path], labels: Sequence[Path],
                root: Path | None, split: str | None, **others: Any) -> Any:
        if what is not None and named is not None:
            raise click.UsageError(f"the data set is named twice: {what} and --dataset_name {named}")
        return command(source=_source(what if named is None else named, images, labels, root, split), **others)

    return wrapped


def _source(what: str | None, images: Sequence[Path], labels: Sequence[Path], root: Path | None,
            split: str | None) -> Source:
    dataset, labels = _told(what, labels)
    source = Source(dataset, tuple(images), tuple(labels), split)
    if root is not None:
        if dataset is None:
            raise click.UsageError("--root needs the name of the data set, e.g. icdar2015 or td500")
        return _placed(source, root, split)
    if split is not None:
        raise click.UsageError("--split goes with --root; --images and --labels say it by themselves")
    if not labels and dataset == "td500":
        source = replace(source, labels=source.images)  # they lie beside each other
    if not source.labels:
        raise click.UsageError("say where the labels lie: --labels PATH, or --root DIR --split NAME")
    if dataset == SYNTHTEXT and (len(images) > 1 or len(labels) > 1):
        raise click.UsageError("synthtext has one gt.mat and one folder of images")
    return source


def _told(what: str | None, labels: Sequence[Path]) -> tuple[str | None, Sequence[Path]]:
    """The data set and the labels, of which the argument may be either."""
    if what is None:
        return None, labels
    from dbnet.datasets.sources import DATASETS, dataset_name
    try:
        return dataset_name(what, (*DATASETS, SYNTHTEXT)), labels
    except DbnetError as error:
        if not Path(what).exists():
            hint = "; no file or folder has that name either" if "/" in what or "." in what else ""
            raise click.UsageError(f"{error}{hint}") from error
        if labels:
            raise click.UsageError(f"{what} is no data set, and the labels are given twice") from error
    return None, (Path(what),)


def _placed(source: Source, root: Path, split: str | None) -> Source:
    """What --root and --split stand for; --images and --labels go first."""
    from dbnet.datasets.layouts import find_place, splits_of
    dataset = source.dataset or ""
    if not splits_of(dataset):
        raise click.UsageError(f"{dataset} has no layout of its own; say --images and --labels instead of --root")
    if split is None:
        split = _only_split(dataset, root, splits_of(dataset))
    place = find_place(dataset, root, split)
    return Source(dataset, source.images or tuple(place.images), source.labels or tuple(place.labels), place.split)


def _only_split(dataset: str, root: Path, splits: Sequence[str]) -> str:
    from dbnet.datasets.layouts import find_place
    there = []
    for split in splits:
        try:
            there.append(find_place(dataset, root, split).split)
        except DbnetError:
            continue
    if len(there) == 1:
        return there[0]
    if not there:
        find_place(dataset, root, splits[0])  # says what is missing
    raise click.UsageError(f"{root} holds several parts: say --split {'|'.join(there)}")


def _detection_only(_context: click.Context, _parameter: click.Parameter, task: str | None) -> None:
    if task not in (None, "det"):
        raise click.BadParameter(f"{task}: these are data sets for detection; --task det, or none")


def _relative_only(_context: click.Context, _parameter: click.Parameter, mode: str | None) -> None:
    if mode not in (None, "relative"):
        raise click.BadParameter(f"{mode}: names are written relative to --images, which recipes join with data_dir")
