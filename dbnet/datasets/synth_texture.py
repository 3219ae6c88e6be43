"""Colours and surfaces of drawn scenes: bricks, tiles, windows, shelves, foliage, plaster. Images are (H, W, 3) uint8
BGR.

No surface is any photographer's. Many overlapping leaves of all sizes, and noise of all scales, have the statistics of
natural images (Lee, Mumford, Huang: Occlusion models for natural images, 2001).
"""

from __future__ import annotations

import cv2
import numpy as np

#: Hues of OpenCV (0 to 180) in pictures of towns: share, middle, spread. The rest has any hue.
HUES = ((0.45, 14, 9), (0.2, 106, 12), (0.15, 48, 14))


def colours(rng: np.random.Generator, count: int, strong: float = 0.0) -> np.ndarray:
    """(count, 3) float32 BGR, mostly dull as walls and streets are. strong: share of those as signs and clothes have.
    """
    kind, hue = rng.random(count), rng.uniform(0, 180, count)
    begin = 0.0
    for share, middle, spread in HUES:
        hue = np.where((kind >= begin) & (kind < begin + share), rng.normal(middle, spread, count), hue)
        begin += share
    dull = rng.random(count) >= strong
    saturation = np.where(dull, 255 * rng.beta(1.2, 3.6, count), rng.uniform(110, 256, count))
    value = np.where(dull, rng.uniform(15, 250, count), rng.uniform(60, 256, count))
    pixels = np.stack([hue % 180, saturation, value], axis=1).astype(np.uint8)
    return cv2.cvtColor(pixels[np.newaxis], cv2.COLOR_HSV2BGR)[0].astype(np.float32)


def palette(rng: np.random.Generator, count: int = 8) -> np.ndarray:
    """(count, 3) float32 BGR: colours that are found together, under one light."""
    several = colours(rng, count, strong=0.12)
    together = rng.uniform(0, 0.6)
    return several * (1 - together) + several.mean(axis=0) * together


def clouds(height: int, width: int, rng: np.random.Generator, rough: float) -> np.ndarray:
    """(height, width) float32 noise with mean 0 and deviation 1. rough: how strong each octave is against the next
    coarser one; 1 is as rough as photographs are."""
    longest, strength, cells = max(height, width), 1.0, 3
    total = np.zeros((2, 2), np.float32)
    while True:
        shape = max(2, height * cells // longest), max(2, width * cells // longest)
        total = cv2.resize(total, shape[::-1], interpolation=cv2.INTER_LINEAR)
        total = cv2.scaleAdd(noise(shape, rng).astype(np.float32), strength / 74, total)
        cells, strength = cells * 2, strength * rough
        if cells > longest or strength < 0.02:
            break
    total = cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(total))
    return cv2.addWeighted(total, 1 / max(deviation, 1e-6), total, 0, -mean / max(deviation, 1e-6))


def noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """uint8 of all values alike: a tenth of the time of normal ones, which sums of them soon become."""
    return np.frombuffer(rng.bytes(shape[0] * shape[1]), np.uint8).reshape(shape)


def surface(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """A surface as walls, floors, fronts of shops and hedges have it, in some of the colours `shades`, (N, 3)."""
    kinds = (plaster, plaster, tiles, bricks, front, planks, shelves, leaves)
    return kinds[int(rng.integers(len(kinds)))](height, width, rng, shades)


def _pick(rng: np.random.Generator, shades: np.ndarray, count: int, spread: float) -> np.ndarray:
    """(count, 3) float64: one of the colours, each time a little different."""
    chosen = shades[int(rng.integers(len(shades)))]
    return chosen + rng.normal(0, spread, (count, 1)) + rng.normal(0, spread / 4, (count, 3))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _rough(image: np.ndarray, rng: np.random.Generator, strongest: float = 14) -> np.ndarray:
    """The surface with stains and grain."""
    height, width = image.shape[:2]
    stains = clouds(height, width, rng, rng.uniform(0.5, 1.05))
    return grained(image, cv2.convertScaleAbs(stains, alpha=rng.uniform(1, strongest), beta=128))


def grained(image: np.ndarray, level: np.ndarray, apart: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 with noise, (H, W) uint8 where 128 is none, added, the same to all colours.

    apart: to each colour from another place, which saves two thirds of the noise. In bytes, which take a fifth of the
    time that floats do.
    """
    more, less = cv2.subtract(level, 128), cv2.subtract(128, level)
    if apart:
        parts = [cv2.merge([part, cv2.flip(part, 0), cv2.flip(part, 1)]) for part in (more, less)]
    else:
        parts = [cv2.merge([part, part, part]) for part in (more, less)]
    return cv2.subtract(cv2.add(image, parts[0]), parts[1])


def plaster(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """One colour, or from one to another."""
    corners = _pick(rng, shades, 4, 10).reshape(2, 2, 3)
    if rng.random() < 0.3:
        corners[1] = _pick(rng, shades, 2, 10)
    image = cv2.resize(corners.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return _rough(cv2.convertScaleAbs(np.maximum(image, 0)), rng, 22)


def _rows(height: int, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of a row or column of cells: which cell it is in, and where in there."""
    at = np.arange(height) + int(rng.integers(side))
    return at // side, at % side


def _strips(rows: int, width: int, side: int, shift: int, table: np.ndarray, rng: np.random.Generator
            ) -> tuple[np.ndarray, np.ndarray]:
    """(rows, width, 3) uint8: a line of pixels for each row of cells, coloured from the `table`; and where each pixel
    lies in its cell, (rows, width). shift: by how much every second row is moved."""
    begin = int(rng.integers(side))
    at = np.arange(width)[np.newaxis] + begin + np.arange(rows)[:, np.newaxis] % 2 * shift
    return table[(at // side + 7 * np.arange(rows)[:, np.newaxis]) % len(table)], at % side


def _jointed(height: int, width: int, rng: np.random.Generator, shades: np.ndarray, size: tuple[int, int],
             spread: float, shift: int, line: int) -> np.ndarray:
    """Cells of `size` (height, width), each of its own shade, with joints `line` pixels wide between them."""
    row, y = _rows(height, size[0], rng)
    table = _bytes(_pick(rng, shades, 97, spread))
    if not shift and rng.random() < 0.25:
        table[::2] = _bytes(_pick(rng, shades, 1, 10))  # a chequerboard
    strips, x = _strips(int(row[-1]) + 1, width, size[1], shift, table, rng)
    joint = _bytes(_pick(rng, shades, 1, 10))
    strips[x < line] = joint
    image = strips[row]
    image[y < line] = joint
    return _rough(image, rng)


def tiles(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """Squares with joints, of one colour or two."""
    side = int(2 ** rng.uniform(3, 6.3))
    return _jointed(height, width, rng, shades, (side, side), rng.uniform(0, 9), 0, 1 + side // 24)


def bricks(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """Rows of bricks, each of its own shade."""
    side = int(2 ** rng.uniform(3, 5.3))
    wide = int(side * rng.uniform(1.6, 3.2))
    return _jointed(height, width, rng, shades, (side, wide), rng.uniform(5, 20), wide // 2, 1 + side // 16)


def planks(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """Boards, blinds, shutters, corrugated iron: stripes with a shadow at one edge, upright or level."""
    side, upright = int(2 ** rng.uniform(2.3, 6)), rng.random() < 0.5
    row, y = _rows(width if upright else height, side, rng)
    stripes = _pick(rng, shades, int(row[-1]) + 1, rng.uniform(0, 14))[row]
    stripes += ((y / side - 0.5) * rng.uniform(-50, 50))[:, np.newaxis]
    stripes[y < 1 + side // 14] *= rng.uniform(0.3, 0.8)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = _bytes(stripes)[np.newaxis] if upright else _bytes(stripes)[:, np.newaxis]
    return _rough(image, rng, 10)


def front(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """A house's front: rows of windows, some of them lit, with frames."""
    tall, wide = int(2 ** rng.uniform(3.6, 7)), int(2 ** rng.uniform(3.6, 7))
    row, y = _rows(height, tall, rng)
    rows = int(row[-1]) + 1
    panes = _bytes(_pick(rng, shades * rng.uniform(0.3, 1.2), 97, rng.uniform(3, 40)))
    strips, x = _strips(rows, width, wide, 0, panes, rng)
    wall, frame = _bytes(_pick(rng, shades, 1, 10)), _bytes(_pick(rng, shades, 1, 25))
    top, left = max(2, int(rng.uniform(0.08, 0.3) * tall)), max(2, int(rng.uniform(0.08, 0.3) * wide))
    bars = rng.random() < 0.5
    if bars:
        strips[np.abs(x - wide // 2) < 1] = frame
    strips[(x < left) | (x >= wide - left)] = frame
    framed = np.empty_like(strips)
    framed[:] = frame
    outside = (x < left - 2) | (x >= wide - left + 2)
    strips[outside] = framed[outside] = wall
    lines = np.concatenate([strips, framed, np.broadcast_to(wall, (1, width, 3))])
    which = np.where((y >= top) & (y < tall - top), row, rows + row)
    which = np.where((y < top - 2) | (y >= tall - top + 2), 2 * rows, which)
    return _rough(lines[np.where(bars & (y == tall // 2), rows + row, which)], rng)


def shelves(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """Rows of boxes, books or bottles of many widths, each with a stripe like a label, above dark boards."""
    image = np.empty((height, width, 3), np.uint8)
    goods = np.concatenate([shades, colours(rng, 8, strong=0.3)])
    tall, narrow = 2 ** rng.uniform(4.3, 6.8), 2 ** rng.uniform(2.6, 5.4)
    top = 0
    while top < height:
        bottom = min(height, top + max(8, int(tall * rng.uniform(0.8, 1.2))))
        widths = np.maximum(3, narrow * rng.lognormal(0, 0.5, int(width / narrow * 3) + 4)).astype(int)
        widths[-1] += width
        box = np.repeat(np.arange(len(widths)), widths)[:width]
        chosen = goods[rng.integers(0, len(goods), len(widths))] + rng.normal(0, 12, (len(widths), 1))
        chosen[np.arange(len(widths)) % 2 == 1] *= 0.85  # neighbours differ
        image[top:bottom] = _bytes(chosen)[box]
        begin, end = sorted(rng.integers(top, bottom + 1, 2))
        image[begin:end] = _bytes(chosen + rng.normal(0, 45, (len(widths), 1)))[box]
        image[top:bottom, np.flatnonzero(np.diff(box))] //= 2
        image[top:top + int(tall * rng.uniform(0.02, 0.25))] //= np.uint8(rng.integers(2, 6))
        top = bottom
    return _rough(image, rng, 9)


def leaves(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """Things of all sizes before one another: foliage, a crowd, a heap."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = _pick(rng, shades, 1, 10)
    count = int(rng.integers(120, 420))
    least, most = 2 ** rng.uniform(1.5, 3.3), 2 ** rng.uniform(4.5, 7)
    share = rng.random(count)
    radii = 1 / np.sqrt(share / least ** 2 + (1 - share) / most ** 2)  # as many as r to the power of -3
    places = rng.random((count, 2)) * (width, height)
    tints = shades[rng.integers(0, len(shades), count)] + rng.normal(0, 18, (count, 1))
    tints = np.clip(tints, 0, 255).astype(int).tolist()
    angles, flat, kind = rng.uniform(0, 180, count), rng.uniform(0.25, 1, count), rng.random(count)
    round_ones = rng.random()
    for number in range(count):
        (x, y), radius = places[number], radii[number]
        if kind[number] < round_ones:
            box = (float(x), float(y)), (float(2 * radius), float(2 * radius * flat[number])), float(angles[number])
            cv2.ellipse(image, box, tints[number], -1, cv2.LINE_AA)
        else:
            box = (float(x), float(y)), (float(2 * radius), float(2 * radius * flat[number])), float(angles[number])
            cv2.fillConvexPoly(image, cv2.boxPoints(box).astype(np.int32), tints[number], cv2.LINE_AA)
    return _rough(image, rng, 16)
