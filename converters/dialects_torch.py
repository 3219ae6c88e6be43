"""The names of the projects in torch: MhLiao/DB, whose files EasyOCR loads too, and MMOCR. Data only.

Sources: MhLiao/DB `decoders/seg_detector*.py`, `backbones/resnet.py`; MMOCR 1.0.1 `models/textdet/necks/fpn_cat.py`,
`heads/db_head.py`, `configs/textdet/dbnet`; MMOCR 0.x `dense_heads/db_head.py`,
`configs/_base_/det_pipelines/dbnet_pipeline.py`; MMCV `ops/modulated_deform_conv.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from converters.weight_map import Dialect, Rule, Transform, Variant
from dbnet.spec import MHLIAO_BOXES, MHLIAO_PIXELS, MMOCR_BOXES, MMOCR_PIXELS, PixelFormat

_DOWN_SAMPLE = Rule("backbone.{layer}.{block}.down_sample.{i}", "backbone.{layer}.{block}.downsample.{i}")
_MHLIAO_OFFSETS = Variant(semantics={"offsets": "mhliao"})

MHLIAO = Dialect(
    name="mhliao", project="MhLiao/DB", framework="torch", suffixes=(".pth", ".pt"),
    specs=("dbnet_resnet18", "dbnet_resnet50", "dbnetpp_resnet50", "dbnet_resnet18_deformable",
           "dbnet_resnet50_deformable", "dbnetpp_resnet50_deformable"),
    prefixes=("model.module.", "module.model.module.", "model.", "module.", ""),
    rules=(
        _DOWN_SAMPLE,
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
    unused={"backbone.fc.weight": (1000, None), "backbone.fc.bias": (1000,),
            "backbone.smooth.weight": (256, 2048, 1, 1), "backbone.smooth.bias": (256,)},
    semantics={"stem_pool": "symmetric"}, pixels=MHLIAO_PIXELS, boxes=MHLIAO_BOXES,
    variants={"dbnet_resnet50_deformable": _MHLIAO_OFFSETS, "dbnetpp_resnet50_deformable": _MHLIAO_OFFSETS},
    fixed={"stem_pool": "symmetric", "neck_channels": 256, "offsets": "mhliao", "norm_eps": 1e-5,
           "upsampling": "floor", "step_function": "paper"})


def _reversed_blocks(array: np.ndarray) -> np.ndarray:
    """A head's first kernel (C / 4, C, 3, 3) for maps that are joined the other way round: its own inverse."""
    out, channels, height, width = array.shape
    blocks = array.reshape(out, 4, channels // 4, height, width)
    return np.ascontiguousarray(blocks[:, ::-1]).reshape(array.shape)


_JOINED_REVERSED = Transform(_reversed_blocks, _reversed_blocks)
_R50_PIXELS = replace(MMOCR_PIXELS, size=(1024, 4068))


def _mmocr(name: str, head: str, project: str, logits: bool, deformable_pixels: PixelFormat) -> Dialect:
    """`head`: the module that holds the two branches, which 1.0 renamed. logits: as in `Dialect`.

    deformable_pixels: of the recipes for the deformable ResNet-50.
    """
    return Dialect(
        name=name, project=project, framework="torch", suffixes=(".pth", ".pt"),
        specs=("dbnet_resnet18", "dbnet_resnet50", "dbnet_resnet50_deformable"),
        rules=(
            _DOWN_SAMPLE,
            Rule("backbone.{layer}.{block}.conv2_offset", "backbone.{layer}.{block}.conv2.conv_offset"),
            Rule("neck.unify_channels.{i}", "neck.lateral_convs.{i}.conv"),
            Rule("neck.out.{i}", "neck.smooth_convs.{i}.conv"),
            Rule("head.segm.0", f"{head}.binarize.0", _JOINED_REVERSED),
            Rule("head.thresh.0", f"{head}.threshold.0", _JOINED_REVERSED),
            Rule("head.segm.{i}", f"{head}.binarize.{{i}}"),
            Rule("head.thresh.{i}", f"{head}.threshold.{{i}}"),
        ),
        dropped=(r"data_preprocessor\.(mean|std)",),
        semantics={"stem_pool": "symmetric"}, pixels=MMOCR_PIXELS, boxes=MMOCR_BOXES,
        variants={"dbnet_resnet50": Variant(pixels=_R50_PIXELS),
                  "dbnet_resnet50_deformable": Variant(semantics={"offsets": "strided"}, pixels=deformable_pixels)},
        fixed={"stem_pool": "symmetric", "neck_channels": 256, "offsets": "strided", "norm_eps": 1e-5,
               "upsampling": "floor", "step_function": "paper"},
        folded={"order of the joined maps": "p2 to p5, p5 to p2 here: the input blocks of the heads' first kernels "
                                            "are reversed"},
        logits=logits)


MMOCR = _mmocr("mmocr", "det_head", "MMOCR", logits=True, deformable_pixels=_R50_PIXELS)
#: MMOCR before 1.0: its head ends with the sigmoid, and its only ResNet-50 subtracts MhLiao/DB's mean, from RGB.
MMOCR0 = _mmocr("mmocr0", "bbox_head", "MMOCR 0.x", logits=False,
                deformable_pixels=replace(_R50_PIXELS, mean=MHLIAO_PIXELS.mean))
