"""The dialects: how each project names the weights of these networks, and what it means by them. Data only.

Sources: MindOCR `mindocr/models` (canonical), MhLiao/DB `decoders/seg_detector*.py` and `backbones/resnet.py`,
PaddleOCR `ppocr/modeling` (det_mv3_db), MindOCR `backbones/det_mobilenet.py` (det_mobilenet_v3_enhance).
"""

from __future__ import annotations

from converters.weight_map import Dialect, Rule
from dbnet.errors import DbnetError
from dbnet.spec import MHLIAO_BOXES, MHLIAO_PIXELS, MINDOCR_BOXES, MINDOCR_PIXELS, SPECS

_RESNETS = ("dbnet_resnet18", "dbnet_resnet50", "dbnetpp_resnet50")

#: What DataParallel, Lightning and torch.compile put before every name.
_WRAPPERS = ("", "module.", "model.", "_orig_mod.")

#: First block of `backbone.features` and number of blocks in Paddle's stage0..stage3.
_PADDLE_STAGES = ((3, 3), (6, 3), (9, 6), (15, 3))
#: `layers.{i}` of a block without squeeze-and-excitation, as Paddle names them.
_PADDLE_LAYERS = {0: "expand_conv.conv", 1: "expand_conv.bn", 3: "bottleneck_conv.conv", 4: "bottleneck_conv.bn",
                  6: "linear_conv.conv", 7: "linear_conv.bn"}


def _paddle_backbone(stage: str) -> tuple[Rule, ...]:
    """Rows of Paddle's MobileNetV3 backbone; `stage` is the pattern of a stage's name."""
    rows = [Rule("backbone.features.0", "backbone.conv.conv"), Rule("backbone.features.1", "backbone.conv.bn")]
    for number, (first, count) in enumerate(_PADDLE_STAGES):
        for block in range(count):
            rows += [Rule(f"backbone.features.{first + block}.layers.{layer}",
                          f"backbone.{stage.format(number)}.{block}.{path}") for layer, path in _PADDLE_LAYERS.items()]
    last = f"backbone.{stage.format(3)}.3"
    return (*rows, Rule("backbone.features.18", f"{last}.conv"), Rule("backbone.features.19", f"{last}.bn"))


MINDOCR = Dialect(
    name="mindocr", project="MindOCR", framework="mindspore", specs=tuple(SPECS), suffixes=(".ckpt",),
    prefixes=_WRAPPERS, foreign=False,
    fixed={"stem_pool": "same", "depthwise_padding": "same", "se_gate": "sigmoid", "norm_eps": 1e-5})

#: MindOCR's module paths with torch's leaf names: what `torch_reference` loads.
TORCH = Dialect(
    name="torch", project="torch_reference", framework="torch", specs=tuple(SPECS), suffixes=(".pth", ".pt"),
    prefixes=_WRAPPERS, foreign=False)

MHLIAO = Dialect(
    name="mhliao", project="MhLiao/DB", framework="torch", specs=_RESNETS, suffixes=(".pth", ".pt"),
    prefixes=("model.module.", "module.model.module.", "model.", "module.", ""),
    rules=(
        Rule("backbone.{layer}.{block}.down_sample.{i}", "backbone.{layer}.{block}.downsample.{i}"),
        Rule("neck.unify_channels.0", "decoder.in2"),
        Rule("neck.unify_channels.1", "decoder.in3"),
        Rule("neck.unify_channels.2", "decoder.in4"),
        Rule("neck.unify_channels.3", "decoder.in5"),
        Rule("neck.out.0", "decoder.out2"),
        Rule("neck.out.1", "decoder.out3.0"),
        Rule("neck.out.2", "decoder.out4.0"),
        Rule("neck.out.3", "decoder.out5.0"),
        Rule("neck.fuse.conv", "decoder.concat_attention.conv"),
        Rule("neck.fuse.chan_att.0", "decoder.concat_attention.enhanced_attention.channel_wise.1"),
        Rule("neck.fuse.chan_att.2", "decoder.concat_attention.enhanced_attention.channel_wise.3"),
        Rule("neck.fuse.spat_att.{i}", "decoder.concat_attention.enhanced_attention.spatial_wise.{i}"),
        Rule("neck.fuse.scale_att.0", "decoder.concat_attention.enhanced_attention.attention_wise.0"),
        Rule("head.segm.{i}", "decoder.binarize.{i}"),
        Rule("head.thresh.{i}", "decoder.thresh.{i}"),
    ),
    dropped=(r"backbone\.fc\..*", r"backbone\.smooth\..*"),
    semantics={"stem_pool": "symmetric"}, pixels=MHLIAO_PIXELS, boxes=MHLIAO_BOXES,
    fixed={"stem_pool": "symmetric", "neck_channels": 256, "norm_eps": 1e-5})

PADDLE = Dialect(
    name="paddle", project="PaddleOCR", framework="paddle", specs=("db_mv3_paddle",), suffixes=(".pdparams",),
    rules=(
        *_paddle_backbone("stage{}"),
        *(Rule(f"neck.unify_channels.{i}", f"neck.in{i + 2}_conv") for i in range(4)),
        *(Rule(f"neck.out.{i}", f"neck.p{i + 2}_conv") for i in range(4)),
        *(Rule(f"head.{ours}.{i}", f"head.{theirs}.{name}")
          for ours, theirs in (("segm", "binarize"), ("thresh", "thresh"))
          for i, name in {0: "conv1", 1: "conv_bn1", 3: "conv2", 4: "conv_bn2", 6: "conv3"}.items()),
    ),
    prefixes=("", "Student.", "Teacher."),
    fixed={"depthwise_padding": "symmetric", "se_gate": "none", "norm_eps": 1e-5})

#: The same network in MindOCR: `det_mobilenet_v3_enhance` with `disable_se`, DBFPN(96), DBHead; MindOCR's pixels.
MINDOCR_ENHANCE = Dialect(
    name="mindocr_enhance", project="MindOCR", framework="mindspore", specs=("db_mv3_paddle",), suffixes=(".ckpt",),
    rules=_paddle_backbone("stages.{}"), pixels=MINDOCR_PIXELS, boxes=MINDOCR_BOXES,
    fixed={"depthwise_padding": "symmetric", "se_gate": "none", "norm_eps": 1e-5})

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (MINDOCR, TORCH, MHLIAO, PADDLE, MINDOCR_ENHANCE)}

#: Whose semantics a bare file is given. torch_reference's names are MindOCR's paths, so they mean MindOCR's network;
#: `db_mv3_paddle` under canonical paths is Paddle's.
def origin_of(dialect: Dialect, spec_name: str) -> str:
    """The dialect whose semantics a bare file in `dialect` has."""
    if dialect.name in ("mindocr", "torch"):
        return "paddle" if spec_name == "db_mv3_paddle" else "mindocr"
    return dialect.name


def get_dialect(name: str) -> Dialect:
    """The dialect of that name. Raises DbnetError with the known names."""
    if name not in DIALECTS:
        raise DbnetError(f"unknown dialect {name!r}; choose one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def native_dialect(suffix: str) -> Dialect:
    """What is written into a file of that suffix unless another dialect is asked for."""
    return TORCH if suffix in TORCH.suffixes else MINDOCR
