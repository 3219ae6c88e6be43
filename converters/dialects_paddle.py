"""PaddleOCR's names, and those of MindOCR's modules that follow them. Data only.

Sources: PaddleOCR `ppocr/modeling/backbones/det_{mobilenet_v3,resnet,resnet_vd}.py`, `necks/db_fpn.py`,
`heads/det_db_head.py`; MindOCR `backbones/det_mobilenet.py` (det_mobilenet_v3_enhance), `necks/fpn.py` (RSEFPN).
"""

from __future__ import annotations

from dataclasses import replace

from converters.weight_map import Dialect, Rule, Transform, Variant
from dbnet.parameters import MOBILENET_BLOCKS, MOBILENET_FIRST_BLOCK, RESNET_BLOCKS
from dbnet.spec import MINDOCR_BOXES, MINDOCR_PIXELS, PADDLE_BOXES, PADDLE_PIXELS, PADDLE_PP_PIXELS

#: First block of `backbone.features` and number of blocks in Paddle's stage0..stage3.
_STAGES = ((3, 3), (6, 3), (9, 6), (15, 3))
#: `layers.{i}` of a block as Paddle names them; squeeze-and-excitation moves the last two by one.
_LAYERS = {0: "expand_conv.conv", 1: "expand_conv.bn", 3: "bottleneck_conv.conv", 4: "bottleneck_conv.bn",
           6: "linear_conv.conv", 7: "linear_conv.bn"}
_SQUEEZING_LAYERS = {**{i: path for i, path in _LAYERS.items() if i < 6}, 7: "linear_conv.conv", 8: "linear_conv.bn"}

#: Dense layers (O, I) as 1x1 convolutions (O, I, 1, 1); biases stay as they are.
AS_KERNEL = Transform(lambda a: a[:, :, None, None] if a.ndim == 2 else a,
                      lambda a: a[:, :, 0, 0] if a.ndim == 4 else a)


def mobilenet(stage: str, squeezing: bool) -> tuple[Rule, ...]:
    """Rows of Paddle's MobileNetV3 backbone. stage: the pattern of a stage's name."""
    rows = [Rule("backbone.features.0", "backbone.conv.conv"), Rule("backbone.features.1", "backbone.conv.bn")]
    for number, (first, count) in enumerate(_STAGES):
        for block in range(count):
            ours, theirs = f"backbone.features.{first + block}.layers", f"backbone.{stage.format(number)}.{block}"
            squeezes = squeezing and MOBILENET_BLOCKS[first + block - MOBILENET_FIRST_BLOCK].squeeze
            rows += [Rule(f"{ours}.{layer}", f"{theirs}.{path}")
                     for layer, path in (_SQUEEZING_LAYERS if squeezes else _LAYERS).items()]
            if squeezes:
                rows += [Rule(f"{ours}.6.conv_reduce", f"{theirs}.mid_se.conv1", AS_KERNEL),
                         Rule(f"{ours}.6.conv_expand", f"{theirs}.mid_se.conv2", AS_KERNEL)]
    last = f"backbone.{stage.format(3)}.3"
    return (*rows, Rule("backbone.features.18", f"{last}.conv"), Rule("backbone.features.19", f"{last}.bn"))


def resnet(name: str, deformable: bool = False) -> tuple[Rule, ...]:
    """Rows of Paddle's ResNet, which counts stages from 2, names blocks by letters and convolutions from 0."""
    rows = [Rule("backbone.conv1", "backbone.conv._conv"), Rule("backbone.bn1", "backbone.conv._batch_norm")]
    for layer, blocks in enumerate(RESNET_BLOCKS[name], start=1):
        for block in range(blocks):
            ours, theirs = f"backbone.layer{layer}.{block}", f"backbone.res{layer + 1}{chr(ord('a') + block)}"
            if deformable and layer > 1:
                rows += [Rule(f"{ours}.conv2_offset", f"{theirs}.conv1._conv.conv_offset"),
                         Rule(f"{ours}.conv2", f"{theirs}.conv1._conv.conv_dcn")]
            for i in (1, 2, 3):
                rows += [Rule(f"{ours}.conv{i}", f"{theirs}.conv{i - 1}._conv"),
                         Rule(f"{ours}.bn{i}", f"{theirs}.conv{i - 1}._batch_norm")]
            rows += [Rule(f"{ours}.down_sample.0", f"{theirs}.short._conv"),
                     Rule(f"{ours}.down_sample.1", f"{theirs}.short._batch_norm")]
    return tuple(rows)


_NECK_AND_HEAD = (
    *(Rule(f"neck.unify_channels.{i}", f"neck.in{i + 2}_conv") for i in range(4)),
    *(Rule(f"neck.out.{i}", f"neck.p{i + 2}_conv") for i in range(4)),
    Rule("neck.fuse.conv", "neck.asf.conv"),
    Rule("neck.fuse.spat_att.{i}", "neck.asf.spatial_scale.{i}"),
    Rule("neck.fuse.scale_att.0", "neck.asf.channel_scale.0"),
    *(Rule(f"head.{ours}.{i}", f"head.{theirs}.{name}")
      for ours, theirs in (("segm", "binarize"), ("thresh", "thresh"))
      for i, name in {0: "conv1", 1: "conv_bn1", 3: "conv2", 4: "conv_bn2", 6: "conv3"}.items()),
)
#: Of det_mv3_db.yml: DetResizeForTest with an image_shape.
_STRETCHED_PIXELS = replace(PADDLE_PIXELS, resize="stretch", size=(736, 1280))
_SYMMETRIC_POOL = {"stem_pool": "symmetric"}
_STRIDED = {**_SYMMETRIC_POOL, "offsets": "strided"}

PADDLE = Dialect(
    name="paddle", project="PaddleOCR", framework="paddle", suffixes=(".pdparams",),
    specs=("db_mv3_paddle", "dbnet_mobilenetv3", "db_mv3_ppocrv3", "db_resnet18_paddle", "dbnet_resnet50",
           "dbnet_resnet50_deformable", "dbpp_resnet50_paddle"),
    rules=_NECK_AND_HEAD, prefixes=("", "Student.", "Student2.", "Teacher."), pixels=PADDLE_PIXELS, boxes=PADDLE_BOXES,
    variants={
        "db_mv3_paddle": Variant(mobilenet("stage{}", False)),
        "db_mv3_ppocrv3": Variant(mobilenet("stage{}", False)),
        "dbnet_mobilenetv3": Variant(mobilenet("stage{}", True),
                                     {"depthwise_padding": "symmetric", "se_gate": "hard_sigmoid_0.2"},
                                     _STRETCHED_PIXELS),
        "db_resnet18_paddle": Variant(resnet("resnet18"), _SYMMETRIC_POOL),
        "dbnet_resnet50": Variant(resnet("resnet50"), _SYMMETRIC_POOL),
        "dbnet_resnet50_deformable": Variant(resnet("resnet50", True), _STRIDED),
        "dbpp_resnet50_paddle": Variant(resnet("resnet50", True), _STRIDED, PADDLE_PP_PIXELS),
    },
    fixed={"stem_pool": "symmetric", "depthwise_padding": "symmetric", "se_gate": ("none", "hard_sigmoid_0.2"),
           "neck_gate": "hard_sigmoid_0.2", "upsampling": "floor", "offsets": "strided", "norm_eps": 1e-5,
           "step_function": "paper"},
    folded={"squeeze-and-excitation": "1x1 convolutions, dense layers here"})

#: Of MindOCR's recipe db_mobilenetv3_ppocrv3, which changes RGB to BGR when it evaluates, and keeps RGB's numbers.
_PPOCRV3_PIXELS = replace(MINDOCR_PIXELS, colour="BGR", resize="limit_min", size=(736, 736))

#: MindOCR's `det_mobilenet_v3_enhance` with DBFPN or RSEFPN and DBHead or DBHeadEnhance; MindOCR's pixels.
MINDOCR_ENHANCE = Dialect(
    name="mindocr_enhance", project="MindOCR", framework="mindspore", suffixes=(".ckpt",),
    specs=("db_mv3_paddle", "dbnet_mobilenetv3", "db_mv3_ppocrv3"), pixels=MINDOCR_PIXELS, boxes=MINDOCR_BOXES,
    variants={
        "db_mv3_paddle": Variant(mobilenet("stages.{}", False)),
        "db_mv3_ppocrv3": Variant(mobilenet("stages.{}", False),
                                  {"neck_gate": "hard_sigmoid", "upsampling": "align_corners"}, _PPOCRV3_PIXELS,
                                  replace(MINDOCR_BOXES, box_thresh=0.9)),
        "dbnet_mobilenetv3": Variant(mobilenet("stages.{}", True),
                                     {"depthwise_padding": "symmetric", "se_gate": "hard_sigmoid"}),
    },
    fixed={"depthwise_padding": "symmetric", "se_gate": ("none", "hard_sigmoid"), "neck_gate": "hard_sigmoid",
           "upsampling": "align_corners", "norm_eps": 1e-5},
    folded={"squeeze-and-excitation": "1x1 convolutions, dense layers here"})
