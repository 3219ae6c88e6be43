"""The images of `dbnet compare`, and what is written in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from dbnet.cli.evaluate_options import OWN_PROTOCOL
from dbnet.errors import DbnetError
from dbnet.sample import Sample


@dataclass(frozen=True, eq=False)
class Inputs:
    """files, names: the images. samples: their labels, in the same order; none without a ground truth. refused: what
    is named like an image and is none, one line each.
    """

    files: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    protocols: tuple[str, ...] = ()
    refused: list[str] = field(default_factory=list)

    @property
    def named(self) -> list[tuple[str, str]]:
        return list(zip(self.names, self.files, strict=True))


def find_inputs(images: tuple[str, ...], recursive: bool, limit: int | None, gt: Path | None, form: str | None,
                protocols: tuple[str, ...]) -> Inputs:
    """What the options name. Raises DbnetError, also for an image that has no labels where there is a ground truth."""
    if not images:
        return Inputs()
    from evaluation.detecting_inputs import find_images
    found = find_images(images, recursive)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    files, names = found.files[:limit], found.names[:limit]
    refused = [] if limit else [f"{path}: {problem}" for path, problem in found.refused]
    if gt is None:
        return Inputs(files, names, refused=refused)
    samples, dataset = _labelled(files, gt, form)
    return Inputs(files, names, samples, protocols or (OWN_PROTOCOL.get(dataset, "rrc"),), refused)


def _labelled(files: Sequence[str], gt: Path, form: str | None) -> tuple[list[Sample], str]:
    """The labels of every file, and whose format they have."""
    from dbnet.datasets.archive import base_name, image_stem
    from dbnet.datasets.sources import paired
    folders = list(dict.fromkeys(Path(file).parent for file in files))
    try:
        found = paired(form, folders, [gt])
    except DbnetError as error:
        raise DbnetError(str(error).replace("name the data set:", "say --format:")) from error
    labels = {entry.image.resolve(): entry.sample for entry in found.entries if entry.image is not None}
    stems = {image_stem(Path(file).name) for file in files}
    keys = {labels[path].image.as_posix() for file in files if (path := Path(file).resolve()) in labels}
    for repair in found.repairs:  # of images that were not asked for they matter to nobody
        whole = repair.index is None and image_stem(base_name(repair.image)) in stems
        if repair.kind == "unreadable label" and (whole or repair.image in keys):
            raise DbnetError(repair.detail)
    missing = [file for file in files if Path(file).resolve() not in labels]
    if missing:
        more = f" ({len(missing)} of these)" if len(missing) > 1 else ""
        raise DbnetError(f"{missing[0]}: {gt} has no labels for it{more}; add them, or name the labelled images only")
    return [Sample(Path(file), sample.polygons, sample.ignore, sample.texts)
            for file in files for sample in [labels[Path(file).resolve()]]], found.dataset
