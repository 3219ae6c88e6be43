"""Boxes of two runners on one image: the same, or a pixel or score on a threshold that explains the difference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import numpy as np

from dbnet.postprocess import boxes_from_map
from dbnet.sample import Detection
from dbnet.spec import BoxRule

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

    A box is matched if the other side has the same corners. One that is not must have, within its surroundings, a
    pixel of either map within NEAR of binary_thresh, or a score within NEAR of box_thresh.
    """
    found_a, found_b = _boxes(a, rule), _boxes(b, rule)
    result = BoxComparison((len(found_a), len(found_b)))
    for mine, others, maps in ((found_a, found_b, (a, b)), (found_b, found_a, (b, a))):
        keys = {_key(other) for other in others}
        for detection in mine:
            if _key(detection) in keys:
                continue
            result.unmatched += 1
            reason = _reason(detection, maps, rule)
            if reason:
                result.explained.append(reason)
            else:
                result.unexplained += 1
    return result


def _boxes(probability: np.ndarray, rule: BoxRule) -> list[Detection]:
    return boxes_from_map(probability, **asdict(rule))


def _key(detection: Detection) -> bytes:
    return np.round(detection.polygon).astype(np.int64).tobytes()


def _reason(detection: Detection, maps: tuple[np.ndarray, np.ndarray], rule: BoxRule) -> str:
    if abs(detection.score - rule.box_thresh) <= NEAR:
        return f"score {detection.score:.5f} is within {NEAR} of box_thresh"
    x0, y0 = np.floor(detection.polygon.min(axis=0)).astype(int) - 1
    x1, y1 = np.ceil(detection.polygon.max(axis=0)).astype(int) + 2
    for probability in maps:
        around = probability[max(y0, 0):max(y1, 0), max(x0, 0):max(x1, 0)]
        if around.size and float(np.abs(around - rule.binary_thresh).min()) <= NEAR:
            return f"a pixel within {NEAR} of binary_thresh near {tuple(np.round(detection.polygon[0]))}"
    everything = replace(rule, box_thresh=0.0)
    centre = detection.polygon.mean(axis=0)
    scores = [other.score for probability in maps for other in _boxes(probability, everything)
              if np.abs(other.polygon.mean(axis=0) - centre).max() <= 2]
    near = [score for score in scores if abs(score - rule.box_thresh) <= NEAR]
    return f"score {near[0]:.5f} is within {NEAR} of box_thresh" if near else ""
