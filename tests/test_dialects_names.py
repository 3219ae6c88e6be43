"""Full names and shapes as the projects' own code gives them, written out here and not taken from the weight map.

Read off PaddleOCR 2.7 `ppocr/modeling`, MMOCR 0.x and 1.x `models/textdet` with MMDetection's ResNet and MMCV's
`ModulatedDeformConv2dPack`, MhLiao/DB `backbones/resnet.py` and `decoders`, MindOCR 0.3.1 `models`.
"""

from __future__ import annotations

import pytest

from converters.check import weight_map
from converters.dialects import DIALECTS
from dbnet.spec import SPECS

PADDLE_HEAD = {
    "head.binarize.conv1.weight": (64, 256, 3, 3), "head.binarize.conv_bn1._mean": (64,),
    "head.binarize.conv2.weight": (64, 64, 2, 2), "head.thresh.conv_bn2.weight": (64,),
    "head.thresh.conv3.weight": (64, 1, 2, 2), "head.thresh.conv3.bias": (1,)}
PADDLE_DBFPN = {"neck.p2_conv.weight": (64, 256, 3, 3), "neck.p5_conv.weight": (64, 256, 3, 3), **PADDLE_HEAD}
PADDLE_RESNET50 = {
    "backbone.conv._conv.weight": (64, 3, 7, 7), "backbone.conv._batch_norm._variance": (64,),
    "backbone.res2a.conv0._conv.weight": (64, 64, 1, 1), "backbone.res2a.conv1._conv.weight": (64, 64, 3, 3),
    "backbone.res2a.short._conv.weight": (256, 64, 1, 1), "backbone.res3d.conv2._conv.weight": (512, 128, 1, 1),
    "backbone.res4f.conv0._batch_norm._mean": (256,), "backbone.res5a.short._batch_norm.bias": (2048,),
    "neck.in2_conv.weight": (256, 256, 1, 1), "neck.in5_conv.weight": (256, 2048, 1, 1), **PADDLE_DBFPN}
PADDLE_DEFORMABLE = {
    **PADDLE_RESNET50, "backbone.res3a.conv1._conv.conv_offset.weight": (27, 128, 3, 3),
    "backbone.res3a.conv1._conv.conv_offset.bias": (27,), "backbone.res3a.conv1._batch_norm.weight": (128,),
    "backbone.res3a.conv1._conv.conv_dcn.weight": (128, 128, 3, 3),
    "backbone.res5c.conv1._conv.conv_dcn.weight": (512, 512, 3, 3)}
PADDLE_MOBILE = {
    "backbone.conv.conv.weight": (8, 3, 3, 3), "backbone.conv.bn._mean": (8,),
    "backbone.stage0.0.bottleneck_conv.conv.weight": (8, 1, 3, 3),
    "backbone.stage1.0.expand_conv.conv.weight": (40, 16, 1, 1),
    "backbone.stage2.5.linear_conv.bn._variance": (56,), "backbone.stage3.3.conv.weight": (480, 80, 1, 1)}
MMOCR_HEAD = {
    "neck.smooth_convs.0.conv.weight": (64, 256, 3, 3), "neck.smooth_convs.3.conv.weight": (64, 256, 3, 3),
    "det_head.binarize.0.weight": (64, 256, 3, 3), "det_head.binarize.1.running_mean": (64,),
    "det_head.binarize.3.bias": (64,), "det_head.threshold.4.weight": (64,),
    "det_head.threshold.6.weight": (64, 1, 2, 2)}
MMOCR_RESNET50 = {
    "backbone.conv1.weight": (64, 3, 7, 7), "backbone.bn1.running_var": (64,),
    "backbone.layer1.0.downsample.0.weight": (256, 64, 1, 1), "backbone.layer2.0.conv2.weight": (128, 128, 3, 3),
    "backbone.layer4.2.bn3.weight": (2048,), "neck.lateral_convs.0.conv.weight": (256, 256, 1, 1),
    "neck.lateral_convs.3.conv.weight": (256, 2048, 1, 1), **MMOCR_HEAD}
MMOCR = {
    "dbnet_resnet18": {
        "backbone.layer2.0.downsample.1.running_mean": (128,), "backbone.layer4.1.conv2.weight": (512, 512, 3, 3),
        "neck.lateral_convs.0.conv.weight": (256, 64, 1, 1), **MMOCR_HEAD},
    "dbnet_resnet50": MMOCR_RESNET50,
    "dbnet_resnet50_deformable": {
        **MMOCR_RESNET50, "backbone.layer2.0.conv2.conv_offset.weight": (27, 128, 3, 3),
        "backbone.layer2.0.conv2.conv_offset.bias": (27,),
        "backbone.layer4.2.conv2.conv_offset.weight": (27, 512, 3, 3)}}
MHLIAO = {
    "decoder.in2.weight": (256, 64, 1, 1), "decoder.in5.weight": (256, 512, 1, 1),
    "decoder.out2.weight": (64, 256, 3, 3), "decoder.out5.0.weight": (64, 256, 3, 3),
    "decoder.binarize.0.weight": (64, 256, 3, 3), "decoder.binarize.6.bias": (1,),
    "decoder.thresh.3.weight": (64, 64, 2, 2), "decoder.thresh.4.running_var": (64,),
    "backbone.bn1.weight": (64,), "backbone.layer2.0.downsample.0.weight": (128, 64, 1, 1)}
MHLIAO50 = {**MHLIAO, "decoder.in2.weight": (256, 256, 1, 1), "decoder.in5.weight": (256, 2048, 1, 1),
            "backbone.layer2.0.downsample.0.weight": (512, 256, 1, 1)}
MHLIAO_ASF = {
    "decoder.concat_attention.conv.weight": (64, 256, 3, 3), "decoder.concat_attention.conv.bias": (64,),
    "decoder.concat_attention.enhanced_attention.channel_wise.1.weight": (16, 64, 1, 1),
    "decoder.concat_attention.enhanced_attention.channel_wise.3.weight": (64, 16, 1, 1),
    "decoder.concat_attention.enhanced_attention.spatial_wise.0.weight": (1, 1, 3, 3),
    "decoder.concat_attention.enhanced_attention.spatial_wise.2.weight": (1, 1, 1, 1),
    "decoder.concat_attention.enhanced_attention.attention_wise.0.weight": (4, 64, 1, 1)}
MHLIAO_OFFSETS = {
    "backbone.layer2.0.conv2_offset.weight": (27, 128, 3, 3), "backbone.layer4.1.conv2_offset.bias": (27,)}
ENHANCE = {
    "backbone.conv.conv.weight": (8, 3, 3, 3), "backbone.conv.bn.moving_mean": (8,),
    "backbone.stages.1.0.expand_conv.conv.weight": (40, 16, 1, 1),
    "backbone.stages.3.3.conv.weight": (480, 80, 1, 1), "backbone.stages.3.3.bn.gamma": (480,)}

#: dialect -> network -> names without the project's prefix.
NAMES = {
    "paddle": {
        "db_mv3_paddle": {**PADDLE_MOBILE, "neck.in5_conv.weight": (96, 480, 1, 1),
                          "neck.p2_conv.weight": (24, 96, 3, 3), "head.binarize.conv1.weight": (24, 96, 3, 3)},
        "dbnet_mobilenetv3": {**PADDLE_MOBILE, **PADDLE_DBFPN, "neck.in2_conv.weight": (256, 16, 1, 1),
                              "backbone.stage1.0.mid_se.conv1.weight": (10, 40, 1, 1),
                              "backbone.stage1.0.mid_se.conv1.bias": (10,),
                              "backbone.stage2.5.mid_se.conv2.weight": (336, 84, 1, 1)},
        "db_mv3_ppocrv3": {**PADDLE_MOBILE, "neck.ins_conv.0.in_conv.weight": (96, 16, 1, 1),
                           "neck.ins_conv.3.se_block.conv1.weight": (24, 96, 1, 1),
                           "neck.inp_conv.3.in_conv.weight": (24, 96, 3, 3),
                           "neck.inp_conv.0.se_block.conv2.weight": (24, 6, 1, 1),
                           "neck.inp_conv.0.se_block.conv2.bias": (24,), "head.thresh.conv3.bias": (1,)},
        "db_resnet18_paddle": {**PADDLE_DBFPN, "backbone.conv._conv.weight": (64, 3, 7, 7),
                               "backbone.res2a.short._conv.weight": (64, 64, 1, 1),
                               "backbone.res3a.conv0._conv.weight": (128, 64, 3, 3),
                               "backbone.res5b.conv1._batch_norm._mean": (512,),
                               "neck.in5_conv.weight": (256, 512, 1, 1)},
        "dbnet_resnet50": {**PADDLE_RESNET50, "backbone.res3a.conv1._conv.weight": (128, 128, 3, 3)},
        "dbnet_resnet50_deformable": PADDLE_DEFORMABLE,
        "dbpp_resnet50_paddle": {**PADDLE_DEFORMABLE, "neck.asf.conv.weight": (64, 256, 3, 3),
                                 "neck.asf.conv.bias": (64,), "neck.asf.spatial_scale.0.weight": (1, 1, 3, 3),
                                 "neck.asf.spatial_scale.2.weight": (1, 1, 1, 1),
                                 "neck.asf.channel_scale.0.weight": (4, 64, 1, 1)}},
    "mmocr": MMOCR,
    "mmocr0": {spec: {name.replace("det_head.", "bbox_head."): shape for name, shape in names.items()}
               for spec, names in MMOCR.items()},
    "mhliao": {
        "dbnet_resnet18": MHLIAO, "dbnet_resnet50": MHLIAO50, "dbnetpp_resnet50": {**MHLIAO50, **MHLIAO_ASF},
        "dbnet_resnet18_deformable": {**MHLIAO, **MHLIAO_OFFSETS},
        "dbnet_resnet50_deformable": {**MHLIAO50, **MHLIAO_OFFSETS},
        "dbnetpp_resnet50_deformable": {**MHLIAO50, **MHLIAO_ASF, **MHLIAO_OFFSETS}},
    "mindocr_enhance": {
        "db_mv3_paddle": {**ENHANCE, "neck.unify_channels.0.weight": (96, 16, 1, 1),
                          "neck.out.3.weight": (24, 96, 3, 3), "head.segm.1.moving_variance": (24,)},
        "dbnet_mobilenetv3": {**ENHANCE, "backbone.stages.1.0.mid_se.conv1.weight": (10, 40, 1, 1),
                              "backbone.stages.1.0.mid_se.conv2.bias": (40,),
                              "neck.unify_channels.3.weight": (256, 480, 1, 1), "head.thresh.6.bias": (1,)},
        "db_mv3_ppocrv3": {**ENHANCE, "neck.ins_conv.0.in_conv.weight": (96, 16, 1, 1),
                           "neck.inp_conv.3.se_block.conv1.weight": (6, 24, 1, 1),
                           "head.segm.3.weight": (24, 24, 2, 2)}},
}


@pytest.mark.parametrize(("dialect", "spec"), [(name, spec) for name, specs in NAMES.items() for spec in specs])
def test_names_and_shapes_are_the_projects_own(dialect, spec):
    ours = {entry.foreign: entry.foreign_shape for entry in weight_map(dialect, SPECS[spec]).entries}
    assert {name: ours.get(name) for name in NAMES[dialect][spec]} == NAMES[dialect][spec]


def test_every_network_of_every_other_project_is_pinned():
    """MindOCR's own names, which are canonical and torch_reference's, are held against MindOCR in test_weight_map."""
    assert {name: set(specs) for name, specs in NAMES.items()} == {
        name: set(dialect.specs) for name, dialect in DIALECTS.items() if name not in ("mindocr", "torch")}


def test_the_prefixes_that_are_written():
    assert {name: DIALECTS[name].prefixes[0] for name in NAMES} == {
        "paddle": "", "mmocr": "", "mmocr0": "", "mhliao": "model.module.", "mindocr_enhance": ""}
