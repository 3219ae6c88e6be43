"""What a DBNet is, in any framework: its parts, and every choice that decides its numbers.

Two files with the same names and shapes can be different detectors (padding of the stem's pooling, the gate of the
squeeze-and-excitation, the order of the colours). A `ModelSpec` therefore names the semantics beside the sizes, and
travels with the weights (`dbnet.record`). The same weights under another rule are `dataclasses.replace(spec, ...)`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from dbnet.errors import DbnetError, shown

#: Every named stage of the evaluation graph, in the order in which it is computed. c2..c5: backbone maps at strides
#: 4, 8, 16, 32; p2..p5: outputs of the neck's `out` convolutions at the same strides, before upsampling; fused: the
#: neck's output at stride 4; logits: the head's last transposed convolution; probability: its sigmoid, at stride 1.
STAGES = ("c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "fused", "logits", "probability")
#: What training computes on top (both at stride 1): the threshold map and the approximate binary map.
TRAINING_STAGES = ("threshold", "binary")
#: Height and width of an input must be multiples of this (the stride of c5).
STRIDE = 32
#: The width of a neck is a multiple of the first, for it joins four maps, and at most the second, which is four times
#: what anybody publishes.
NECK_UNIT, WIDEST_NECK = 4, 1024

Backbone = Literal["resnet18", "resnet50", "mobilenetv3"]
Padding = Literal["same", "symmetric"]
SeGate = Literal["none", "sigmoid", "hard_sigmoid", "hard_sigmoid_0.2"]
Neck = Literal["dbfpn", "rsefpn"]
Fusion = Literal["concat", "asf", "asf_spatial"]
Upsampling = Literal["floor", "align_corners", "rounded"]
FirstShortcut = Literal["identity", "projection"]
Deformable = Literal["none", "modulated"]
Offsets = Literal["strided", "mhliao"]
StepFunction = Literal["paper", "mindocr"]
Colour = Literal["RGB", "BGR"]
ResizeRule = Literal["stretch", "keep_ratio_pad", "short_side", "short_side_min", "keep_ratio", "limit_min",
                     "limit_max", "grid", "fit_pad_after"]
BoxRuleName = Literal["mindocr", "mhliao", "paddle", "mmocr", "opencv"]
BoxType = Literal["quad", "poly"]
ScoreMode = Literal["fast", "slow"]


@dataclass(frozen=True)
class PixelFormat:
    """How an 8-bit image becomes the network's input: (x - mean) / std per channel, channels in the order `colour`.

    mean, std: in units of 0..255, already in the order of `colour`.
    resize: `stretch` to `size` (height, width); `keep_ratio_pad` into `size`, padded bottom/right with zeros before
      normalisation (MindOCR); `short_side`: the shorter side becomes size[0], the longer is rounded up to /32
      (MhLiao/DB); `short_side_min`: enlarged only if the shorter side is below size[0], sides rounded to /32 (Paddle).
      MindOCR's other ways, sides rounded to /32: `keep_ratio` into `size` without padding; `limit_min`, the sizes of
      `short_side_min`; `limit_max`: shrunk only if the longer side is above size[0]; `grid`: not scaled but to the
      next /32, whatever `size` says. `fit_pad_after`: the shorter side at most size[0] and the longer one at most
      size[1], padded bottom/right to /32 with zeros after normalisation (MMOCR).
    ignore_orientation: the image stays as it is stored, whatever its EXIF orientation says.
    """

    colour: Colour
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: ResizeRule
    size: tuple[int, int]
    ignore_orientation: bool = False


@dataclass(frozen=True)
class BoxRule:
    """The published defaults for turning a probability map into boxes: whose rule, and its thresholds (fractions).

    score_mode, dilation: PaddleOCR's `det_db_score_mode` and `use_dilation`; the other rules have no such choice.
    """

    rule: BoxRuleName
    box_type: BoxType
    binary_thresh: float
    box_thresh: float
    unclip_ratio: float
    max_candidates: int
    score_mode: ScoreMode = "fast"
    dilation: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """One detector. `name` says which entry of SPECS it was derived from; the other fields say what it computes.

    backbone: `resnet18`, `resnet50` or `mobilenetv3` (MobileNetV3-large, width 0.5).
    neck_channels: width of DBFPN; a quarter of it is the width of each p2..p5 and of the head.
    fusion: `concat` (DBNet), `asf` (DBNet++, adaptive scale fusion) or `asf_spatial` (without its attention over the
      channels: PaddleOCR's DB++, MindOCR's `channel_attention=False`).
    stem_pool: ResNet's 3x3 stride 2 max-pool pads `same` (MindOCR: bottom/right only) or `symmetric` (the originals).
    depthwise_padding: MobileNetV3's depthwise convolutions pad `same` (MindOCR) or `symmetric` (Paddle, torch).
    se_gate: MobileNetV3's squeeze-and-excitation: `none`, `sigmoid` (MindOCR), `hard_sigmoid` (slope 1/6: torch) or
      `hard_sigmoid_0.2` (slope 0.2: Paddle).
    step_function: training only. `paper`: sigmoid(k (P - T)); `mindocr`: sigmoid(k P - T).
    k: amplifying factor of the step function. norm_eps: epsilon of every batch norm.
    deformable: ResNet's conv2 in every block of layer2..layer4 is plain (`none`) or a modulated deformable convolution
      (DCNv2, arXiv:1811.11168), whose offsets and masks a 3x3 convolution `conv2_offset` computes from the same map.
    offsets: what that convolution does where conv2 has a stride, which only a Bottleneck's has. `strided`: it has the
      same stride (DCNv2, MMOCR). `mhliao`: it has stride 1, and the first quarter of each image's offsets and masks,
      as they lie in memory, is taken for maps of the output's size (MhLiao/DB and EasyOCR, whose weights were trained
      so: github.com/MhLiao/DB/issues/250).
    first_shortcut: of ResNet-18's layer1, whose shape does not change. `identity`, or `projection`: a convolution as
      before the other layers (PaddleOCR's ResNet-18).
    neck: `dbfpn`, or `rsefpn` of PP-OCRv3, whose convolutions are followed by a residual squeeze-and-excitation with
      the gate `neck_gate`: `hard_sigmoid_0.2` (Paddle) or `hard_sigmoid` (MindOCR).
    upsampling: how the neck enlarges. `floor`: every pixel becomes a square (Paddle, and every project's DBFPN);
      `align_corners`: the corners' centres stay where they are (MindOCR's RSEFPN); `rounded`: squares that lie
      factor / 2 - 1 pixels further up and left (an older .onnx of Paddle2ONNX, as PP-OCRv2's).
    """

    name: str
    backbone: Backbone
    neck_channels: int
    fusion: Fusion
    stem_pool: Padding
    depthwise_padding: Padding
    se_gate: SeGate
    step_function: StepFunction
    k: float
    norm_eps: float
    pixels: PixelFormat
    boxes: BoxRule
    # Fields with defaults came with later versions; records of earlier ones lack them.
    deformable: Deformable = "none"
    offsets: Offsets = "strided"
    neck: Neck = "dbfpn"
    neck_gate: SeGate = "hard_sigmoid_0.2"
    upsampling: Upsampling = "floor"
    first_shortcut: FirstShortcut = "identity"

    def semantics(self) -> dict[str, Any]:
        """The fields that decide the network's numbers (plain values; no name, pixels or boxes)."""
        return {name: getattr(self, name) for name in SEMANTIC_FIELDS}

    def relevant_semantics(self) -> dict[str, Any]:
        """`semantics()` without the switches that this backbone does not have."""
        resnet = self.backbone.startswith("resnet")
        unused = ["depthwise_padding", "se_gate"] if resnet else ["stem_pool", "deformable"]
        if self.backbone != "resnet18":
            unused.append("first_shortcut")
        if self.deformable == "none" or self.backbone != "resnet50":
            unused.append("offsets")
        unused += ["fusion"] if self.neck == "rsefpn" else ["neck_gate"]
        if self.neck == "dbfpn" and self.upsampling == "floor":
            unused.append("upsampling")  # the only one that any project's own code has there
        return {name: value for name, value in self.semantics().items() if name not in unused}


#: Fields of ModelSpec that decide what the network computes.
SEMANTIC_FIELDS = tuple(f.name for f in fields(ModelSpec) if f.name not in ("name", "pixels", "boxes"))
#: Of these, the ones that only training sees.
TRAINING_FIELDS = ("step_function", "k")

#: Of RGB, in units of 0..255.
IMAGENET_MEAN = (255 * 0.485, 255 * 0.456, 255 * 0.406)
IMAGENET_STD = (255 * 0.229, 255 * 0.224, 255 * 0.225)

MINDOCR_PIXELS = PixelFormat("RGB", IMAGENET_MEAN, IMAGENET_STD, "stretch", (736, 1280))
MINDOCR_PP_PIXELS = replace(MINDOCR_PIXELS, resize="keep_ratio_pad", size=(1152, 2048))
#: Paddle reads BGR but subtracts ImageNet's numbers in RGB order.
PADDLE_PIXELS = PixelFormat("BGR", IMAGENET_MEAN, IMAGENET_STD, "short_side_min", (736, 736))
#: MhLiao/DB subtracts the RGB mean from BGR pixels, and divides by 255 only.
MHLIAO_PIXELS = PixelFormat("BGR", (122.67891434, 116.66876762, 104.00698793), (255.0, 255.0, 255.0),
                            "short_side", (736, 736))

#: Of PaddleOCR's DB++: MhLiao/DB's numbers.
PADDLE_PP_PIXELS = replace(MHLIAO_PIXELS, resize="stretch", size=(1152, 2048))
#: Of MMOCR's recipes for ResNet-18; those for ResNet-50 enlarge to 1024 and 4068.
MMOCR_PIXELS = PixelFormat("RGB", IMAGENET_MEAN, IMAGENET_STD, "fit_pad_after", (736, 1333), ignore_orientation=True)

MINDOCR_BOXES = BoxRule("mindocr", "quad", 0.3, 0.6, 1.5, 1000)
PADDLE_BOXES = BoxRule("paddle", "quad", 0.3, 0.6, 1.5, 1000)
MHLIAO_BOXES = BoxRule("mhliao", "quad", 0.3, 0.6, 1.5, 1000)
MMOCR_BOXES = BoxRule("mmocr", "quad", 0.3, 0.3, 1.5, 3000)
#: Of `max_candidates`, also in OpenCV, where it is an int.
ALL_CANDIDATES = 2 ** 31 - 1
#: What cv2.dnn.TextDetectionModel_DB starts with: it looks at all contours. OpenCV's tutorial sets 200.
OPENCV_BOXES = BoxRule("opencv", "quad", 0.3, 0.5, 2.0, ALL_CANDIDATES)

_MINDOCR_R50 = ModelSpec(
    name="dbnet_resnet50", backbone="resnet50", neck_channels=256, fusion="concat", stem_pool="same",
    depthwise_padding="same", se_gate="sigmoid", step_function="paper", k=50.0, norm_eps=1e-5,
    pixels=MINDOCR_PIXELS, boxes=MINDOCR_BOXES)

_MHLIAO_DEFORMABLE_R50 = replace(
    _MINDOCR_R50, name="dbnet_resnet50_deformable", stem_pool="symmetric", deformable="modulated", offsets="mhliao",
    pixels=MHLIAO_PIXELS, boxes=MHLIAO_BOXES)

#: PaddleOCR's det_mv3_db without squeeze-and-excitation.
_PADDLE_MV3 = replace(
    _MINDOCR_R50, name="db_mv3_paddle", backbone="mobilenetv3", neck_channels=96, depthwise_padding="symmetric",
    se_gate="none", pixels=PADDLE_PIXELS, boxes=PADDLE_BOXES)

#: The detectors by name: MindOCR's four, exact to MindOCR, PaddleOCR's det_mv3_db, those whose weights MhLiao/DB
#: publishes, and PaddleOCR's PP-OCRv3 student, ResNet-18 and DB++.
SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in (
    replace(_MINDOCR_R50, name="dbnet_mobilenetv3", backbone="mobilenetv3"),
    replace(_MINDOCR_R50, name="dbnet_resnet18", backbone="resnet18"),
    _MINDOCR_R50,
    replace(_MINDOCR_R50, name="dbnetpp_resnet50", fusion="asf", pixels=MINDOCR_PP_PIXELS),
    _PADDLE_MV3,
    replace(_MHLIAO_DEFORMABLE_R50, name="dbnet_resnet18_deformable", backbone="resnet18"),
    _MHLIAO_DEFORMABLE_R50,
    replace(_MHLIAO_DEFORMABLE_R50, name="dbnetpp_resnet50_deformable", fusion="asf"),
    replace(_PADDLE_MV3, name="db_mv3_ppocrv3", neck="rsefpn"),
    replace(_MINDOCR_R50, name="db_resnet18_paddle", backbone="resnet18", stem_pool="symmetric",
            first_shortcut="projection", pixels=PADDLE_PIXELS, boxes=PADDLE_BOXES),
    replace(_MHLIAO_DEFORMABLE_R50, name="dbpp_resnet50_paddle", fusion="asf_spatial", offsets="strided",
            pixels=PADDLE_PP_PIXELS, boxes=PADDLE_BOXES),
)}


def get_spec(spec: str | ModelSpec) -> ModelSpec:
    """The spec itself, or the one of that name. Raises DbnetError with the known names."""
    if isinstance(spec, ModelSpec):
        return spec
    if spec not in SPECS:
        raise DbnetError(f"unknown spec {shown(spec)}; choose one of {', '.join(SPECS)}")
    return SPECS[spec]


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(ModelSpec)


def with_semantics(spec: ModelSpec, changes: dict[str, Any]) -> ModelSpec:
    """`spec` with some semantic fields changed, each value checked against the field's type.

    Raises DbnetError for an unknown field or value.
    """
    hints = _hints()
    checked: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in SEMANTIC_FIELDS:
            raise DbnetError(f"unknown semantic {shown(name)}; choose from {', '.join(SEMANTIC_FIELDS)}")
        choices = get_args(hints[name])
        if choices and value not in choices:
            raise DbnetError(f"{name} cannot be {shown(value)}; choose from {', '.join(map(str, choices))}")
        if not choices:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value <= 1e6 or hints[name](value) != value:
                raise DbnetError(f"{name} cannot be {shown(value)}; it must be a positive number")
            value = hints[name](value)
        if name == "neck_channels" and (value % NECK_UNIT or value > WIDEST_NECK):
            raise DbnetError(f"{name} cannot be {value}; it must be a multiple of {NECK_UNIT}, at most {WIDEST_NECK}")
        checked[name] = value
    return replace(spec, **checked)


def check_size(height: int, width: int) -> None:
    """Raises DbnetError unless both sides are positive multiples of STRIDE (pixels)."""
    if height <= 0 or width <= 0 or height % STRIDE or width % STRIDE:
        good = " x ".join(str(max(STRIDE, round(side / STRIDE) * STRIDE)) for side in (height, width))
        raise DbnetError(f"height and width must be multiples of {STRIDE}, not {height} x {width}; nearest: {good}")
