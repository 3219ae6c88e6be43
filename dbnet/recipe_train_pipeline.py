"""`train.dataset.transform_pipeline` of a recipe: what is done to an image, and the maps that are made of its texts.

Defaults of arguments are MindOCR's (mindocr/data/transforms/general_transforms.py, det_transforms.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbnet.augment import ORDER, Augmentation
from dbnet.errors import DbnetError
from dbnet.spec import IMAGENET_MEAN, IMAGENET_STD, STRIDE, Colour
from dbnet.training_set import TargetSettings

if TYPE_CHECKING:
    from dbnet.recipe import Recipe

PATH = "train.dataset.transform_pipeline"
_CROP = "RandomCropWithBBox"
#: The random steps that move pixels -> their names in `Augmentation.order`. Colour is changed pixel by pixel, so its
#: place among them does not matter.
_MOVES = {"RandomHorizontalFlip": "flip", "RandomRotate": "rotate", "RandomScale": "scale", _CROP: "crop"}
#: Stages that must stand in this order, by MindOCR's and MindSpore's names, with the random steps after the first two.
_ORDER = (("DecodeImage", "Decode"), ("DetLabelEncode",), ("RandomColorAdjust", *_MOVES), ("ValidatePolygons",),
          ("ShrinkBinaryMap", "BorderMap"), ("NormalizeImage", "Normalize"), ("ToCHWImage", "HWC2CHW"))
_KNOWN = tuple(name for names in _ORDER for name in names)


@dataclass(frozen=True)
class TrainingPipeline:
    """augmentation, targets: the random steps and the maps. colour, mean, std: of the pixels that the network is given,
    as in `dbnet.spec.PixelFormat`. ignore_orientation: images stay as they are stored, whatever their EXIF says."""

    augmentation: Augmentation
    targets: TargetSettings
    colour: Colour
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    ignore_orientation: bool = False


Steps = dict[str, tuple[str, dict[str, Any]]]


def training_pipeline(recipe: Recipe) -> TrainingPipeline:
    """Raises DbnetError, by name, for operations, orders and arguments that are not reproduced here."""
    steps = _steps(recipe)
    swapped, mean, std = _normalised(*_needed(recipe, steps, "NormalizeImage", "Normalize"))
    rgb, as_stored = _decoded(*_needed(recipe, steps, "DecodeImage", "Decode"))
    _needed(recipe, steps, "ToCHWImage", "HWC2CHW")
    return TrainingPipeline(_augmentation(recipe, steps), _targets(recipe, steps), "RGB" if rgb != swapped else "BGR",
                            mean, std, as_stored)


def _steps(recipe: Recipe) -> Steps:
    """name -> where it stands and its arguments, in the recipe's order."""
    steps: Steps = {}
    last = 0
    for i, operation in enumerate(recipe.get(PATH)):
        [(name, arguments)] = operation.items()
        where = f"{recipe.where(f'{PATH}[{i}]')}: {name}"
        if name not in _KNOWN:
            raise DbnetError(f"{where} is not supported in training; there are {', '.join(_KNOWN)}")
        place = next(place for place, names in enumerate(_ORDER) if name in names)
        if name in steps:
            raise DbnetError(f"{where} comes twice")
        if place < last:
            raise DbnetError(f"{where} cannot stand here; training takes, in this order, "
                             f"{', '.join(names[0] if len(names) < 3 else '/'.join(names) for names in _ORDER)}")
        expands = name == "RandomRotate" and (arguments or {}).get("expand_canvas", True)
        if _CROP in steps and (expands or name == "RandomScale"):
            raise DbnetError(f"{where}{' with expand_canvas' * expands} behind {_CROP} is not supported, only before "
                             f"it")
        last = place
        steps[name] = where, arguments or {}
    return steps


def _needed(recipe: Recipe, steps: Steps, *names: str) -> tuple[str, dict[str, Any]]:
    found = next((steps[name] for name in names if name in steps), None)
    if found is None:
        raise DbnetError(f"{recipe.where(PATH)}: has no {names[0]}, which training needs")
    return found


def _only(where: str, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if given.get(name, value) != value:
            raise DbnetError(f"{where}: {name}: {given[name]} is not supported, only {value}")


def _decoded(where: str, given: dict[str, Any]) -> tuple[bool, bool]:
    """Whether RGB, and whether as stored. MindSpore's own Decode takes no arguments, gives RGB, and turns nothing."""
    _only(where, given, {"channel_first": False, "to_float32": False, "keep_ori": False})
    if where.endswith(": Decode"):
        return True, True
    return given.get("img_mode", "BGR") == "RGB", given.get("ignore_orientation", False)


def _normalised(where: str, given: dict[str, Any]) -> tuple[bool, Any, Any]:
    """Whether the channels change places before; mean and std in units of 0..255."""
    _only(where, given, {"is_hwc": True})
    named = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    mean, std = (named[key] if isinstance(value := given.get(key, "imagenet"), str) else tuple(map(float, value))
                 for key in ("mean", "std"))
    if not all(std):
        raise DbnetError(f"{where}: std {std} divides by zero")
    return bool(given.get("bgr_to_rgb") or given.get("rgb_to_bgr")), mean, std


def _augmentation(recipe: Recipe, steps: Steps) -> Augmentation:
    """A step that is not there does not happen."""
    values: dict[str, Any] = {"brightness": 0.0, "saturation": 0.0, "flip_p": 0.0, "rotate_p": 0.0, "scale_p": 0.0}
    for name, (where, given) in steps.items():
        if name == "RandomColorAdjust":
            _only(where, {key: _spread(where, key, value) for key, value in given.items()}, {"contrast": 0, "hue": 0})
            values |= {"brightness": _spread(where, "brightness", given.get("brightness", 32 / 255)),
                       "saturation": _spread(where, "saturation", given.get("saturation", 0.5))}
        elif name == "RandomHorizontalFlip":
            values["flip_p"] = float(given.get("p", 0.5))
        elif name == "RandomRotate":
            values |= {"rotate": _angles(where, given), "rotate_p": float(given.get("p", 1.0)),
                       "expand_canvas": given.get("expand_canvas", True)}
        elif name == "RandomScale":
            low, high = sorted(given["scale_range"])
            limits = given.get("size_limits")
            values |= {"scale": (float(low), float(high)), "scale_p": float(given.get("p", 0.5)),
                       "size_limits": tuple(sorted(limits)) if limits else None}
    where, given = _needed(recipe, steps, _CROP)
    height, width = given.get("crop_size", [640, 640])
    if height % STRIDE or width % STRIDE:
        raise DbnetError(f"{where}: crop_size [{height}, {width}] is no multiple of {STRIDE}, which the network needs")
    _, polygons = steps.get("ValidatePolygons", ("", {}))
    present = [_MOVES[name] for name in steps if name in _MOVES]
    values["order"] = (*(step for step in ORDER if step not in present), *present)
    return Augmentation(**values, crop_size=(height, width), crop_p=float(given.get("p", 0.5)),
                        max_tries=given.get("max_tries", 10), min_crop_ratio=float(given.get("min_crop_ratio", 0.1)),
                        min_area=float(polygons.get("min_area", 1.0)))


def _spread(where: str, name: str, value: Any) -> float:
    """How far a factor is drawn from 1; of hue, an angle from 0."""
    if not isinstance(value, list):
        return float(value)
    low, high = value
    middle = 0 if name == "hue" else 1
    if abs((low + high) / 2 - middle) > 1e-9 or high < low:
        raise DbnetError(f"{where}: {name}: {value} is not supported, only a range that lies around {middle}")
    return float(high - middle)


def _angles(where: str, given: dict[str, Any]) -> tuple[int, int]:
    low, high = given.get("degrees", [-10, 10])
    if int(low) != low or int(high) != high or low > high:
        raise DbnetError(f"{where}: degrees: {[low, high]} is not supported, only whole degrees in rising order")
    return int(low), int(high)


def _targets(recipe: Recipe, steps: Steps) -> TargetSettings:
    _only(*steps.get("ValidatePolygons", ("", {})), {"clip_to_visible_area": False})
    _, shrink = _needed(recipe, steps, "ShrinkBinaryMap")
    where, border = _needed(recipe, steps, "BorderMap")
    if list(steps).index("BorderMap") < list(steps).index("ShrinkBinaryMap"):
        raise DbnetError(f"{where}: BorderMap before ShrinkBinaryMap is not supported, only after it: it is to leave "
                         f"out the texts that are too small")
    low, high = float(border.get("thresh_min", 0.3)), float(border.get("thresh_max", 0.7))
    if low >= high:
        raise DbnetError(f"{where}: thresh_min {low:g} must be below thresh_max {high:g}")
    for name, given in (("ShrinkBinaryMap", shrink), ("BorderMap", border)):
        if given.get("shrink_ratio", 0.4) >= 1:
            raise DbnetError(f"{steps[name][0]}: shrink_ratio must be below 1, or nothing shrinks")
    return TargetSettings(float(shrink.get("shrink_ratio", 0.4)), float(border.get("shrink_ratio", 0.4)),
                          float(shrink.get("min_text_size", 8)), low, high)
