"""What a recipe means: its network, boxes and pixels, the latter against MindOCR's DetResize worked out here."""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.preprocess import prepare, read_image
from dbnet.recipe import Data, Recipe, read_recipe
from dbnet.recipe_check import complete
from dbnet.recipe_yaml import parse_yaml
from dbnet.record import Record
from dbnet.spec import MINDOCR_BOXES, MINDOCR_PIXELS, MINDOCR_PP_PIXELS, PADDLE_PIXELS, SPECS, PixelFormat

MEAN, STD = (255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)


def recipe(text: str) -> Recipe:
    return Recipe("r", Path("r.yaml"), "r.yaml", *complete(parse_yaml(text, "r.yaml")))


def pipeline(resize: dict, decode: dict | None = None, normalise: dict | None = None) -> Recipe:
    operations = [{"DecodeImage": {"img_mode": "RGB"} if decode is None else decode}, {"DetLabelEncode": None}, resize,
                  {"NormalizeImage": normalise}, {"ToCHWImage": None}]
    return recipe(yaml.safe_dump({"eval": {"dataset": {"transform_pipeline": operations}}}))


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "spec", "pixels"), [
    ("db_mobilenetv3_icdar15", "dbnet_mobilenetv3", MINDOCR_PIXELS),
    ("db_r18_icdar15", "dbnet_resnet18", MINDOCR_PIXELS),
    ("db_r50_icdar15_8p", "dbnet_resnet50", MINDOCR_PIXELS),
    ("dbpp_r50_icdar15_910", "dbnetpp_resnet50", MINDOCR_PP_PIXELS),
    ("db_r50_totaltext", "dbnet_resnet50", replace(MINDOCR_PP_PIXELS, ignore_orientation=True)),
    ("db_r18_td500", "dbnet_resnet18", replace(MINDOCR_PP_PIXELS, size=(800, 800), ignore_orientation=True)),
    ("db_r18_ctw1500", "dbnet_resnet18", replace(MINDOCR_PP_PIXELS, size=(1024, 1024))),
    ("db_r18_synthtext", "dbnet_resnet18", MINDOCR_PIXELS),
])
def test_the_seeds_networks(name, spec, pixels):
    found = read_recipe(name)
    expected = replace(SPECS[spec], pixels=pixels)
    if "eval" in found.settings:
        expected = replace(expected, boxes=replace(
            MINDOCR_BOXES, box_type=found.get("postprocess.box_type"), box_thresh=found.get("postprocess.box_thresh")))
    assert found.spec() == expected
    assert Record.from_json(Record(found.spec(), "mindocr").to_json(), "f").spec == found.spec()


def test_other_widths_and_the_enhanced_backbone():
    enhanced = recipe("model: {backbone: {name: det_mobilenet_v3_enhance}, neck: {out_channels: 96}, "
                      "head: {name: DBHeadEnhance, k: 40}}").spec()
    assert enhanced.semantics() == SPECS["db_mv3_paddle"].semantics() | {"k": 40.0}
    residual = recipe("model: {backbone: {name: det_mobilenet_v3_enhance}, neck: {name: RSEFPN}, "
                      "head: {name: DBHeadEnhance}}").spec()
    assert residual.semantics() == SPECS["db_mv3_ppocrv3"].semantics() | {
        "neck_gate": "hard_sigmoid", "upsampling": "align_corners"}
    wide = recipe("model: {backbone: {name: det_resnet18}, neck: {out_channels: 128, use_asf: True}}").spec()
    assert (wide.backbone, wide.neck_channels, wide.fusion) == ("resnet18", 128, "asf")


@pytest.mark.parametrize(("text", "message"), [
    ("model: {neck: {name: RSEFPN}}", r"r\.yaml:1: model\.neck\.name: RSEFPN goes with det_mobilenet_v3_enhance here"),
    ("model: {backbone: {name: det_mobilenet_v3_enhance}, neck: {name: RSEFPN, shortcut: False}}", "shortcut: False"),
    ("model: {backbone: {name: det_mobilenet_v3_enhance}, neck: {name: RSEFPN, use_asf: True}}", "use_asf: True"),
    ("model: {backbone: {name: det_resnet152}}", "det_resnet152 is not built here; there are det_resnet18"),
    ("model: {backbone: {name: det_mobilenet_v3, alpha: 1.0}}", r"alpha: 1\.0 is not built here, only 0\.5"),
    ("model: {backbone: {name: det_mobilenet_v3, out_stages: [1]}}", r"out_stages: \[1\] is not built"),
    ("model: {backbone: {name: det_mobilenet_v3, bottleneck_params: {always_expand: False}}}", "always_expand: False"),
    ("model: {backbone: {name: det_mobilenet_v3, disable_se: True}}", "disable_se: True"),
    ("model: {backbone: {name: det_mobilenet_v3_enhance, disable_se: False}}", "disable_se: False"),
    ("model: {neck: {bias: True}}", r"model\.neck\.bias: True"),
    ("model: {neck: {use_asf: True, channel_attention: False}}", "channel_attention: False"),
    ("model: {neck: {out_channels: 30}}", "no multiple of 4"),
    ("model: {head: {bias: True}}", r"model\.head\.bias: True"),
    ("model: {head: {name: DBHeadEnhance}}", "goes with det_mobilenet_v3_enhance"),
    ("postprocess: {pred_name: thresh}", "pred_name: boxes are found in the map binary"),
])
def test_what_is_not_built_is_refused_by_name(text, message):
    with pytest.raises(DbnetError, match=message):
        recipe(text).spec()


def test_without_an_evaluation():
    bare = recipe("system: {val_while_train: False}")
    assert bare.spec() == SPECS["dbnet_resnet50"]
    for wanted in ("pixels", "boxes", "eval_data"):
        with pytest.raises(DbnetError, match=r"has no section (eval|postprocess) \(a recipe for training only\)"):
            getattr(bare, wanted)


# Pixels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decode", "normalise", "colour"), [
    ({"img_mode": "RGB"}, {}, "RGB"),
    ({"img_mode": "RGB"}, {"bgr_to_rgb": True}, "BGR"),   # PP-OCRv3's recipe: Paddle's pixels
    ({"img_mode": "BGR"}, {"bgr_to_rgb": True}, "RGB"),
    ({"img_mode": "BGR"}, {"rgb_to_bgr": True}, "RGB"),   # either only swaps
    ({"img_mode": "BGR"}, None, "BGR"),
    ({}, None, "BGR"),                                    # MindOCR's default
])
def test_colours(decode, normalise, colour):
    """mean and std stand in the order in which they are written, whatever the colours."""
    found = pipeline({"DetResize": {"target_size": [64, 64], "keep_ratio": False}}, decode, normalise).pixels
    assert found == PixelFormat(colour, MEAN, STD, "stretch", (64, 64))


def test_numbers_for_mean_and_std():
    found = pipeline({"DetResize": None}, normalise={"mean": [1, 2, 3.5], "std": [255, 255, 255]}).pixels
    assert (found.mean, found.std, found.resize, found.size) == ((1, 2, 3.5), (255, 255, 255), "limit_min", (736, 736))


def test_ppocrv3_takes_paddles_sizes():
    text = "model: {neck: {name: DBFPN}, head: {name: DBHead}}"
    ppocr = read_recipe("db_mobilenetv3_ppocrv3").pixels
    assert ppocr == replace(PADDLE_PIXELS, resize="limit_min")
    assert recipe(text).pixels == MINDOCR_PIXELS


def mindocr_size(height: int, width: int, given: dict) -> tuple[tuple[int, int], tuple[int, int]]:
    """(size of the image, size with padding) by MindOCR's DetResize: FACTS 4, written out for one image."""
    target = given.get("target_size")
    if target and given.get("force_divisable", True):
        target = [max(round(side / 32) * 32, 32) for side in target]
    limit, side = given.get("limit_type", "min"), given.get("limit_side_len", 736)
    if target is None and limit == "min":
        ratio = side / min(height, width) if min(height, width) < side else 1.0
    elif target is None and limit == "max":
        ratio = side / max(height, width) if max(height, width) > side else 1.0
    elif target is None:
        return ((math.ceil(height / 32) * 32, math.ceil(width / 32) * 32),) * 2
    elif not given.get("keep_ratio", True):
        return (tuple(target),) * 2
    else:
        ratio = min(target[0] / height, target[1] / width)
    size = tuple(max(int(round(int(length * ratio) / 32) * 32), 32) for length in (height, width))
    return size, tuple(target) if target and given.get("padding") else size


ARGUMENTS = st.fixed_dictionaries({}, optional={
    "target_size": st.lists(st.integers(32, 300), min_size=2, max_size=2), "keep_ratio": st.booleans(),
    "padding": st.booleans(), "limit_type": st.sampled_from(["min", "max", "none", "None", None]),
    "limit_side_len": st.integers(32, 300), "force_divisable": st.booleans(), "divisor": st.sampled_from([32, 64])})


@settings(max_examples=100)
@given(st.tuples(*[st.integers(1, 400)] * 2).filter(lambda size: max(size) < 6 * min(size)), ARGUMENTS)
def test_every_pixel_is_mindocrs_or_the_recipe_is_refused(size, given):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    target, limited = given.get("target_size"), given.get("limit_type", "min") in ("min", "max")
    pixels = None
    with contextlib.suppress(DbnetError):
        pixels = pipeline({"DetResize": given}).pixels
    if pixels is None:
        forced = given.get("force_divisable", True)
        assert (given.get("divisor") == 64 or (target is None and not limited and not forced)
                or (not forced and any(side % 32 for side in target)))
        return
    if given.pop("divisor", 32) == 64:
        given["target_size"] = [max(round(side / 64) * 64, 64) for side in target] if given.get(
            "force_divisable", True) else target
    resized, padded = mindocr_size(*size, given)
    prepared = prepare(image, pixels)
    assert (prepared.resized_size, prepared.tensor.shape[2:]) == (resized, padded)
    expected = np.zeros((*padded, 3), np.uint8)
    expected[:resized[0], :resized[1]] = cv2.resize(image[..., ::-1].copy(), resized[::-1])
    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
    np.testing.assert_array_equal(prepared.tensor[0], ((expected.astype(np.float32) - mean) / std).transpose(2, 0, 1))


@pytest.mark.parametrize(("given", "image", "size"), [
    ({"limit_type": "min"}, (720, 1280), (736, 1312)),
    ({"limit_type": "min", "limit_side_len": 500}, (720, 1280), (704, 1280)),   # not shrunk; 22.5 strides round to even
    ({"limit_type": "max", "limit_side_len": 960}, (1000, 2000), (480, 960)),
    ({"limit_type": "max", "limit_side_len": 960}, (100, 200), (96, 192)),      # not enlarged
    ({"limit_type": None}, (33, 64), (64, 64)),
    ({"target_size": [800, 800]}, (500, 1000), (384, 800)),                     # 12.5 strides round to even
    ({"target_size": [810, 790], "keep_ratio": False}, (5, 5), (800, 800)),     # both to the next multiple of 32
])
def test_sizes(given, image, size):
    prepared = prepare(np.zeros((*image, 3), np.uint8), pipeline({"DetResize": given}).pixels)
    assert prepared.tensor.shape[2:] == size


def test_the_other_two_resizes():
    assert pipeline({"GridResize": None}).pixels.resize == "grid"
    assert pipeline({"ScalePadImage": {"target_size": [736, 1280]}}).pixels == replace(
        MINDOCR_PIXELS, resize="keep_ratio_pad")


@pytest.mark.parametrize(("operations", "message"), [
    ("[{DetResize: }, {NormalizeImage: }, {ToCHWImage: }]", "has no DecodeImage"),
    ("[{DecodeImage: }, {NormalizeImage: }, {ToCHWImage: }]", "has no DetResize"),
    ("[{DecodeImage: }, {DetResize: }, {ToCHWImage: }]", "has no NormalizeImage"),
    ("[{DecodeImage: }, {DetResize: }, {NormalizeImage: }]", "has no ToCHWImage"),
    ("[{DecodeImage: }, {NormalizeImage: }, {DetResize: }, {ToCHWImage: }]", r"\[2\]: DetResize cannot stand here"),
    ("[{DecodeImage: }, {DetResize: }, {GridResize: }, {NormalizeImage: }, {ToCHWImage: }]", "GridResize cannot"),
    ("[{DecodeImage: }, {RandomScale: {scale_range: [1, 2]}}, {DetResize: }]", "RandomScale cannot stand here"),
    ("[{DecodeImage: {to_float32: True}}, {DetResize: }, {NormalizeImage: }, {ToCHWImage: }]", "to_float32: True is"),
    ("[{DecodeImage: {channel_first: True}}, {DetResize: }, {NormalizeImage: }, {ToCHWImage: }]", "channel_first: T"),
    ("[{DecodeImage: }, {DetResize: {interpolation: 2}}, {NormalizeImage: }, {ToCHWImage: }]", "interpolation: 2 is"),
    ("[{DecodeImage: }, {GridResize: {factor: 16}}, {NormalizeImage: }, {ToCHWImage: }]", "divisor: 16 is not"),
    ("[{DecodeImage: }, {ScalePadImage: {target_size: [100, 64]}}, {NormalizeImage: }, {ToCHWImage: }]", "multiple of"),
    ("[{DecodeImage: }, {DetResize: }, {NormalizeImage: {is_hwc: False}}, {ToCHWImage: }]", "is_hwc: False is not"),
    ("[{DecodeImage: }, {DetResize: }, {NormalizeImage: {std: [1, 0, 1]}}, {ToCHWImage: }]", "divides by zero"),
])
def test_pixels_that_are_not_reproduced_are_refused_by_name(operations, message):
    with pytest.raises(DbnetError, match=message) as error:
        _ = recipe(f"eval: {{dataset: {{transform_pipeline: {operations}}}}}").pixels
    assert str(error.value).startswith("r.yaml")


def test_an_image_stays_as_it_is_stored(tmp_path):
    """EXIF 6 says to turn it by a quarter; IMREAD_IGNORE_ORIENTATION is what MindOCR's ignore_orientation sets."""
    jpeg = cv2.imencode(".jpg", np.zeros((16, 32, 3), np.uint8))[1].tobytes()
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    assert read_image(tmp_path / "turned.jpg").shape == (32, 16, 3)
    assert read_image(tmp_path / "turned.jpg", ignore_orientation=True).shape == (16, 32, 3)
    assert pipeline({"GridResize": None}, {"ignore_orientation": True}).pixels.ignore_orientation


# Data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "data"), [
    ("{data_dir: a, label_file: b.txt}", [("b.txt", "a", 1.0)]),
    ("{dataset_root: /d, data_dir: a, label_file: b.txt, sample_ratio: 0.5}", [("/d/b.txt", "/d/a", 0.5)]),
    ("{dataset_root: /d, data_dir: /e/a, label_file: b.txt}", [("/d/b.txt", "/e/a", 1.0)]),
    ("{data_dir: [a, b], label_file: [c, d], sample_ratio: [1, 0]}", [("c", "a", 1.0), ("d", "b", 0.0)]),
    ("{data_dir: a, label_file: [c, d]}", [("c", "a", 1.0), ("d", "a", 1.0)]),
])
def test_data(text, data):
    found = recipe(f"eval: {{dataset: {text}}}").eval_data
    assert [(str(one.label_file), str(one.images), one.ratio) for one in found] == data
    assert isinstance(found[0], Data)


@pytest.mark.parametrize(("text", "message"), [
    ("{label_file: b.txt}", r"eval\.dataset\.data_dir is not set; add it, or give -o eval\.dataset\.data_dir="),
    ("{data_dir: a}", r"eval\.dataset\.label_file is not set"),
    ("{data_dir: a, label_file: ''}", r"eval\.dataset\.label_file is not set"),
    ("{data_dir: [a, b], label_file: [c]}", "data_dir lists 2, label_file 1"),
    ("{data_dir: a, label_file: [c, d], sample_ratio: [1]}", "sample_ratio lists 1, label_file 2"),
])
def test_data_that_does_not_fit(text, message):
    with pytest.raises(DbnetError, match=message):
        _ = recipe(f"eval: {{dataset: {text}}}").eval_data


def test_root():
    found = recipe("eval: {dataset: {dataset_root: /x, data_dir: a, label_file: b}}").with_root("/y")
    assert str(found.eval_data[0].images) == "/y/a"
    assert found.origins["eval.dataset.dataset_root"] == "command line"
    assert "eval" not in read_recipe("db_r18_synthtext").with_root("/y").settings
