"""Scores from the counts that a bundle keeps, by the code that every evaluation uses."""

from __future__ import annotations

import numpy as np

from dbnet.errors import DbnetError, short
from evaluation.benching.bundle import Scores
from evaluation.protocols import COLUMNS, Protocol, Result
from evaluation.protocols.table import NAMES

#: No image has as many texts.
MOST = 10 ** 9


def protocol_of(name: str) -> Protocol:
    """The one of that name. Raises DbnetError, without a file's name, if there is none."""
    for protocol in NAMES.get(name, ()):
        if protocol.name == name:
            return protocol
    raise DbnetError(f"a score by {short(name, 40)!r}, which is no protocol of this dbnet; update dbnet-parity")


def counts_of(name: str, scores: Scores) -> np.ndarray:
    """The kept counts by that protocol, (N, V, 4) float64. Raises DbnetError for what are none."""
    wanted = (len(scores.counts), len(protocol_of(name).variants), len(COLUMNS))
    try:
        counts = np.array(scores.counts, np.float64)
    except ValueError:
        counts = np.empty(0)
    if counts.shape != wanted or not np.all((counts >= 0) & (counts <= MOST)):
        raise DbnetError(f"counts by {name} that are none: {wanted[0]} images need {wanted[1]} x {wanted[2]} numbers "
                         f"each, from 0 on")
    return counts


def scores_of(name: str, counts: np.ndarray) -> Scores:
    """What the counts of images (N, V, 4) make."""
    result = Result(protocol_of(name), counts)
    score, (low, high) = result.score, result.interval()["fscore"]
    return Scores(score.precision, score.recall, score.fscore, [low, high], counts.tolist())
