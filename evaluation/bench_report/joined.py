"""`dbnet bench --shard`: parts of the images, benchmarked apart. Joined, each machine keeps its times, and every row
has the detections and scores of all images, with the digits of one run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, shown
from dbnet.shards import Shard, whole_of
from evaluation.bench_report.scoring import counts_of, scores_of
from evaluation.bench_report.software import PACKAGE, versions_of
from evaluation.benching.bundle import VERDICTS, Bundle, Parity, Row, detections_digest, digest_of

#: A bundle by the name of its file.
Named = tuple[str, Bundle]
#: The digest of a list of digests, one for each image -> that list, where a bundle keeps it.
_LISTS = {"images_sha256": "image_sha256s", "labels_sha256": "label_sha256s"}
#: The note of a row that has no parity, for its parts have none of the same row.
UNCOMPARED = "compared with other rows in other parts of the images: no parity"


def join_shards(read: Sequence[Named]) -> tuple[list[Named], list[str]]:
    """The bundles, parts of the same images made whole; and what was joined. Their order stays.

    Raises DbnetError for a part that is missing, is there twice or does not fit the others.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, (name, bundle) in enumerate(read):
        if bundle.data.get("shard") is not None:
            _, images = _shard(name, bundle)
            groups[digest_of([bundle.data["kind"], bundle.data["seed"], images])].append(place)
    whole, notes = list(read), []
    for places in groups.values():
        parts = [read[place] for place in places]
        for place, joined in zip(places, _joined(parts), strict=True):
            whole[place] = joined
        notes.append(f"{', '.join(name for name, _ in parts)}: parts of the same images; scores and boxes are of all "
                     f"of them together, times of each run's own part")
        notes += _apart([bundle for _, bundle in parts], notes[-1].partition(":")[0])
    return whole, notes


def _apart(parts: Sequence[Bundle], names: str) -> list[str]:
    """A note where the parts' rows stand on different software, so that no one run would have these scores."""
    versions: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for bundle in parts:
        for row in bundle.rows:
            for name, value in versions_of(bundle, row).items():
                versions["" if name == PACKAGE else row.runner, name][value] = None
    told = [f"{name} {' and '.join(values)}" + (f" in {runner}" if runner else "")
            for (runner, name), values in versions.items() if len(values) > 1]
    return [f"{names}: were measured with different software, and their scores are of all of it: "
            f"{', '.join(told)}"] if told else []


def _shard(name: str, bundle: Bundle) -> tuple[Shard, int]:
    """Which part, and how many images the whole has."""
    told = bundle.data["shard"]
    values = [told.get(field) for field in ("index", "count", "images")] if isinstance(told, Mapping) else []
    numbers = [value for value in values if type(value) is int and 1 <= value <= 10 ** 6]
    if len(numbers) != 3 or numbers[0] > numbers[1]:
        raise DbnetError(f"{name}: is a damaged bundle: data.shard is {shown(told)}; measure again")
    return Shard(*numbers[:2]), numbers[2]


def _joined(parts: Sequence[Named]) -> list[Named]:
    shards = [_shard(*named) for named in parts]
    images = shards[0][1]
    try:
        order = whole_of([(name, shard) for (name, _), (shard, _) in zip(parts, shards, strict=True)], images)
    except DbnetError as error:
        names = ", ".join(name for name, _ in parts[:5])
        raise DbnetError(f"{names}: {error}") from error
    ordered = [parts[place] for place in order]
    _check_images(ordered, images)
    data = _data(ordered)
    tables = [_keyed(bundle) for _, bundle in ordered]
    return [(name, _whole(bundle, tables, data)) for name, bundle in parts]


def _check_images(ordered: Sequence[Named], images: int) -> None:
    names = [image for _, bundle in ordered for image in bundle.data["names"]]
    told, hint = ", ".join(name for name, _ in ordered[:5]), "make the parts again, of the same list of images"
    if twice := [image for image, times in Counter(names).items() if times > 1]:
        raise DbnetError(f"{told}: overlap, for {shown(twice[0])} is in two of them; {hint}")
    if len(names) != images:
        raise DbnetError(f"{told}: have {len(names)} images together, not the {images} that they are parts of; {hint}")


def _data(ordered: Sequence[Named]) -> dict[str, Any]:
    """What one run would have said of its data, where the parts keep the digest of every image."""
    every = [bundle.data for _, bundle in ordered]
    names = [name for data in every for name in data["names"]]
    joined = {key: value for key, value in every[0].items() if key != "shard"} | {
        "names": names, "names_sha256": digest_of(names), "images": len(names)}
    for field, single in _LISTS.items():
        known = [data[field] for data in every]
        if None in known:
            joined |= {field: None}
            joined.pop(single, None)
        elif all(isinstance(data.get(single), list) for data in every):
            digests = [digest for data in every for digest in data[single]]
            joined |= {single: digests, field: digest_of(digests)}
        else:
            joined |= {field: digest_of(known)}
            joined.pop(single, None)
    return joined


def _keyed(bundle: Bundle) -> dict[str, tuple[Row, list[dict[str, Any]] | None]]:
    """Each row, with its detections, under what makes it the same row in another part."""
    seen: Counter[str] = Counter()
    found = {}
    for row in bundle.rows:
        key = row_key(bundle, row)
        seen[key] += 1
        found[f"{key} {seen[key]}"] = (row, None if row.detections is None else bundle.detections[row.detections])
    return found


def row_key(bundle: Bundle, row: Row) -> str:
    """Equal for rows that measure the same in two runs."""
    model = bundle.model(row)
    return digest_of([model.weights_sha256, model.semantics, model.pixels, model.boxes, row.runner, row.device,
                      row.precision, row.shape, row.batch, row.threads, row.cards, row.jit_level])


def _whole(bundle: Bundle, tables: Sequence[Mapping[str, tuple[Row, Any]]], data: dict[str, Any]) -> Bundle:
    """One part's bundle with everybody's detections, scores and parity."""
    rows, detections = [], {}
    for key, (row, _) in _keyed(bundle).items():
        found = [table[key] for table in tables if key in table]
        if len(found) < len(tables) or any(each is None for _, each in found):
            rows.append(replace(row, detections=None, scores={}, parity=None,
                                notes=[*row.notes, "not measured on every part of the images: no score"]))
            continue
        images = [image for _, each in found for image in each]
        digest = detections_digest(images)
        detections[digest] = images
        same = [each for each, _ in found]
        parity = _parity(row, same)
        notes = [UNCOMPARED] if parity is None and any(each.parity for each in same) else []
        rows.append(replace(row, detections=digest, scores=_scores(same), parity=parity, notes=[*row.notes, *notes]))
    return replace(bundle, data=data, rows=rows, detections=detections)


def _scores(rows: Sequence[Row]) -> dict[str, Any]:
    """Of the protocols that every part was scored by."""
    return {name: scores_of(name, np.concatenate([counts_of(name, row.scores[name]) for row in rows]))
            for name in rows[0].scores if all(name in row.scores for row in rows)}


def _parity(own: Row, rows: Sequence[Row]) -> Parity | None:
    """Over all parts; None where one of them was not compared."""
    known = [row.parity for row in rows if row.parity is not None]
    if own.parity is None or len(known) < len(rows):
        return None
    apart = [parity.max_abs for parity in known if parity.max_abs is not None]
    max_abs = max(apart) if len(apart) == len(known) else None
    same, boxes = sum(parity.boxes_same for parity in known), sum(parity.boxes_all for parity in known)
    tolerance = min(parity.tolerance for parity in known)
    return Parity(own.parity.reference, verdict_of(max_abs, tolerance, same == boxes), max_abs, tolerance,
                  sum(parity.images for parity in known), same, boxes)


def verdict_of(max_abs: float | None, tolerance: float, boxes_same: bool) -> str:
    """One of VERDICTS, by the rule of `evaluation.benching.collecting`. max_abs: None where maps cannot be subtracted.
    """
    if max_abs is None or max_abs > tolerance or not boxes_same:
        return VERDICTS[2]
    return VERDICTS[1] if max_abs else VERDICTS[0]
