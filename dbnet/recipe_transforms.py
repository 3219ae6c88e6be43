"""The operations of a `transform_pipeline` by their names in MindOCR, their arguments, and the seed's pipelines."""

from __future__ import annotations

from typing import Any

from dbnet.recipe_kinds import (
    Kind,
    anything,
    boolean,
    choice,
    either,
    fraction,
    integer,
    null,
    number,
    optional,
    sequence,
    text,
)

_SIDE = integer(1)
_PAIR = sequence(number(), 2)
_SIZE = sequence(_SIDE, 2)
_JITTER = either(number(0), sequence(number(0), 2))
_THREE = either(choice("imagenet", fold=True), sequence(number(), 3))

#: name -> argument -> kind. No argument must be given but where MindOCR has no default (`NEEDED`).
TRANSFORMS: dict[str, dict[str, Kind]] = {
    "DecodeImage": {"img_mode": choice("RGB", "BGR"), "channel_first": boolean, "to_float32": boolean,
                    "ignore_orientation": boolean, "keep_ori": boolean},
    "DetLabelEncode": {},
    "RandomColorAdjust": {"brightness": _JITTER, "contrast": _JITTER, "saturation": _JITTER,
                          "hue": either(number(0, 0.5), sequence(number(-0.5, 0.5), 2))},
    "RandomHorizontalFlip": {"p": fraction},
    "RandomRotate": {"degrees": _PAIR, "expand_canvas": boolean, "p": fraction},
    "RandomScale": {"scale_range": sequence(number(above=0), 2), "size_limits": optional(_SIZE), "p": fraction},
    "RandomCropWithBBox": {"max_tries": integer(1), "min_crop_ratio": fraction, "crop_size": _SIZE, "p": fraction},
    "RandomCropWithMask": {"size": _SIZE, "main_key": text, "crop_keys": sequence(text), "p": fraction},
    "ValidatePolygons": {"min_area": number(0), "clip_to_visible_area": boolean, "min_vertices": integer(3)},
    "ShrinkBinaryMap": {"min_text_size": number(0), "shrink_ratio": fraction},
    "BorderMap": {"shrink_ratio": fraction, "thresh_min": fraction, "thresh_max": fraction},
    "DetResize": {"target_size": optional(_SIZE), "keep_ratio": boolean, "padding": boolean,
                  "limit_type": either(choice("min", "max", "none", "None"), null),
                  "limit_side_len": _SIDE, "force_divisable": boolean, "divisor": _SIDE, "interpolation": integer(0)},
    "GridResize": {"factor": _SIDE},
    "ScalePadImage": {"target_size": _SIZE},
    "NormalizeImage": {"bgr_to_rgb": boolean, "rgb_to_bgr": boolean, "is_hwc": boolean, "mean": _THREE, "std": _THREE},
    "ToCHWImage": {},
    # MindSpore's own operators, which stood in the seed's files for a while:
    "Decode": {},
    "Normalize": {"mean": sequence(number(), 3), "std": sequence(number(), 3), "is_hwc": boolean},
    "HWC2CHW": {},
    # The first files:
    "IaaAugment": {"Fliplr": anything, "Affine": anything, "Resize": anything},
}
#: Arguments that MindOCR has no default for.
NEEDED = {"RandomScale": ("scale_range",), "RandomCropWithMask": ("size", "main_key", "crop_keys"),
          "ScalePadImage": ("target_size",), "Normalize": ("mean", "std")}

_DECODE = {"DecodeImage": {"img_mode": "RGB", "to_float32": False}}
_NORMALISE = {"NormalizeImage": {"bgr_to_rgb": False, "is_hwc": True, "mean": "imagenet", "std": "imagenet"}}
_AUGMENT: list[dict[str, Any]] = [
    {"RandomColorAdjust": {"brightness": 0.1255, "saturation": 0.5}},
    {"RandomHorizontalFlip": {"p": 0.5}},
    {"RandomRotate": {"degrees": [-10, 10], "expand_canvas": False, "p": 1.0}},
    {"RandomScale": {"scale_range": [0.5, 3.0], "p": 1.0}},
    {"RandomCropWithBBox": {"max_tries": 10, "min_crop_ratio": 0.1, "crop_size": [640, 640], "p": 1.0}},
    {"ValidatePolygons": None},
    {"ShrinkBinaryMap": {"min_text_size": 8, "shrink_ratio": 0.4}},
    {"BorderMap": {"shrink_ratio": 0.4, "thresh_min": 0.3, "thresh_max": 0.7}},
]
#: What most of the seed's recipes train with.
TRAIN_PIPELINE = [_DECODE, {"DetLabelEncode": None}, *_AUGMENT, _NORMALISE, {"ToCHWImage": None}]
#: SynthText's labels come decoded from its gt.mat.
SYNTHTEXT_PIPELINE = [_DECODE, *_AUGMENT, _NORMALISE, {"ToCHWImage": None}]
#: ICDAR 2015's.
EVAL_PIPELINE = [
    _DECODE, {"DetLabelEncode": None},
    {"DetResize": {"target_size": [736, 1280], "keep_ratio": False, "limit_type": "none", "divisor": 32}},
    _NORMALISE, {"ToCHWImage": None}]
