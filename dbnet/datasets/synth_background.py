"""What drawn texts stand on: walls, rooms and streets in perspective, heaps of things, or parts of photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from dbnet.datasets.synth_texture import colours, leaves, palette, plaster, surface

#: Share of scenes on photographs, where there are any.
PHOTOGRAPHED = 0.65


def background(height: int, width: int, rng: np.random.Generator, photographs: Sequence[np.ndarray] = ()) -> np.ndarray:
    """(height, width, 3) uint8 BGR without text. photographs: (H, W, 3) uint8 BGR of which parts may be taken."""
    if len(photographs) and rng.random() < PHOTOGRAPHED:
        return _part(photographs[int(rng.integers(len(photographs)))], height, width, rng)
    shades = palette(rng)
    scale = 1 if rng.random() < 0.4 else 2  # most of a photograph is less sharp than the text in it
    size = -(-height // scale), -(-width // scale)
    kinds: tuple[Callable[..., np.ndarray], ...] = (_room, _room, _wall, _wall, _wall, plaster, leaves)
    image = kinds[int(rng.integers(len(kinds)))](*size, rng, shades)
    for _ in range(int(rng.integers(0, 7))):
        _thing(image, rng, shades)
    if rng.random() < 0.5:
        _clutter(image, rng)
    if scale != 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(2 ** rng.uniform(-0.5, 2.3)))
    return image


def _part(photograph: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of the same proportions, flipped now and then."""
    h, w = photograph.shape[:2]
    largest = min(h / height, w / width)
    factor = largest * rng.uniform(0.45, 1.0)
    part_h, part_w = max(1, min(h, round(height * factor))), max(1, min(w, round(width * factor)))
    top, left = int(rng.integers(0, h - part_h + 1)), int(rng.integers(0, w - part_w + 1))
    way = cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR
    part = cv2.resize(photograph[top:top + part_h, left:left + part_w], (width, height), interpolation=way)
    return cv2.flip(part, 1) if rng.random() < 0.5 else part


def _wall(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """One surface seen from the side, or two that meet in a level or upright line."""
    image = _turned(surface(height, width, rng, shades), rng)
    if rng.random() < 0.4:
        other = _turned(surface(height, width, rng, shades), rng)
        if rng.random() < 0.5:
            line = int(height * rng.uniform(0.2, 0.9))
            image[line:] = other[line:]
        else:
            line = int(width * rng.uniform(0.1, 0.9))
            image[:, line:] = other[:, line:]
    return image


def _turned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The surface out of a slanting view, without anything from beyond it."""
    if rng.random() < 0.3:
        return image
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = corners + (rng.uniform(0, 0.3, (4, 2)) * (width, height) * [[1, 1], [-1, 1], [-1, -1], [1, -1]])
    matrix = cv2.getPerspectiveTransform(seen.astype(np.float32), corners)
    return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


def _room(height: int, width: int, rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """A room, passage or street along which one looks: floor, two sides, the far end, and a ceiling or the sky."""
    middle = np.array([rng.uniform(0.05, 0.95) * width, rng.uniform(0.3, 0.7) * height])
    half = np.array([rng.uniform(0.05, 0.4) * width, rng.uniform(0.08, 0.35) * height])
    far = middle + half * [[-1, -1], [1, -1], [1, 1], [-1, 1]]
    # The near ends of all four sides lie beyond the picture, so that nothing of it stays bare.
    beyond = max(float(np.max(np.maximum(middle, (width, height) - middle) / half)), 1.0) * 1.05
    near = middle + (far - middle) * beyond
    if rng.random() < 0.5:  # outdoors: bright above
        sky = colours(rng, 1) * 0.3 + np.array([235, 215, 200]) * rng.uniform(0.5, 0.75)
        image, above = plaster(height, width, rng, sky), []
    else:
        image, above = np.zeros((height, width, 3), np.uint8), [(0, 1)]
    for first, second in (*above, (2, 3), (3, 0), (1, 2)):
        corners = np.array([near[first], near[second], far[second], far[first]])
        _set_in(image, surface(height, width, rng, shades * rng.uniform(0.5, 1.3)), corners)
    _set_in(image, surface(height, width, rng, shades * rng.uniform(0.5, 1.3)), far)
    return image


def _set_in(image: np.ndarray, what: np.ndarray, corners: np.ndarray) -> None:
    height, width = image.shape[:2]
    whole = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(whole, corners.astype(np.float32))
    cv2.warpPerspective(what, matrix, (width, height), dst=image, borderMode=cv2.BORDER_TRANSPARENT)


def _thing(image: np.ndarray, rng: np.random.Generator, shades: np.ndarray) -> None:
    """A pane, door, pole, wheel, pipe, or somebody, with a shadow or an edge now and then."""
    height, width = image.shape[:2]
    tint = (colours(rng, 1, 0.3)[0] if rng.random() < 0.5 else shades[int(rng.integers(len(shades)))]).tolist()
    thick = -1 if rng.random() < 0.7 else int(rng.integers(1, 8))
    x, y = int(rng.integers(width)), int(rng.integers(height))
    wide, high = (int(2 ** rng.uniform(2, 7.3)) for _ in range(2))
    kind = rng.random()
    if kind < 0.4:
        if thick < 0 and rng.random() < 0.5:
            shadow = (x + wide // 8 + 2, y + high // 8 + 2), (x + wide + wide // 8 + 2, y + high + high // 8 + 2)
            cv2.rectangle(image, *shadow, [0.4 * value for value in tint], -1)
        cv2.rectangle(image, (x, y), (x + wide, y + high), tint, thick)
        if thick < 0 and rng.random() < 0.5:
            cv2.rectangle(image, (x, y), (x + wide, y + high), colours(rng, 1)[0].tolist(), int(rng.integers(1, 6)))
    elif kind < 0.55:
        cv2.ellipse(image, (x, y), (wide, high), float(rng.uniform(0, 180)), 0, 360, tint, thick, cv2.LINE_AA)
    elif kind < 0.7:  # somebody
        cv2.ellipse(image, (x, y + 3 * wide), (wide, 2 * wide), 0, 0, 360, tint, -1, cv2.LINE_AA)
        cv2.circle(image, (x, y), max(2, wide // 2), (colours(rng, 1)[0] * 0.6 + 60).tolist(), -1, cv2.LINE_AA)
    elif kind < 0.85:
        lean = int(rng.normal(0, 8))
        cv2.line(image, (x, 0), (x + lean, height), tint, int(rng.integers(1, 14)), cv2.LINE_AA)
    else:
        end = int(rng.integers(width)), int(rng.integers(height))
        cv2.line(image, (x, y), end, tint, int(rng.integers(1, 7)), cv2.LINE_AA)


def _clutter(image: np.ndarray, rng: np.random.Generator) -> None:
    """What looks like writing and is none: fences, rows of windows, blinds, scattered strokes, rings."""
    height, width = image.shape[:2]
    tint = colours(rng, 1, 0.3)[0].tolist()
    left, top = int(rng.integers(-width // 4, width)), int(rng.integers(-height // 4, height))
    wide, high = int(rng.integers(20, max(21, width // 2))), int(rng.integers(10, max(11, height // 2)))
    kind, step, line = rng.random(), int(rng.integers(4, 24)), int(rng.integers(1, 4))
    if kind < 0.25:
        for x in range(left, left + wide, step):
            cv2.line(image, (x, top), (x, top + high), tint, line, cv2.LINE_AA)
    elif kind < 0.4:
        for y in range(top, top + high, step):
            cv2.line(image, (left, y), (left + wide, y), tint, line, cv2.LINE_AA)
    elif kind < 0.6:
        size = max(2, int(step * rng.uniform(0.3, 0.8)))
        for y in range(top, min(top + high, height), step):
            for x in range(left, min(left + wide, width), step):
                cv2.rectangle(image, (x, y), (x + size, y + size), tint, -1)
    elif kind < 0.8:
        for _ in range(int(rng.integers(10, 120))):
            start = np.array([left, top]) + rng.random(2) * (wide, high)
            end = start + rng.normal(0, step, 2)
            cv2.line(image, start.astype(int).tolist(), end.astype(int).tolist(), tint, line, cv2.LINE_AA)
    else:
        for x in range(left, left + wide, 2 * step):
            cv2.circle(image, (x, top), max(2, int(step * rng.uniform(0.4, 0.9))), tint, line, cv2.LINE_AA)
