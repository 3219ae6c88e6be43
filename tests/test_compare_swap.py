"""What makes the difference between two models: shares that are known by construction."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import product

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.pixel_formats import PIXEL_PARTS, OpaqueSpec, pixel_causes
from dbnet.postprocess import boxes_from_map, default_boxes
from dbnet.sample import Sample
from dbnet.spec import MHLIAO_BOXES, MHLIAO_PIXELS, MINDOCR_PIXELS, PADDLE_PIXELS, SPECS, BoxRule, PixelFormat
from evaluation.compare_maps import Side
from evaluation.compare_swap import Attribution, Share, swap
from evaluation.pipeline import run
from evaluation.shapley import apportioned, shapley
from evaluation.swap_parts import BOX_PARTS, MOST_PARTS, mixtures, parts_of
from tests.opaque_models import GAIN, LEVEL, detector, opened

#: Boxes of small drawn texts: what is grown reaches no other text.
RULE = replace(MHLIAO_BOXES, binary_thresh=0.5)
#: (pixel - 128) / 255, the image as it is.
PIXELS = replace(MHLIAO_PIXELS, mean=(128.0,) * 3, size=(128, 128), resize="stretch")


class Lamp:
    """A network in one line: the sigmoid of a weighted brightness. Counts its runs, and fails where it is told to."""

    name, device = "torch", "cpu"

    def __init__(self, pixels=PIXELS, weights=(1, 1, 1), level=LEVEL, shape=(None,) * 4, refuses=None):
        self.spec = OpaqueSpec(pixels, RULE, "out", False)
        self.weights, self.level, self.shape, self.refuses = weights, level, shape, refuses
        self.digest = f"{abs(hash((weights, level))):064d}"
        self.seen = []

    def run(self, images):
        self.seen.append(images.shape)
        if self.refuses and self.refuses(images):
            raise self.error
        mixed = np.tensordot(images, np.array(self.weights) / 3.0, (1, 0))[:, np.newaxis]
        return {"probability": (1 / (1 + np.exp(-GAIN * (mixed - self.level)))).astype(np.float32)}

    error = DbnetError("the lamp is broken")

    def environment(self):
        return {"threads": 1}


def side(rule=RULE, **settings_):
    return Side(Lamp(**settings_), rule)


def scene(path, texts, size=(128, 128)):
    """Draws texts, (y, colour in BGR), on black, each 12 x 80; they are the labels too."""
    image = np.zeros((*size, 3), np.uint8)
    polygons = []
    for y, colour in texts:
        image[y:y + 12, 20:100] = colour
        polygons.append(np.array([[17, y - 3], [102, y - 3], [102, y + 14], [17, y + 14]], np.float64))
    cv2.imwrite(str(path), image)
    return Sample(path, polygons, np.zeros(len(texts), bool), ["text"] * len(texts))


def named(samples):
    return [(sample.name, str(sample.image)) for sample in samples]


def shares(found, field="boxes"):
    return {share.part: getattr(share, field) for share in found.parts}


# Arithmetic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "expected"), [
    ([5], []), ([1, 4], [3]), ([0, 1, 2, 3], [1, 2]), ([0, 0, 0, 1], [Fraction(1, 2)] * 2),
    ([0, 1, 1, 1], [Fraction(1, 2)] * 2), ([0, 1, -1, 0], [1, -1]), ([0, 1, 2, 2], [Fraction(1, 2), Fraction(3, 2)]),
    # one left glove (bit 0) and two right ones: the textbook's
    ([0, 0, 0, 1, 0, 1, 0, 1], [Fraction(2, 3), Fraction(1, 6), Fraction(1, 6)]),
    # an airport's runway for aircraft of 1, 2 and 3 kilometres
    ([0, 1, 2, 2, 3, 3, 3, 3], [Fraction(1, 3), Fraction(5, 6), Fraction(11, 6)]),
])
def test_shares_by_hand(values, expected):
    assert shapley(values) == expected


@pytest.mark.parametrize("values", [[], [1, 2, 3], [0] * 7])
def test_values_of_no_game(values):
    with pytest.raises(ValueError, match="all sets of parts"):
        shapley(values)


@settings(max_examples=60)
@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.floats(-1, 1), min_size=2**n, max_size=2**n)))
def test_shares_add_up_exactly_and_do_not_depend_on_the_side(values):
    found = shapley(values)
    assert sum(found) == Fraction(values[-1]) - Fraction(values[0])
    assert shapley([-value for value in reversed(values)]) == found  # from B to A
    extended = shapley(values * 2)  # one part more that does nothing
    assert extended == [*found, 0]


@settings(max_examples=40)
@given(st.lists(st.fractions(-300, 300, max_denominator=99), max_size=9))
def test_rounded_shares_add_up(values):
    found = apportioned(values)
    assert sum(found) == round(sum(values, Fraction()))
    assert all(abs(whole - value) < 1 for whole, value in zip(found, values, strict=True))


# Parts ----------------------------------------------------------------------------------------------------------------


RULES = [*(default_boxes(rule, kind) for rule, kind in product(("mindocr", "mhliao", "paddle", "mmocr"),
                                                               ("quad", "poly"))),
         default_boxes("opencv"), replace(default_boxes("paddle"), score_mode="slow"),
         replace(default_boxes("paddle", "poly"), dilation=True, max_candidates=7, binary_thresh=0.2, box_thresh=0.55)]


def test_every_mixture_of_two_box_rules_is_one():
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    for a, b in product(RULES, repeat=2):
        parts, _ = parts_of(side(a), side(b))
        mixed = mixtures(side(a), side(b), parts)
        assert (mixed[0].rule, mixed[-1].rule) == (a, b)
        assert len({mixture.rule for mixture in mixed}) == 2**len(parts) and bool(parts) == (a != b)
        for mixture in mixed:
            boxes_from_map(ramp, **asdict(mixture.rule))  # refuses settings that cannot be


def test_every_field_is_in_one_part():
    for parts, kind in ((PIXEL_PARTS, PixelFormat), (BOX_PARTS, BoxRule)):
        assert Counter(name for names in parts.values() for name in names) == Counter(list(kind.__dataclass_fields__))


def test_parts_are_named_in_the_order_of_the_way():
    a = Side(Lamp(MINDOCR_PIXELS), replace(default_boxes("mindocr"), box_thresh=0.7))
    b = Side(Lamp(PADDLE_PIXELS, level=0.3), default_boxes("paddle"))
    parts, notes = parts_of(a, b, ("rrc", "mindocr"))
    assert [part.name for part in parts] == ["resize_rule", "color_order", "network", "box_rule", "box_thresh",
                                             "protocol"] and not notes
    assert parts[0].what == "resize is short_side_min, not stretch; size is (736, 736), not (736, 1280)"
    assert parts[2].what.startswith("another model (sha256 ")
    assert [part.what for part in parts[3:]] == ["rule is paddle, not mindocr", "box_thresh is 0.6, not 0.7",
                                                 "protocol is mindocr, not rrc"]
    assert [cause for cause, _, _ in pixel_causes(PADDLE_PIXELS, MINDOCR_PIXELS)] == ["resize_rule", "color_order"]
    assert parts_of(a, a, ("rrc", "rrc")) == ([], [])


def test_what_is_another_network():
    runners = {name: Lamp() for name in ("plain", "again", "place", "threads", "model", "nameless", "gate", "training")}
    runners["place"].device = "cuda:0"
    runners["threads"].environment = lambda: {"threads": 4}
    runners["model"].digest = "f" * 64
    runners["nameless"].digest = None
    own = SPECS["db_mv3_paddle"]
    runners["gate"].spec, runners["training"].spec = replace(own, se_gate="sigmoid"), replace(own, k=7.0)

    def told(a, b):
        found = [part.what for part in parts_of(Side(runners[a], RULE), Side(runners[b], RULE))[0] if part.network]
        return found[0] if found else None

    assert told("plain", "again") is None
    assert told("plain", "place") == "runs in torch on cuda:0, not in torch on cpu"
    assert told("plain", "threads") == "threads is 4, not 1"
    assert told("plain", "model").startswith("another model (sha256 ffffffffffff, not ")
    assert told("plain", "nameless") == "another file, and whether its weights are the same is not known"
    for name, weights in (("plain", "w"), ("place", "w"), ("model", "v")):
        runners[name].weights_digest = weights * 64
    runners["place"].digest = "e" * 64  # of an .onnx, where the others are of weights
    assert told("plain", "place").startswith("the same weights, run by another graph; runs in torch on cuda:0, not ")
    assert told("place", "model").startswith("another model (sha256 vvvvvvvvvvvv, not wwwwwwwwwwww); runs in torch ")
    assert told("plain", "again") is None
    runners["again"].digest = "e" * 64
    assert told("plain", "again") == "another file, and whether its weights are the same is not known"
    assert told("training", "gate") == "se_gate is sigmoid, not none"
    runners["plain"].spec = own
    assert told("plain", "training") is None  # what only training sees moves no map


def test_a_file_of_one_size_goes_over_with_its_resize_rule(tmp_path):
    whole = scene(tmp_path / "t.png", [(20, (255, 255, 255))])
    fixed = (None, 3, 128, 128)
    a = side(shape=fixed)
    cases = [(side(level=0.3, pixels=replace(PIXELS, size=(64, 64))), "resize_rule+network"),
             (side(level=0.3, pixels=replace(PIXELS, resize="keep_ratio")), "resize_rule+network"),
             (side(level=0.3, pixels=replace(PIXELS, resize="keep_ratio_pad")), "resize_rule"),
             (side(pixels=replace(PIXELS, size=(64, 64))), "resize_rule")]  # the same network: nothing to go with
    for b, name in cases:
        assert parts_of(a, b)[0][0].name == parts_of(b, a)[0][0].name == name
    found = swap(a, cases[0][0], named([whole]))
    assert found.notes == ["resize_rule and network go over together, for A takes images of one size only"]
    assert found.images == 1 and not found.failed and found.parts[0].part == "resize_rule+network"


def test_too_many_parts(tmp_path):
    """All that can differ: what makes boxes is one part."""
    whole = scene(tmp_path / "t.png", [(20, (255, 255, 255))])
    a = side(pixels=replace(PIXELS, colour="RGB", mean=(100.0,) * 3, resize="keep_ratio_pad"),
             rule=BoxRule("paddle", "quad", 0.3, 0.6, 1.5, 1000))
    b = side(level=0.3, rule=BoxRule("paddle", "poly", 0.4, 0.5, 2.0, 900, "slow", True))
    found = swap(a, b, named([whole]), [whole], ("rrc", "mindocr"))
    assert sorted(shares(found)) == ["box_settings", "color_order", "network", "normalization", "protocol",
                                     "resize_rule"]
    assert found.notes == ["too many parts differ for all their mixtures, so these go over together as box_settings: "
                           "box_rule, binary_thresh, box_thresh, unclip_ratio, max_candidates, score_mode, dilation"]
    parts, notes = parts_of(side(rule=a.rule), side(rule=b.rule))
    assert len(parts) == MOST_PARTS and not notes
    # Each map once: 8 pixel formats, 2 networks.
    assert len(a.runner.seen) == len(b.runner.seen) == 8


# Shares ---------------------------------------------------------------------------------------------------------------


def test_two_parts_that_share_a_loss(tmp_path):
    """Of three texts the darkest falls to a darker image as to a higher box threshold, another only to the latter."""
    sample = scene(tmp_path / "t.png", [(15, (255,) * 3), (55, (213,) * 3), (95, (208,) * 3)])
    a = side(rule=replace(RULE, box_thresh=0.55))
    b = side(rule=replace(RULE, box_thresh=0.8), pixels=replace(PIXELS, mean=(152.0,) * 3))
    found = swap(a, b, named([sample]), [sample])
    assert (found.total_boxes, found.images, found.labelled, found.protocol) == (2, 1, 1, "rrc")
    assert shares(found, "alone_boxes") == {"box_thresh": 2, "normalization": 1}
    assert shares(found) == {"box_thresh": 1.5, "normalization": 0.5}
    assert shares(found, "boxes_share") == {"box_thresh": 0.75, "normalization": 0.25}
    # F: 1 as A is, .8 with B's pixels, .5 with its threshold and with both.
    assert found.total_fscore == pytest.approx(-0.5)
    assert shares(found, "alone_fscore") == pytest.approx({"box_thresh": -0.5, "normalization": -0.2})
    assert shares(found, "fscore") == pytest.approx({"box_thresh": -0.4, "normalization": -0.1})
    assert shares(found, "fscore_share") == pytest.approx({"box_thresh": 0.8, "normalization": 0.2})
    assert found.summary == ("75 % box_thresh, 25 % normalization of the 2 boxes that differ; F differs by -0.5000: "
                             "-0.4000 box_thresh, -0.1000 normalization")
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert list(told["parts"][0]) == ["part", "what", "boxes", "boxes_share", "fscore", "fscore_share", "alone_boxes",
                                      "alone_fscore"] and told["total_boxes"] == 2 and told["summary"] == found.summary
    back = swap(b, a, named([sample]), [sample])
    assert shares(back) == shares(found) and back.total_fscore == pytest.approx(0.5)
    assert shares(back, "fscore") == pytest.approx({"box_thresh": 0.4, "normalization": 0.1})


def coloured(path, weights):
    """A detector's file that sees brightness through coloured glass."""
    model = onnx.load(detector(path))
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "k")
    kernel.CopyFrom(onnx.numpy_helper.from_array(np.array(weights, np.float32).reshape(1, 3, 1, 1) * GAIN / 3, "k"))
    onnx.save(model, path)
    return path


def test_real_files_and_parts_that_cancel(tmp_path):
    """One detector sees red in RGB, the other in BGR: each is right in its own colours and blind in the other's."""
    pytest.importorskip("onnxruntime")
    sample = scene(tmp_path / "t.png", [(20, (0, 0, 255)), (60, (0, 0, 255))])
    pixels = "mhliao,mean=128/128/128,resize=stretch,size=128,colour="
    first = opened(coloured(tmp_path / "a.onnx", (3, 0, 0)), f"{pixels}RGB")
    second = opened(coloured(tmp_path / "b.onnx", (0, 0, 3)), f"{pixels}BGR")
    found = swap(Side(first, RULE), Side(second, RULE), named([sample]), [sample])
    assert (found.total_boxes, found.total_fscore) == (0, 0.0)
    assert shares(found, "alone_boxes") == {"color_order": 2, "network": 2}
    assert shares(found, "alone_fscore") == {"color_order": -1.0, "network": -1.0}
    assert shares(found) == {"color_order": 0, "network": 0} and not any(shares(found, "boxes_share").values())
    assert found.summary == "no box differs: what one part moves, another moves back; F is the same"
    # Without the second network only the colours differ, and all is theirs.
    other = opened(tmp_path / "a.onnx", f"{pixels}BGR")
    found = swap(Side(first, RULE), Side(other, RULE), named([sample]), [sample])
    assert found.summary == "100 % color_order of the 2 boxes that differ; F differs by -1.0000: -1.0000 color_order"


def test_the_protocol_has_its_part(tmp_path):
    """Boxes that cover two thirds of their texts are right by IoU and wrong by DetEval."""
    sample = scene(tmp_path / "t.png", [(20, (255,) * 3), (70, (255,) * 3)])
    tall = [polygon + [[0, -12], [0, -12], [0, 12], [0, 12]] for polygon in sample.polygons]
    wide = replace(sample, polygons=tall)
    found = swap(side(), side(), named([sample]), [wide], ("rrc", "totaltext"))
    assert found.protocol == "rrc in A, totaltext in B" and found.notes == [
        "of the scores of totaltext, F is totaltext"]
    assert (found.total_boxes, shares(found)) == (0, {"protocol": 0})
    assert shares(found, "fscore_share") == {"protocol": 1} and found.total_fscore == -1
    assert found.summary == "no box differs; F differs by -1.0000: -1.0000 protocol"
    with pytest.raises(DbnetError, match="unknown protocol 'icdar'"):
        swap(side(), side(), named([sample]), [wide], ("rrc", "icdar"))
    assert not swap(side(), side(), named([sample]), None, ("rrc", "totaltext")).parts  # no score, no protocol


def test_nothing_differs(tmp_path):
    a = side()
    found = swap(a, side(), [("x.png", str(tmp_path / "not there.png"))])
    assert found == Attribution(total_boxes=0)
    assert found.summary == "nothing to exchange: A and B are the same in pixels, network, box rule and protocol"
    assert not a.runner.seen


def test_images_that_fail(tmp_path):
    good = [scene(tmp_path / f"{i}.png", [(20, (255,) * 3), (60, (200 - 3 * i,) * 3)]) for i in range(3)]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    images = [*named(good), ("broken.png", str(tmp_path / "broken.png")), ("x", str(tmp_path / "x"))]
    # The second image breaks the network of B, but only in A's colours: a mixture that neither model is.
    b = side(level=0.32, pixels=replace(PIXELS, colour="RGB", mean=(128.0, 128.0, 129.0)),
             refuses=lambda tensor: abs(tensor[0, 2, 65, 50] * 255 - 69) < 0.25)
    a, done = side(pixels=replace(b.runner.spec.pixels, mean=PIXELS.mean)), []
    samples = [*good, None, None]
    found = swap(a, b, images, samples, progress=lambda i, total: done.append((i, total)))
    assert done == [(i, 5) for i in range(1, 6)]
    assert [line.removeprefix(f"{tmp_path}/").split(":")[0] for line in found.failed] == ["1.png", "broken.png", "x"]
    assert "1.png: A with B's network: the lamp is broken" in found.failed[0]
    assert not any("A with" in line for line in found.failed[1:])
    assert (found.images, found.labelled) == (2, 2)
    alone = swap(a, b, images[:1] + images[2:3], good[::2])
    assert found.parts == alone.parts and found.total_fscore == alone.total_fscore
    none = swap(a, b, images[3:], samples[3:])
    assert (none.images, none.total_boxes, none.total_fscore) == (0, None, None)
    assert none.summary.startswith("nothing is known") and [share.boxes for share in none.parts] == [None, None]
    json.dumps(none.to_dict(), allow_nan=False)
    unlabelled = swap(a, b, images[:1], [None])
    assert unlabelled.images == 1 and unlabelled.total_fscore is None and "F " not in unlabelled.summary
    with pytest.raises(ValueError, match="5 images but samples of 1"):
        swap(a, b, images, good[:1])


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("no memory")])
def test_an_image_that_does_not_fit_is_told(error, tmp_path):
    sample = scene(tmp_path / "t.png", [(20, (255,) * 3)])
    b = side(level=0.3, refuses=lambda _: True)
    b.runner.error = error
    [line] = swap(side(), b, named([sample])).failed
    assert line.startswith(f"{sample.image}: ") and "make the image smaller" in line


@settings(max_examples=15)
@given(data=st.data())
def test_the_total_is_that_of_the_two_models(tmp_path_factory, data):
    """Whatever differs: the totals are those of A and B as they run, by other code, and the shares add up to them."""
    folder = tmp_path_factory.mktemp("scenes")
    grey = st.integers(150, 255)
    samples = [scene(folder / f"{i}.png", [(y, (data.draw(grey),) * 3) for y in (15, 55, 95)], (200, 120))
               for i in range(2)]
    sides = [side(rule=data.draw(st.sampled_from(RULES)), level=data.draw(st.sampled_from([0.2, 0.3])),
                  pixels=replace(PIXELS, mean=(data.draw(st.sampled_from([128.0, 150.0])),) * 3,
                                 size=data.draw(st.sampled_from([(128, 128), (96, 160)])))) for _ in "ab"]
    found = swap(*sides, named(samples), samples)
    boxes = [[each.detections[0] for each in run(one.runner, samples, one.runner.spec.pixels, [one.rule],
                                                 lambda result: result)] for one in sides]
    keys = [Counter((i, tuple(detection.polygon.ravel().tolist())) for i, image in enumerate(mine)
                    for detection in image) for mine in boxes]
    assert found.total_boxes == ((keys[0] - keys[1]) | (keys[1] - keys[0])).total()
    if found.parts:
        from evaluation.protocols.table import score
        fscores = [score(["rrc"], samples, mine)["rrc"].score.fscore for mine in boxes]
        assert found.total_fscore == pytest.approx(fscores[1] - fscores[0], abs=1e-12)
        assert sum(shares(found).values()) == pytest.approx(found.total_boxes)
        assert sum(shares(found, "fscore").values()) == pytest.approx(found.total_fscore, abs=1e-12)
        back = swap(*reversed(sides), named(samples), samples)
        assert shares(back) == shares(found)
        assert shares(back, "fscore") == pytest.approx({name: -f for name, f in shares(found, "fscore").items()})


def test_rounded_figures_in_the_summary_add_up():
    thirds = [Share(name, "", 1.0, 1 / 3, 0.00003, 1 / 3, 1, 0.0) for name in ("a", "b", "c")]
    assert Attribution(thirds, 1, 3, 0.00009, "rrc", 1).summary == (
        "34 % a, 33 % b, 33 % c of the 3 boxes that differ; F differs by +0.0001: +0.0001 a")
    tiny = Attribution([Share("a", "", 0.0, None, -0.00001, 1.0, 0, 0.0)], 1, 0, -0.00001, "rrc", 1)
    assert tiny.summary == "no box differs; F differs by -1e-05"
    over = [Share("a", "", 12.0, 1.2, None, None, 1), Share("b", "", -2.0, -0.2, None, None, 1)]
    assert Attribution(over, 1, 10).summary == "120 % a, -20 % b of the 10 boxes that differ"


@pytest.mark.long
def test_a_trained_model_under_two_projects(need):
    """PaddleOCR's weights on photographs, as PaddleOCR and as MindOCR prepare images and draw boxes."""
    pytest.importorskip("onnxruntime")
    from dbnet.datasets import icdar2015
    from evaluation.compare_maps import compare_maps
    from evaluation.runners import open_runner
    path, samples = need("weights/db_mv3_icdar15.pdparams"), icdar2015.load(need("data/icdar2015/test"))[:12]
    runners = [open_runner(path, "onnxruntime", stages=("probability",), pixels=name) for name in ("paddle", "mindocr")]
    a, b = (Side(runner, runner.spec.boxes) for runner in runners)
    b = replace(b, rule=replace(b.rule, box_thresh=0.5))
    found = swap(a, b, named(samples), samples)
    assert sorted(shares(found)) == ["box_rule", "box_thresh", "color_order", "resize_rule"] and not found.failed
    boxes = compare_maps(a, b, named(samples)).boxes
    assert found.total_boxes == boxes.a + boxes.b - 2 * boxes.identical > 50
    assert sum(shares(found, "boxes_share").values()) == pytest.approx(1)
    assert sum(shares(found, "fscore").values()) == pytest.approx(found.total_fscore)
    # A network that reads BGR is not itself in RGB; another size moves nearly every corner.
    assert found.parts[0].part == "resize_rule" and shares(found, "fscore")["color_order"] < -0.01
    back = swap(b, a, named(samples), samples)
    assert shares(back) == pytest.approx(shares(found))
    assert back.total_fscore == pytest.approx(-found.total_fscore)
