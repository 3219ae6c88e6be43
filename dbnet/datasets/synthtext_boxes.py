"""SynthText's boxes, put right by MindOCR's rule for all words of many images at once.

The rule (MindOCR, tools/dataset_converters/synthtext.py): corners sorted clockwise around their mean; kept if the
polygon is valid and meets the image; clipped to the image; kept if still valid and not the whole image. The image ends
at its last pixels, (width - 1, height - 1). Most boxes are convex and inside, which a few products show; only the
others are asked of shapely, as MindOCR asks about each.
"""

from __future__ import annotations

import numpy as np
import shapely

#: What happened to a word's box, as bits. Kept: another corner comes first; corners in another order; clipped.
TURNED, REORDERED, CLIPPED = 1, 2, 4
#: Left out: no valid polygon; outside the image; nothing valid is left after clipping; the whole image.
INVALID, OUTSIDE, FLAT, WHOLE = 8, 16, 32, 64
DROPPED = INVALID | OUTSIDE | FLAT | WHOLE

#: A turn at a corner is sure where its cross product exceeds this share of the square of the largest coordinate: far
#: more than rounding can make of it.
SURE = 1e-9


def sort_clockwise(quads: np.ndarray) -> np.ndarray:
    """(K, 4) int64: the corners of each of (K, 4, 2) in the order of their angle around their mean, beginning left.

    In the precision that they come in, and with NumPy's own order among equal angles, as MindOCR does.
    """
    offset = quads - quads.mean(axis=1, keepdims=True)
    angles = (np.arctan2(offset[..., 1], offset[..., 0]) + np.pi) % (2 * np.pi)
    return np.argsort(angles, axis=1)


def repair(quads: np.ndarray, single: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes put right, (K, 4, 2) float64, and what happened to each, (K,) uint8 of the bits above.

    quads: (K, 4, 2) float64, x and y in pixels. single: (K,) bool, those that were float32 in the labels and are sorted
    so. limits: (K, 2) float64, largest x and y in each one's image. The boxes with a bit of `DROPPED` are to be left
    out, and have no other bit.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity make an invalid polygon, no warning
        order = np.empty(quads.shape[:2], np.int64)
        order[single] = sort_clockwise(quads[single].astype(np.float32))
        order[~single] = sort_clockwise(quads[~single])
        quads = np.take_along_axis(quads, order[..., np.newaxis], axis=1)
        sure = _convex(quads)
    limits = limits[:, np.newaxis]
    corners_inside = ((quads >= 0) & (quads <= limits)).all(axis=2)
    valid, meets = sure, corners_inside.any(axis=1)
    doubtful = np.flatnonzero(~valid & np.isfinite(quads).all(axis=(1, 2)))  # MindOCR's converter stops at a NaN
    valid[doubtful] = _valid(quads[doubtful])
    doubtful = np.flatnonzero(valid & ~meets)
    meets[doubtful] = shapely.intersects(shapely.polygons(quads[doubtful]), _borders(limits[doubtful, 0]))
    what = np.where(valid, np.where(meets, 0, OUTSIDE), INVALID).astype(np.uint8)

    clipped = np.flatnonzero((what == 0) & ~corners_inside.all(axis=1))
    quads[clipped] = np.clip(quads[clipped], 0, limits[clipped])
    what[clipped] = np.where(_valid(quads[clipped]), CLIPPED, FLAT)
    spanning = ((quads.min(axis=1) == 0) & (quads.max(axis=1) == limits[:, 0])).all(axis=1)
    spanning = np.flatnonzero(spanning & (what & DROPPED == 0))
    whole = shapely.equals(shapely.polygons(quads[spanning]), _borders(limits[spanning, 0]))
    what[spanning[whole]] = WHOLE

    kept = what & DROPPED == 0
    same_round = ((order - order[:, :1]) % 4 == np.arange(4)).all(axis=1)
    what[kept & ~same_round] |= REORDERED
    what[kept & same_round & (order[:, 0] > 0)] |= TURNED
    return quads, what


def _convex(quads: np.ndarray) -> np.ndarray:
    """(K,) bool: True where the box turns clockwise at every corner beyond doubt, so that it cannot cross itself."""
    edges = np.roll(quads, -1, axis=1) - quads
    following = np.roll(edges, -1, axis=1)
    turns = edges[..., 0] * following[..., 1] - edges[..., 1] * following[..., 0]
    largest = np.abs(quads).max(axis=(1, 2), initial=0)
    return (turns > SURE * largest[:, np.newaxis] ** 2).all(axis=1)


def _valid(quads: np.ndarray) -> np.ndarray:
    return shapely.is_valid(shapely.polygons(quads))


def _borders(limits: np.ndarray) -> np.ndarray:
    return shapely.box(0, 0, limits[:, 0], limits[:, 1])
