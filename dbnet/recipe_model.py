"""What a recipe means here: its network, its pixels, its boxes. What cannot be had exactly is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dbnet.errors import DbnetError
from dbnet.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MINDOCR_BOXES,
    SPECS,
    STRIDE,
    BoxRule,
    ModelSpec,
    PixelFormat,
    ResizeRule,
    with_semantics,
)

if TYPE_CHECKING:
    from dbnet.recipe import Recipe

#: model.backbone.name -> the spec that it is here, and what else must stand under model.backbone then.
_BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "det_resnet18": ("dbnet_resnet18", {}),
    "det_resnet50": ("dbnet_resnet50", {}),
    "det_mobilenet_v3": ("dbnet_mobilenetv3", {
        "architecture": "large", "alpha": 0.5, "out_stages": [5, 8, 14, 20], "disable_se": False,
        "bottleneck_params.se_version": "SqueezeExciteV2", "bottleneck_params.always_expand": True}),
    "det_mobilenet_v3_enhance": ("db_mv3_paddle", {"architecture": "large", "alpha": 0.5, "disable_se": True}),
}
#: What MindOCR's RSEFPN computes other than PaddleOCR's, which `db_mv3_ppocrv3` is by itself.
_RSEFPN = {"neck_gate": "hard_sigmoid", "upsampling": "align_corners"}
#: The order in which evaluation does things, by MindOCR's and MindSpore's names. Decode gives what OpenCV gives in RGB
#: without turning by EXIF, Normalize what NormalizeImage gives, both bit for bit (MindSpore 2.10).
_ORDER = (("DecodeImage", "Decode"), ("DetLabelEncode",), ("DetResize", "GridResize", "ScalePadImage"),
          ("NormalizeImage", "Normalize"), ("ToCHWImage", "HWC2CHW"))
_LINEAR = 1  # cv2.INTER_LINEAR


def network(recipe: Recipe) -> ModelSpec:
    """The spec of `model`, with the pixels and boxes of its kind. Raises DbnetError for what is not built here."""
    backbone, neck = recipe.get("model.backbone.name"), recipe.get("model.neck.name")
    if backbone not in _BACKBONES:
        raise DbnetError(f"{recipe.where('model.backbone.name')}: {backbone} is not built here; there are "
                         f"{', '.join(_BACKBONES)}")
    name, wanted = _BACKBONES[backbone]
    wanted = {f"model.backbone.{key}": value for key, value in wanted.items()}
    wanted |= {"model.neck.bias": False, "model.head.bias": False, "model.head.serial": False}
    if neck == "RSEFPN":
        if name != "db_mv3_paddle":
            raise DbnetError(f"{recipe.where('model.neck.name')}: RSEFPN goes with det_mobilenet_v3_enhance here")
        name = "db_mv3_ppocrv3"
        wanted |= {"model.neck.shortcut": True, "model.neck.use_asf": False}
    asf = recipe.get("model.neck.use_asf")
    for path, value in (wanted | ({"model.neck.channel_attention": True} if asf else {})).items():
        found = recipe.get(path, None if path.startswith("model.backbone.bottleneck") else value)
        if found != value and found is not None:
            raise DbnetError(f"{recipe.where(path)}: {found} is not built here, only {value}")
    if recipe.get("model.head.name") == "DBHeadEnhance" and backbone != "det_mobilenet_v3_enhance":
        raise DbnetError(f"{recipe.where('model.head.name')}: DBHeadEnhance goes with det_mobilenet_v3_enhance here")
    channels = recipe.get("model.neck.out_channels")
    if channels % 4:
        raise DbnetError(f"{recipe.where('model.neck.out_channels')}: {channels} is no multiple of 4")
    if asf and name == "dbnet_resnet50":
        name = "dbnetpp_resnet50"
    return with_semantics(SPECS[name], {"neck_channels": channels, "k": float(recipe.get("model.head.k")),
                                        "fusion": "asf" if asf else "concat", **(_RSEFPN if neck == "RSEFPN" else {})})


def box_rule(recipe: Recipe) -> BoxRule:
    """MindOCR's rule with the thresholds of `postprocess`."""
    recipe.need("postprocess")
    if recipe.get("postprocess.pred_name") != "binary":
        raise DbnetError(f"{recipe.where('postprocess.pred_name')}: boxes are found in the map binary here")
    polygons = recipe.get("postprocess.output_polygon", False)
    box_type = recipe.get("postprocess.box_type", "poly" if polygons else "quad")
    return replace(MINDOCR_BOXES, box_type=box_type, binary_thresh=float(recipe.get("postprocess.binary_thresh")),
                   box_thresh=float(recipe.get("postprocess.box_thresh")),
                   unclip_ratio=float(recipe.get("postprocess.expand_ratio")),
                   max_candidates=recipe.get("postprocess.max_candidates"))


def pixel_format(recipe: Recipe) -> PixelFormat:
    """Of the operations in `eval.dataset.transform_pipeline`, as MindOCR computes them."""
    recipe.need("eval")
    path = "eval.dataset.transform_pipeline"
    stages: list[tuple[str, str, dict[str, Any]]] = []
    for i, operation in enumerate(recipe.get(path)):
        [(name, arguments)] = operation.items()
        place = next((place for place, names in enumerate(_ORDER) if name in names), None)
        if place is None or (stages and _place(stages[-1][1]) >= place):
            raise DbnetError(f"{recipe.where(f'{path}[{i}]')}: {name} cannot stand here; evaluation takes "
                             f"{', '.join(names[0] for names in _ORDER)}, in this order")
        stages.append((f"{path}[{i}]", name, arguments or {}))
    found = {_place(name): (recipe.where(place), name, arguments) for place, name, arguments in stages}
    for place in (0, 2, 3, 4):
        if place not in found:
            raise DbnetError(f"{recipe.where(path)}: has no {_ORDER[place][0]}, which evaluation needs")
    rgb, turned = _decoded(*found[0])
    resize, size = _resized(*found[2])
    swapped, mean, std = _normalised(*found[3])
    return PixelFormat("RGB" if rgb != swapped else "BGR", mean, std, resize, size, ignore_orientation=not turned)


def _place(name: str) -> int:
    return next(place for place, names in enumerate(_ORDER) if name in names)


def _decoded(where: str, name: str, given: dict[str, Any]) -> tuple[bool, bool]:
    """Whether RGB, and whether turned as EXIF says."""
    if name == "Decode":
        return True, False
    _only(where, name, given, {"channel_first": False, "to_float32": False})
    return given.get("img_mode", "BGR") == "RGB", not given.get("ignore_orientation", False)


def _normalised(where: str, name: str, given: dict[str, Any]) -> tuple[bool, Any, Any]:
    """Whether the channels change places before, mean and std in units of 0..255."""
    _only(where, name, given, {"is_hwc": True})
    named = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    mean, std = (named[key] if isinstance(value := given.get(key, "imagenet"), str) else tuple(map(float, value))
                 for key in ("mean", "std"))
    if not all(std):
        raise DbnetError(f"{where}.{name}: std {std} divides by zero")
    return bool(given.get("bgr_to_rgb") or given.get("rgb_to_bgr")), mean, std


def _resized(where: str, name: str, given: dict[str, Any]) -> tuple[ResizeRule, tuple[int, int]]:
    """MindOCR `DetResize` by its arguments and their defaults; the other two are special cases of it."""
    if name == "GridResize":
        given = {"keep_ratio": False, "limit_type": None, "divisor": given.get("factor", STRIDE)}
    elif name == "ScalePadImage":
        given = {**given, "keep_ratio": True, "padding": True, "force_divisable": False}
    _only(where, name, given, {"interpolation": _LINEAR})
    target, limit, divisor = given.get("target_size"), given.get("limit_type", "min"), given.get("divisor", STRIDE)
    forced = given.get("force_divisable", True)
    if target is None and limit in ("min", "max"):
        _only(where, name, given, {"divisor": STRIDE})
        side = given.get("limit_side_len", 736)
        return ("limit_min" if limit == "min" else "limit_max"), (side, side)
    if target is None:
        _only(where, name, given, {"divisor": STRIDE, "force_divisable": True})
        return "grid", (STRIDE, STRIDE)
    if forced:
        target = [max(round(side / divisor) * divisor, divisor) for side in target]
    if any(side % STRIDE for side in target):
        raise DbnetError(f"{where}.{name}: target_size {target} is no multiple of {STRIDE}, which the network needs")
    size = (target[0], target[1])
    if not given.get("keep_ratio", True):
        return "stretch", size
    if given.get("padding", False):
        return "keep_ratio_pad", size
    _only(where, name, given, {"divisor": STRIDE})
    return "keep_ratio", size


def _only(where: str, name: str, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if given.get(key, value) != value:
            raise DbnetError(f"{where}.{name}: {key}: {given[key]} is not reproduced here, only {value}")
