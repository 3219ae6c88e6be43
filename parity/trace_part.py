"""What the trace of a part of the images (`dbnet trace --shard I/N`) tells of the whole, in `Trace.about`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dbnet.errors import DbnetError
from dbnet.shards import Shard, ShardError, parse_shard
from evaluation.part import names_digest

#: Where it stands in `about`.
SHARD = "shard"


def told_part(shard: Shard, names: Sequence[str]) -> dict[str, Any]:
    """names: of all images. Raises DbnetError for more parts than images."""
    shard.places(len(names))
    return {"part": str(shard), "images": len(names), "names_sha256": names_digest(names)}


def part_told(about: Mapping[str, Any], where: str) -> tuple[Shard, int, str]:
    """The part, the number of all images, and the digest of their names. Raises DbnetError for the trace of a whole."""
    told = about.get(SHARD)
    if told is None:
        raise DbnetError(f"{where}: is a trace of a whole, no part of one; give what dbnet trace --shard I/N wrote")
    try:
        images, digest = told["images"], told["names_sha256"]
        shard = parse_shard(told["part"])
        if type(images) is not int or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("no number, or no digest")
        shard.places(images)
    except (KeyError, TypeError, ValueError, AttributeError, ShardError) as error:
        raise DbnetError(f"{where}: does not say which part it is; record it again") from error
    return shard, images, digest


def told_of(about: Mapping[str, Any]) -> str:
    """One phrase for people, empty of a whole or of what says nothing."""
    told = about.get(SHARD)
    return f"{told.get('part')} of {told.get('images')} images" if isinstance(told, dict) else ""
