"""How the box rules are called: settings and their defaults, odd maps, many maps at once, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product

import numpy as np
import pytest

from dbnet.errors import DbnetError
from dbnet.postprocess import RULES, boxes_from_map, boxes_from_maps, default_boxes
from dbnet.spec import BoxRule

#: OpenCV's rule has no polygons.
PAIRS = [pair for pair in product(sorted(RULES), ("quad", "poly")) if pair != ("opencv", "poly")]


def rectangle(height: int = 64, width: int = 96, *, value: float = 0.9) -> np.ndarray:
    """A map with one upright text of 40 x 16 pixels, x 20..59, y 24..39."""
    probability = np.zeros((height, width), np.float32)
    probability[24:40, 20:60] = value
    return probability


def plain(detections):
    return [(detection.polygon.tolist(), detection.score) for detection in detections]


def test_by_position_by_name_and_from_a_rule():
    probability = rectangle()
    expected = plain(boxes_from_map(probability, unclip_ratio=2.0))
    assert plain(boxes_from_map(probability, "mindocr", "quad", 0.3, 0.6, 2.0, 10)) == expected
    assert plain(boxes_from_map(probability, **asdict(BoxRule("mindocr", "quad", 0.3, 0.6, 2.0, 10)))) == expected


@pytest.mark.parametrize(("rule", "box_type"), PAIRS)
def test_defaults_of_the_projects(rule, box_type):
    settings = default_boxes(rule, box_type)
    assert (settings.rule, settings.box_type, settings.binary_thresh) == (rule, box_type, 0.3)
    assert settings.unclip_ratio == (2.0 if (rule, box_type) in (("mhliao", "poly"), ("opencv", "quad")) else 1.5)
    own = {"mmocr": (0.3, 3000), "opencv": (0.5, 2 ** 31 - 1)}
    assert (settings.box_thresh, settings.max_candidates) == own.get(rule, (0.6, 1000))
    assert (settings.score_mode, settings.dilation) == ("fast", False)
    assert len(boxes_from_map(rectangle(), **asdict(settings), original_size=(640, 960))) == 1


@pytest.mark.parametrize("changes", [{}, {"binary_thresh": 0.0}, {"binary_thresh": 1.0}, {"box_thresh": 0.0},
                                     {"box_thresh": 1.0}, {"unclip_ratio": 1000.0}, {"unclip_ratio": 1e-9}])
@pytest.mark.parametrize(("rule", "box_type"), PAIRS)
def test_odd_maps(rule, box_type, changes):
    """The smallest maps, the emptiest, the fullest, the loneliest pixels: boxes or no boxes, and nothing else."""
    pixels = np.zeros((40, 40), np.float32)
    pixels[::5, ::7] = 1
    for probability in (np.ones((1, 1)), np.zeros((1, 1)), np.ones((1, 50)), np.ones((50, 1)), np.ones((40, 60)),
                        np.zeros((40, 60)), pixels, 1 - pixels, np.full((9, 9), 0.3), rectangle(),
                        np.tile(rectangle(value=1), (3, 9))):
        for found in boxes_from_map(probability.astype(np.float32), rule, box_type, **changes):
            assert np.all(np.isfinite(found.polygon)) and len(found.polygon) >= 3


def test_other_layouts_and_precisions_give_the_same_boxes():
    probability = rectangle(value=0.875)
    expected = plain(boxes_from_map(probability))
    negative_zeros = np.where(probability == 0, np.float32(-0.0), probability)
    for same in (np.asfortranarray(probability), probability.astype(np.float64), probability.astype(np.float16),
                 np.repeat(probability, 2, 1)[:, ::2], probability[::-1].copy()[::-1], negative_zeros):
        assert plain(boxes_from_map(same)) == expected


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
def test_many_maps_at_once(workers):
    maps = [np.roll(rectangle(64, 96 + 32 * i), 5 * i, axis=1) for i in range(7)]
    sizes = [None, (640, 480), None, (10, 10), (64, 96), None, (99, 99)]
    together = boxes_from_maps(maps, "paddle", "poly", 0.2, score_mode="slow", resized_sizes=[(64, 90)] * 7,
                               original_sizes=sizes, workers=workers)
    alone = [boxes_from_map(probability, "paddle", "poly", 0.2, score_mode="slow", resized_size=(64, 90),
                            original_size=size) for probability, size in zip(maps, sizes, strict=True)]
    assert [plain(found) for found in together] == [plain(found) for found in alone]
    assert [len(found) for found in alone] == [1] * 7


def test_many_maps_with_bad_arguments():
    assert boxes_from_maps([]) == []
    with pytest.raises(DbnetError, match="probability map holds values"):
        boxes_from_maps([rectangle(), rectangle() * 2], workers=2)
    with pytest.raises(DbnetError, match="workers must be at least 0"):
        boxes_from_maps([rectangle()], workers=-1)
    with pytest.raises(ValueError, match="as many sizes as maps"):
        boxes_from_maps([rectangle()], original_sizes=[])


@pytest.mark.parametrize(("changes", "message"), [
    ({"rule": "mmdet"}, "unknown box rule 'mmdet'; choose one of mindocr, mhliao, paddle, mmocr"),
    ({"box_type": "circle"}, "unknown box type"),
    ({"binary_thresh": -0.1}, "binary_thresh is a fraction"),
    ({"box_thresh": 1.5}, "box_thresh is a fraction"),
    ({"box_thresh": float("nan")}, "box_thresh is a fraction"),
    ({"unclip_ratio": 0.0}, "unclip_ratio must be"),
    ({"unclip_ratio": float("inf")}, "unclip_ratio must be"),
    ({"unclip_ratio": 1001.0}, "unclip_ratio must be a positive number of at most 1000"),
    ({"max_candidates": 0}, "max_candidates must be"),
    ({"score_mode": "medium"}, "unknown score mode 'medium'; choose one of fast, slow"),
    ({"score_mode": "slow"}, "'mindocr' has no such choice"),
    ({"rule": "mmocr", "dilation": True}, "choices of the box rule 'paddle'; 'mmocr' has no such choice"),
    ({"rule": "opencv", "box_type": "poly"}, "the box rule 'opencv' gives quads only"),
    ({"rule": "opencv", "score_mode": "slow"}, "choices of the box rule 'paddle'; 'opencv' has no such choice"),
    ({"resized_size": (0, 5)}, "resized_size is .height, width. in pixels"),
    ({"original_size": (5,)}, "original_size is .height, width. in pixels"),
])
def test_settings_out_of_range(changes, message):
    with pytest.raises(DbnetError, match=message):
        boxes_from_map(rectangle(), **changes)


def test_defaults_of_an_unknown_project():
    with pytest.raises(DbnetError, match="unknown box rule 'east'"):
        default_boxes("east")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 7.3])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_what_is_no_probability(value, kind):
    probability = rectangle().astype(kind)
    probability[3, 5] = value
    with pytest.raises(DbnetError, match="probability map holds values"):
        boxes_from_map(probability)


@pytest.mark.parametrize("probability", [np.zeros((1, 8, 8), np.float32), np.zeros((8, 8), np.uint8),
                                         np.zeros((0, 8), np.float32), np.float32(0)])
def test_what_is_no_map(probability):
    with pytest.raises(ValueError, match="a probability map is"):
        boxes_from_map(probability)


@pytest.mark.parametrize("rule", ["mindocr", "mhliao", "paddle", "mmocr"])
def test_a_last_bit_above_one_is_a_probability(rule):
    exact = np.zeros((64, 96), np.float32)
    exact[20:40, 20:70] = 1
    above = exact * np.nextafter(np.float32(1), np.float32(2))
    assert above.max() > 1
    (wanted,), (found,) = boxes_from_map(exact, rule), boxes_from_map(above, rule)
    assert np.array_equal(found.polygon, wanted.polygon) and found.score == wanted.score == 1
    with pytest.raises(DbnetError, match="not between 0 and 1"):
        boxes_from_map(exact * np.float32(1.00001), rule)
