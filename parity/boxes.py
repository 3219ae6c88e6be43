"""Boxes of two runners on one image: the same, or a pixel or score on a threshold that explains the difference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from dbnet.postprocess import boxes_from_map
from dbnet.spec import BoxRule
from evaluation.box_pairs import pair_boxes
from evaluation.box_reasons import OneSide, differences

#: A probability or score this close to a threshold may fall on either side in another float32 implementation.
NEAR = 2e-4


@dataclass
class BoxComparison:
    """unmatched: boxes (map pixels) that only one side has; explained: why, one phrase each; unexplained: how many."""

    boxes: tuple[int, int]
    unmatched: int = 0
    explained: list[str] = field(default_factory=list)
    unexplained: int = 0

    @property
    def same(self) -> bool:
        return self.unmatched == 0


def compare_boxes(a: np.ndarray, b: np.ndarray, rule: BoxRule) -> BoxComparison:
    """Boxes from two (H, W) probability maps of the same image under one rule.

    A box is matched if the other side has the same corners. One that is not must have been decided by pixels that are
    text in one map only and within NEAR of binary_thresh in both, or by scores within NEAR of box_thresh.
    """
    covered = a.shape[0], a.shape[1]
    ours, theirs = (OneSide(probability, covered, rule, boxes_from_map(probability, **asdict(rule)))
                    for probability in (a, b))
    result = BoxComparison((len(ours.boxes), len(theirs.boxes)))
    for difference in differences(ours, theirs, pair_boxes(ours.boxes, theirs.boxes), most=None):
        both = 1 + (difference.kind == "moved")
        result.unmatched += both
        if difference.from_threshold is not None and difference.from_threshold <= NEAR:
            result.explained += [difference.why] * both
        else:
            result.unexplained += both
    return result
