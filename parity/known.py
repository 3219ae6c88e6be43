"""Known differences: reviewed data, each with its reason. A difference that is not listed fails."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from dbnet.errors import DbnetError

FILE = Path(__file__).with_name("known_differences.toml")
KINDS = ("constant_reference", "tolerance")


@dataclass(frozen=True)
class KnownDifference:
    """kind: "constant_reference" (the reference's stage is constant) or "tolerance" (a wider one, `value`)."""

    kind: str
    test: str
    spec: str
    stage: str
    reason: str
    value: float | None = None


def load(path: Path = FILE) -> list[KnownDifference]:
    """Reads the list. Raises DbnetError for an unknown key or kind, and for an entry without a reason."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("difference", [])
    known = []
    for entry in entries:
        try:
            difference = KnownDifference(**entry)
        except TypeError as error:
            raise DbnetError(f"{path.name}: {error}") from error
        if difference.kind not in KINDS or len(difference.reason.split()) < 5:
            raise DbnetError(f"{path.name}: {entry} needs a kind of {KINDS} and a reason that explains it")
        known.append(difference)
    return known


def find(kind: str, test: str, spec: str, stage: str) -> KnownDifference | None:
    """The entry for this very case, or None."""
    return next((d for d in load() if (d.kind, d.test, d.spec, d.stage) == (kind, test, spec, stage)), None)
