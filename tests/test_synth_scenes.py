"""Drawn scenes: outlines fit, nothing hides a word, what is illegible is marked, and every run draws the same."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import shapely

from dbnet.datasets import synth
from dbnet.datasets.repair import mend, signed_area
from dbnet.datasets.synth_background import background
from dbnet.datasets.synth_block import board, place, set_block, view
from dbnet.datasets.synth_camera import photographed
from dbnet.datasets.synth_fonts import find_faces, ink_of, stroke_faces
from dbnet.datasets.synth_text import SIDE_POINTS, bend, set_line
from tests.test_synth_fonts import embedded_font


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A font file and OpenCV's letters: the same on every machine."""
    folder = tmp_path_factory.mktemp("fonts")
    (folder / "embedded.ttf").write_bytes(embedded_font())
    return [*find_faces([folder]), *stroke_faces()]


def share_inside(mask, polygons):
    """Share of the ink that lies in one of the outlines; a pixel belongs to them if its middle does."""
    ys, xs = np.nonzero(mask)
    points = shapely.points(xs + 0.5, ys + 0.5)
    outline = shapely.union_all([shapely.Polygon(polygon) for polygon in polygons]).buffer(1e-6)
    inside = shapely.contains(outline, points)
    ink = mask[ys, xs].astype(float)
    return float(ink[inside].sum() / ink.sum())


# Outlines -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 3])
def test_level_outlines_hold_the_ink_closely(faces, number):
    rng = np.random.default_rng(number)
    for size in (12, 30, 77):
        for _ in range(8):
            line = set_line(faces[number], "latin", size, 4, rng)
            assert share_inside(line.mask, line.polygons) == 1
            for polygon in line.polygons:
                (x0, y0), (x1, y1) = polygon[0], polygon[2]
                ys, xs = np.nonzero(line.mask[int(y0):int(np.ceil(y1)), int(x0):int(np.ceil(x1))] >= 64)
                air = [xs.min() + int(x0) - x0, ys.min() + int(y0) - y0, x1 - xs.max() - int(x0) - 1,
                       y1 - ys.max() - int(y0) - 1]
                assert min(air) >= 0 and max(air) <= 0.07 * size + 1e-6


@pytest.mark.parametrize("stroke", [0, 3])
def test_ink_is_cut_to_its_edges(faces, stroke):
    for face in faces[:2]:
        ink, _, advance = ink_of(face, "Hg", 40, stroke)
        assert min(ink[0].max(), ink[-1].max(), ink[:, 0].max(), ink[:, -1].max()) >= 64
        assert 30 < ink.shape[0] < 60
        assert advance >= ink.shape[1] - 1
    assert ink_of(faces[0], " ", 40)[0].size == 0


def test_words_of_a_line_stand_apart(faces):
    for seed in range(30):
        line = set_line(faces[0], "latin", 40, 4, np.random.default_rng(seed))
        for left, right in pairwise(line.polygons):
            assert right[0, 0] - left[1, 0] > 2


def test_a_line_is_not_longer_than_told(faces):
    for seed in range(20):
        line = set_line(faces[0], "latin", 40, 4, np.random.default_rng(seed), longest=300)
        assert line is None or np.ptp(np.concatenate(line.polygons)[:, 0]) <= 301


@pytest.mark.parametrize("curvature", [-1.9, -1.0, -0.4, 0.4, 1.0, 1.9])
def test_bent_outlines_hold_the_ink(faces, curvature):
    bent = 0
    for seed in range(12):
        line = set_line(faces[seed % 2], "latin", 40, 4, np.random.default_rng(seed))
        arc = bend(line, curvature)
        if arc is line:  # too short and high
            assert line.mask.shape[1] / abs(curvature) < line.mask.shape[0] * 1.2
            continue
        bent += 1
        assert share_inside(arc.mask, arc.polygons) > 0.998
        assert float(arc.mask.sum()) == pytest.approx(float(line.mask.sum()), rel=0.05)  # nothing was lost on the way
        for polygon, level in zip(arc.polygons, line.polygons, strict=True):
            assert polygon.shape == (2 * SIDE_POINTS, 2)
            assert shapely.Polygon(polygon).is_valid
            assert signed_area(polygon) == pytest.approx(signed_area(np.round(level)), rel=0.15)
            above, below = polygon[:SIDE_POINTS], polygon[SIDE_POINTS:][::-1]
            assert np.allclose(np.linalg.norm(above - below, axis=1), level[2, 1] - level[0, 1])
            assert (np.diff(above[:, 0]) > 0).all() or abs(curvature) > 1.5
        middle = np.concatenate(arc.polygons)[:, 1]
        ends = arc.polygons[0][0, 1], arc.polygons[-1][SIDE_POINTS - 1, 1]
        assert (min(ends) > middle.min() + 1) == (curvature > 0)  # an arch, or a bowl
    assert bent > 4


def blocks(faces, count, size=(720, 1280)):
    """Blocks in a scene that they fit into, of all kinds."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        line = set_block(faces[seed % len(faces)], "latin", float(rng.uniform(12, 60)), 700, rng)
        block = place(line, board(line, 30, rng), view(max(line.mask.shape) / 1.5, rng), 30, size, rng)
        if block is not None:
            yield block


def test_placed_outlines_hold_the_ink(faces):
    """Turned and in perspective: all of the ink, drawn anew into the whole scene, lies in the outlines."""
    shares, turned, total = [], 0, 0
    half, back = np.eye(3), np.eye(3)
    half[:2, 2], back[:2, 2] = 0.5, -0.5
    for block in blocks(faces, 40):
        whole = cv2.warpPerspective(block.flat, back @ block.matrix @ half, (1280, 720))
        shares.append(share_inside(whole, block.polygons))
        x, y = block.at
        part = whole[y:y + block.mask.shape[0], x:x + block.mask.shape[1]]
        assert np.abs(part.astype(int) - block.mask).max() <= 1
        assert int(whole.sum()) == int(part.sum())
        edge = block.polygons[0][len(block.polygons[0]) // 2 - 1] - block.polygons[0][0]
        turned += abs(np.degrees(np.arctan2(edge[1], edge[0]))) > 20
        total += 1
    assert total > 25 and turned > 2
    assert min(shares) > 0.98 and np.mean(shares) > 0.997


def test_what_does_not_fit_is_not_placed(faces):
    rng = np.random.default_rng(0)
    line = set_line(faces[0], "latin", 60, 4, rng)
    assert place(line, None, np.eye(3), 40, (50, 100), rng) is None


# Scenes ---------------------------------------------------------------------------------------------------------------

SEEDS = range(14)


@pytest.fixture(scope="module")
def scenes(faces):
    """Scenes with their canvas before the camera and, for each word, the pixels in its outline when it was painted."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        real_paint, real_camera = synth.paint, synth.photographed
        seen, canvas = [], []

        def paint(image, block, with_board, rng):
            before = image.copy()
            real_paint(image, block, with_board, rng)
            seen.extend((polygon, image.copy()) for polygon in block.polygons)
            assert not np.array_equal(before, image)

        def camera(image, rng):
            canvas.append(image.copy())
            return real_camera(image, rng)

        patch.setattr(synth, "paint", paint)
        patch.setattr(synth, "photographed", camera)
        for seed in SEEDS:
            seen.clear()
            scene = synth.draw_scene(seed, faces, 480, 800)
            hidden = [polygon for polygon, then in seen if _differ(then, canvas[-1], polygon)]
            made.append((scene, hidden))
    return made


def _differ(first, second, polygon):
    inside = cv2.fillPoly(np.zeros(first.shape[:2], np.uint8), [np.floor(polygon).astype(np.int32)], 1) > 0
    return not np.array_equal(first[inside], second[inside])


def test_nothing_hides_a_word(scenes):
    assert sum(len(scene.texts) for scene, _ in scenes) > 150
    assert [len(hidden) for _, hidden in scenes] == [0] * len(SEEDS)


def test_outlines_of_scenes(scenes):
    bent = 0
    for scene, _ in scenes:
        assert scene.image.shape == (480, 800, 3) and scene.image.dtype == np.uint8
        assert len(scene.polygons) == len(scene.texts) == len(scene.ignore) == len(scene.fonts)
        shapes = [shapely.Polygon(polygon) for polygon in scene.polygons]
        for polygon, shape in zip(scene.polygons, shapes, strict=True):
            assert shape.is_valid and signed_area(polygon) > 0
            assert polygon.min() >= 2 and (polygon <= (798, 478)).all()
            assert mend(polygon, (480, 800)).steps == []
            bent += len(polygon) == 14
            assert len(polygon) in (4, 14)
        tree = shapely.STRtree(shapes)
        for first, second in tree.query(shapes, "intersects").T:
            shared = shapes[first].intersection(shapes[second]).area
            assert first == second or shared < 0.1 * min(shapes[first].area, shapes[second].area)
    assert bent > 5


def test_letters_are_of_sensible_sizes(scenes):
    heights = [np.linalg.norm(polygon[0] - polygon[-1]) for scene, _ in scenes for polygon in scene.polygons]
    assert np.percentile(heights, 5) > 6
    assert 12 < np.median(heights) < 40
    assert max(heights) < 480 * 0.4


def test_most_words_can_be_read(scenes):
    ignored = np.concatenate([scene.ignore for scene, _ in scenes])
    assert 0 < ignored.mean() < 0.35


def test_the_same_seed_draws_the_same_scene(faces):
    first, again, other = (synth.draw_scene(seed, faces, 200, 320) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert first.texts == again.texts and np.array_equal(np.concatenate(first.polygons), np.concatenate(again.polygons))
    assert not np.array_equal(first.image, other.image)
    assert np.array_equal(first.image, synth.draw_scene([5], faces, 200, 320).image)
    assert not np.array_equal(first.image, synth.draw_scene((5, 0, 1), faces, 200, 320).image)


@pytest.mark.parametrize("size", [(64, 64), (64, 1500), (1500, 64), (333, 517)])
def test_odd_sizes(faces, size):
    for seed in range(6):
        scene = synth.draw_scene(seed, faces, *size)
        assert scene.image.shape == (*size, 3)
        assert all((polygon >= 0).all() and (polygon <= size[::-1]).all() for polygon in scene.polygons)


# Legibility -----------------------------------------------------------------------------------------------------------


def shown(contrast, noise=0.0, height=30, level=110):
    """A word on grey: image, ink and outline."""
    rng = np.random.default_rng(0)
    ink = np.zeros((80, 300), np.uint8)
    thickness = max(1, height // 10)
    cv2.putText(ink, "Platform", (20, 50), cv2.FONT_HERSHEY_SIMPLEX, height / 22, 255, thickness, cv2.LINE_AA)
    ys, xs = np.nonzero(ink)
    x0, y0, x1, y1 = xs.min() - 1, ys.min() - 1, xs.max() + 2, ys.max() + 2
    grey = level + contrast * (ink / 255.0) + rng.normal(0, noise, ink.shape)
    image = np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    return image, ink, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


@pytest.mark.parametrize(("contrast", "noise", "height", "expected"), [
    (60, 3, 30, True), (-60, 3, 30, True), (25, 5, 30, True), (60, 20, 30, True), (8, 0, 30, False),
    (25, 40, 30, False), (0, 10, 30, False), (100, 3, 1, False),
])
def test_legible(contrast, noise, height, expected):
    assert synth.legible(*shown(contrast, noise, height)) is expected


def test_legible_by_colour_alone():
    image, ink, polygon = shown(0)
    image[ink > 128] = [110, 60, 190]
    assert synth.legible(image, ink, polygon)


def test_faint_words_are_marked(faces, monkeypatch):
    """All of them, where ink has nearly the colour of what is behind."""
    monkeypatch.setattr(synth, "paint", lambda *_: None)
    scene = synth.draw_scene(1, faces, 300, 400)
    assert len(scene.texts) and scene.ignore.all()


# What is behind -------------------------------------------------------------------------------------------------------


def test_backgrounds_differ_and_are_not_garish():
    means, saturations = [], []
    for seed in range(40):
        image = background(180, 320, np.random.default_rng(seed))
        assert image.shape == (180, 320, 3) and image.dtype == np.uint8
        means.append(image.mean())
        saturations.append(cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1].mean())
    assert np.std(means) > 20
    assert 30 < np.median(saturations) < 100  # of ICDAR 2015's test images: 64


@pytest.mark.parametrize("shape", [(64, 64), (900, 200), (200, 900), (400, 400)])
def test_photographs_become_backgrounds(shape):
    photograph = np.full((*shape, 3), (10, 200, 60), np.uint8)
    taken = sum((background(120, 200, np.random.default_rng(seed), [photograph]) == (10, 200, 60)).all()
                for seed in range(30))
    assert 12 <= taken <= 27


def test_a_photograph_is_not_changed(faces):
    photograph = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    before = photograph.copy()
    for seed in range(5):
        synth.draw_scene(seed, faces, 200, 300, [photograph])
    assert np.array_equal(photograph, before)


def test_the_camera_moves_nothing():
    image = np.zeros((120, 200, 3), np.uint8)
    image[40:80, 60:140] = 220
    for seed in range(40):
        seen = photographed(image, np.random.default_rng(seed))
        assert seen.shape == image.shape and seen.dtype == np.uint8
        grey = seen.mean(axis=2)
        ys, xs = np.nonzero(grey > (grey[50:70, 80:120].mean() + grey[:20].mean()) / 2)
        assert abs(ys.mean() - 59.5) < 1.5 and abs(xs.mean() - 99.5) < 1.5
