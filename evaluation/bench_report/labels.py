"""The labels of a bundle's images: drawn again, or from where their owner has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbnet.datasets.archive import image_stem
from dbnet.errors import DbnetError, short
from dbnet.sample import Sample
from evaluation.benching.bundle import Bundle, digest_of
from evaluation.benching.data import DRAWN, drawn_labels, label_digests
from evaluation.evaluate import image_names

#: Sides of a drawn scene, in pixels: what a damaged file may claim.
_LARGEST = 10_000


def labels_of(bundle: Bundle, name: str, root: Path | None, gt: Path | None) -> list[Sample] | None:
    """In the order of the images' names. None if the bundle has no scores, or nobody says where its labels are.

    name: of the bundle's file, in errors. root, gt: folder of the data set, or of its labels alone. Raises DbnetError
    for labels that cannot be read, are not there for an image, or are not those that the bundle was scored with.
    """
    data = bundle.data
    if data["labels_sha256"] is None:
        if any(row.scores for row in bundle.rows):
            raise DbnetError(f"{name}: is a damaged bundle: it has scores, and does not say of which labels "
                             f"(data.labels_sha256); measure again, or check the rest with --no-labels")
        return None
    if data["kind"] == DRAWN:
        samples = _drawn(data, name)
        hint = "; this OpenCV or NumPy draws them otherwise: check it with the versions that measured it"
    elif root is not None or gt is not None:
        samples = _matched(data["names"], _read(data["kind"], name, root, gt), str(gt or root))
        hint = ""
    else:
        return None
    _check(data, samples, name, hint)
    return samples


def _drawn(data: Mapping[str, Any], name: str) -> list[Sample]:
    size, seed = data.get("size"), data.get("seed")
    sides = size if isinstance(size, list) and len(size) == 2 else []
    if not (len(sides) == 2 and all(type(side) is int and 32 <= side <= _LARGEST for side in sides)
            and type(seed) is int and 0 <= seed < 2 ** 31):
        raise DbnetError(f"{name}: is a damaged bundle: its scenes were drawn by seed {short(seed, 40)} in the size "
                         f"{short(size, 40)}; measure again")
    try:
        return drawn_labels(dict(data))
    except (KeyError, TypeError, ValueError) as error:
        raise DbnetError(f"{name}: is a damaged bundle: its scenes cannot be drawn again ({short(error, 80)}); measure "
                         f"again") from error


def _read(kind: str, name: str, root: Path | None, gt: Path | None) -> list[Sample]:
    from dbnet.datasets import sources
    from dbnet.datasets.labels import FORMATS, read_labels
    if kind not in sources.DATASETS:
        raise DbnetError(f"{name}: was scored on {short(kind, 40)}, whose labels this dbnet cannot read")
    if gt is not None:
        return read_labels(gt, kind if kind in FORMATS else None).samples
    return sources.load(kind, root=root)


def _matched(names: Sequence[str], samples: Sequence[Sample], where: str) -> list[Sample]:
    """One for each name: of that name, or else the only one of that stem."""
    exact = dict(zip(image_names(samples), samples, strict=True))
    if all(name in exact for name in names):
        return [exact[name] for name in names]
    stems: dict[str, list[Sample]] = {}
    for sample in samples:
        stems.setdefault(_loose(sample.name), []).append(sample)
    found = []
    for name in names:
        same = stems.get(_loose(name), [])
        if len(same) != 1:
            raise DbnetError(f"{where}: has {'no labels' if not same else 'labels of several images'} for "
                             f"{short(name, 80)}; name the data set that the bundle was scored on")
        found.append(replace(same[0], image=Path(name)))
    return found


def _loose(name: str) -> str:
    """But for zeros before a number: 1001 and 0001001 are one image."""
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", image_stem(name))


def _check(data: Mapping[str, Any], samples: Sequence[Sample], name: str, hint: str) -> None:
    """Raises DbnetError unless these are the labels that the bundle was scored with."""
    digests = label_digests(data["names"], samples)
    if digest_of(digests) == data["labels_sha256"]:
        return
    kept = data.get("label_sha256s")
    differing = [image for image, ours, theirs in zip(data["names"], digests, kept, strict=True) if ours != theirs] \
        if isinstance(kept, list) and len(kept) == len(digests) else []
    others = f" and {len(differing) - 1} other images" if len(differing) > 1 else ""
    which = f", of {short(differing[0], 80)}{others}" if differing else ""
    raise DbnetError(f"{name}: was scored with other labels than these{which}{hint}")
