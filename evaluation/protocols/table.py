"""Every protocol by name, and scoring by several of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dbnet.errors import DbnetError
from dbnet.sample import Detection, Sample
from evaluation.protocols import (
    Protocol,
    Result,
    ctw1500,
    mhliao,
    mindocr,
    mlt2017,
    mmocr,
    rrc,
    td500,
    totaltext,
)

#: What one asks for -> the scores that one gets: a data set's protocol may come in several strengths.
PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "rrc": rrc.PROTOCOLS,
    "mindocr": mindocr.PROTOCOLS,
    "mhliao": mhliao.PROTOCOLS,
    "mmocr": mmocr.PROTOCOLS,
    "totaltext": totaltext.PROTOCOLS,
    "ctw1500": ctw1500.PROTOCOLS,
    "td500": td500.PROTOCOLS,
    "mlt2017": mlt2017.PROTOCOLS,
}
#: What may be asked for: those, and each of their scores by itself.
NAMES: dict[str, tuple[Protocol, ...]] = {row.name: (row,) for rows in PROTOCOLS.values() for row in rows} | PROTOCOLS


def find(names: Iterable[str]) -> tuple[Protocol, ...]:
    """The protocols that `names` ask for, in that order and none twice. Raises DbnetError for an unknown one, or none.
    """
    found = {}
    for name in names:
        if name not in NAMES:
            raise DbnetError(f"unknown protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
        found.update({protocol.name: protocol for protocol in NAMES[name]})
    if not found:
        raise DbnetError(f"no protocol to score by; choose from {', '.join(PROTOCOLS)}")
    return tuple(found.values())


def score(names: Iterable[str], samples: Sequence[Sample],
          detections: Sequence[Sequence[Detection]]) -> dict[str, Result]:
    """Scores by each protocol that `names` ask for; `detections[i]` were found in the image of `samples[i]`.

    Raises DbnetError for an unknown name, ValueError if there are not as many lists of detections as samples.
    """
    if len(samples) != len(detections):
        raise ValueError(f"{len(samples)} samples but detections of {len(detections)}")
    return {protocol.name: Result(protocol, protocol.count(samples, detections)) for protocol in find(names)}
