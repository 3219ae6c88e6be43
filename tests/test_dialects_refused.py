"""What is known by its names and not read: each is named, with the reason; and files of a backbone alone."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from converters.backbones import backbone_alone
from converters.check import identify, weight_map
from converters.convert import convert, load_model
from converters.formats import codec
from converters.inspect import inspect
from converters.load import SourceOptions, why_not
from converters.not_dbnet import KNOWN, recognised
from dbnet.__main__ import cli
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS

PADDLE_HEAD = ["head.binarize.conv1.weight", "head.binarize.conv_bn1._mean", "head.binarize.conv3.weight",
               "head.thresh.conv1.weight"]
MMOCR_HEAD = ["det_head.binarize.0.weight", "det_head.threshold.0.weight", "neck.lateral_convs.0.conv.weight",
              "neck.smooth_convs.0.conv.weight"]
RESNET = ["backbone.conv1.weight", "backbone.bn1.weight", "backbone.layer1.0.conv1.weight",
          "backbone.layer1.0.downsample.0.weight", "backbone.layer4.0.conv2.weight"]

#: what must be said -> names of such a file, as its project has them.
FILES = {
    "docTR": ["feat_extractor.conv1.weight", "feat_extractor.layer1.0.conv1.weight", "fpn.in_branches.0.0.weight",
              "fpn.out_branches.0.0.weight", "prob_head.0.weight", "thresh_head.0.weight"],
    "ResNet-vd": ["backbone.conv1_1._conv.weight", "backbone.conv1_2._conv.weight",
                  "backbone.bb_0_0.conv0._conv.weight", "neck.in2_conv.weight", *PADDLE_HEAD],
    "LKPAN": ["backbone.conv1_1._conv.weight", "neck.ins_conv.0.weight", "neck.pan_head_conv.0.weight",
              "neck.pan_lat_conv.0.weight", *PADDLE_HEAD],
    "PP-LCNetV3": ["backbone.conv1.conv.weight", "backbone.blocks2.0.dw_conv.lab.scale",
                   "backbone.blocks6.0.pw_conv.conv_kxk.0.conv.weight", "neck.ins_conv.0.in_conv.weight", *PADDLE_HEAD],
    "PP-HGNet": ["backbone.stem.stem1.conv.weight", "backbone.stages.0.blocks.0.layers.0.conv.weight",
                 "neck.ins_conv.0.weight", *PADDLE_HEAD],
    "MMOCR's DBNet++": [*RESNET, "neck.asf_conv.conv.weight", "neck.asf_attn.channel_wise.0.conv.weight", *MMOCR_HEAD],
    "oCLIP": ["backbone.conv1.weight", "backbone.conv2.weight", "backbone.bn2.weight", "backbone.bn3.weight",
              "backbone.layer1.0.conv1.weight", "backbone.layer1.0.downsample.1.weight", *MMOCR_HEAD],
    "convolution after the joined maps": [*RESNET, "neck.out_conv.conv.weight", *MMOCR_HEAD],
    "batch norms in its neck": [*RESNET, "neck.lateral_convs.0.bn.weight", *MMOCR_HEAD],
    "WenmuZhou": [*RESNET, "neck.reduce_conv_c5.conv.weight", "head.binarize.0.weight"],
    "EAST": ["backbone.conv1.weight", "neck.merge.weight", "head.score_conv.weight", "head.geo_conv.weight"],
    "PSENet": ["backbone.conv1.weight", "neck.reduce_conv_c2.weight", "neck.smooth_conv_p4.weight", "head.conv.weight"],
    "FCENet": ["backbone.conv1.weight", "neck.reduce_conv_c3.weight", "neck.smooth_conv_p5.weight",
               "neck.smooth_conv_p4.weight", "head.out_conv_cls.weight", "head.out_conv_reg.bias"],
    "TextSnake": [*RESNET, "neck.up4.weight", "neck.up_block3.conv1x1.weight", "neck.up_block0.deconv.bias",
                  "det_head.out_conv.weight"],
    "PANet": [*RESNET, "neck.fpems.0.up_add1.dwconv.weight", "bbox_head.out_conv.weight"],
    "CRAFT": ["basenet.slice1.0.weight", "upconv1.conv.0.weight", "conv_cls.0.weight"],
    "recogniser": ["backbone.conv.weight", "neck.encoder.lstm.weight_ih_l0", "head.fc.weight"],
}


VD = ["backbone.conv1_1._conv.weight", "backbone.conv1_2._conv.weight", "backbone.bb_0_0.conv0._conv.weight"]
OCLIP = ["backbone.conv1.weight", "backbone.bn3.weight", "backbone.layer1.0.downsample.1.weight"]
#: The same networks as other projects build them, on necks and backbones that DBNets have too.
ELSEWHERE = [
    ("FCENet", [*RESNET, "neck.lateral_convs.0.conv.weight", "neck.fpn_convs.0.conv.weight",
                "det_head.out_conv_cls.weight", "det_head.out_conv_reg.weight"]),
    ("FCENet", [*OCLIP, "neck.lateral_convs.0.conv.weight", "neck.fpn_convs.2.conv.bias",
                "bbox_head.out_conv_reg.weight"]),
    ("FCENet", [*VD, "neck.fpn_inner_res3_sum_lateral.weight", "neck.fpn_res5_sum.weight",
                "head.out_conv_cls.weight", "head.out_conv_reg.weight"]),
    ("PSENet", [*RESNET, "neck.lateral_convs.0.conv.weight", "neck.lateral_convs.0.bn.weight",
                "neck.fpn_convs.0.conv.weight", "neck.output_convs.conv.weight", "det_head.out_conv.weight"]),
    ("PSENet", [*OCLIP, "neck.lateral_convs.0.bn.weight", "neck.output_convs.bn.weight", "det_head.out_conv.weight"]),
    ("PSENet", [*VD, "neck.toplayer_.conv.weight", "neck.latlayer1_.bn._mean", "head.conv1.weight"]),
    ("PSENet", [*RESNET, "fpn.toplayer_.conv.weight", "fpn.smooth1_.conv.weight", "det_head.conv1.weight"]),
    ("TextSnake or DRRG", [*OCLIP, "neck.up_block2.conv3x3.weight", "bbox_head.gcn.bn0.running_mean"]),
    ("EAST", [*VD, "neck.g0_deconv.conv.weight", "head.det_conv1.conv.weight", "head.score_conv.conv.weight"]),
    ("WenmuZhou", [*RESNET, "neck.reduce_conv_c2.conv.weight", "neck.reduce_conv_c5.conv.weight",
                   "head.thresh.0.weight"]),
]


def tensors_of(names):
    return {name: np.broadcast_to(np.float32(0), (3, 5, 7)) for name in names}


@pytest.mark.parametrize("said", list(FILES))
def test_each_is_named(said):
    found = recognised(FILES[said])
    assert found is not None
    assert said in found


@pytest.mark.parametrize(("said", "names"), ELSEWHERE)
def test_each_is_named_in_other_projects_names(said, names):
    assert recognised(names).startswith(f"is {said}")


@pytest.mark.parametrize(("said", "names"), [ELSEWHERE[0], ELSEWHERE[3], ("TextSnake", FILES["TextSnake"])])
def test_a_detector_on_a_whole_resnet_is_no_damaged_dbnet(said, names):
    """All of a ResNet-50 fits MMOCR's DBNet, and only a few tensors do not."""
    backbone = {entry.foreign: np.broadcast_to(np.float32(0), entry.foreign_shape)
                for entry in weight_map("mmocr", SPECS["dbnet_resnet50"]).entries
                if entry.foreign.startswith("backbone.")}
    tensors = backbone | {name: array for name, array in tensors_of(names).items() if name not in backbone}
    assert f"is {said}" in why_not(tensors, identify(tensors))


def test_a_backbone_makes_no_dbnet():
    assert recognised([*VD, "head.other.weight"]) is None
    assert recognised([*OCLIP, "det_head.other.weight"]) is None


@pytest.mark.parametrize("prefix", ["module.", "Student.", "Teacher.", "model."])
@pytest.mark.parametrize("said", ["ResNet-vd", "LKPAN", "MMOCR's DBNet++", "oCLIP", "docTR", "PP-HGNet", "FCENet",
                                  "PSENet"])
def test_each_is_named_behind_a_prefix(said, prefix):
    assert said in recognised([prefix + name for name in FILES[said]])


def test_every_row_of_the_table_is_tested():
    told = {recognised(names).split(": ")[0] for names in FILES.values()}
    assert len(told) == len(FILES)
    assert {known.what for known in KNOWN} - {t.removeprefix("is ") for t in told} <= {"EAST (MindOCR)", "SAST"}


@pytest.mark.parametrize("depth", [34, 101, 152])
def test_other_depths_are_named(depth):
    blocks = {34: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    names = [f"backbone.layer{layer}.{block}.conv{i}.weight" for layer, count in enumerate(blocks, start=1)
             for block in range(count) for i in range(1, 3 if depth == 34 else 4)]
    assert f"ResNet-{depth}" in recognised(names)


@pytest.mark.parametrize(("dialect", "spec"), [("mhliao", "dbnetpp_resnet50_deformable"), ("mmocr", "dbnet_resnet50"),
                                               ("paddle", "db_mv3_ppocrv3"), ("paddle", "dbpp_resnet50_paddle"),
                                               ("paddle", "db_resnet18_paddle"), ("mindocr", "dbnetpp_resnet50"),
                                               ("mindocr_enhance", "db_mv3_ppocrv3"), ("torch", "dbnet_mobilenetv3")])
def test_what_is_read_is_not_taken_for_them(dialect, spec):
    assert recognised(weight_map(dialect, SPECS[spec]).by_foreign) is None


def written(path, tensors):
    with path.open("w+b") as stream:
        codec(path.suffix[1:]).write(stream, tensors, None)
    return path


@pytest.mark.parametrize("said", ["docTR", "LKPAN", "MMOCR's DBNet++", "PSENet"])
def test_a_file_is_refused_with_the_reason(said, tmp_path):
    path = written(tmp_path / "a.pth", tensors_of(FILES[said]))
    for run in (lambda: load_model(path), lambda: convert(path, tmp_path / "b.ckpt")):
        with pytest.raises(DbnetError) as caught:
            run()
        assert said in str(caught.value)
        assert "only its own project" in str(caught.value)
    assert not (tmp_path / "b.ckpt").exists()
    found = inspect(path)
    assert said in found["recognised"]
    assert found["spec"] is None


def test_a_broken_dbnet_is_told_what_is_broken_in_it(tmp_path):
    """One odd tensor makes no other network of it."""
    tensors = weight_map("torch", SPECS["db_mv3_paddle"]).inverse(seeded_weights(SPECS["db_mv3_paddle"]))
    path = written(tmp_path / "a.pth", tensors | {"head.fc.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(DbnetError, match=r"nearest is db_mv3_paddle.*1 unexpected \(head\.fc\.weight\)"):
        load_model(path)


# Backbones ------------------------------------------------------------------------------------------------------------


def backbone_file(spec, dialect, prefix="", extra=()):
    found = {prefix + e.foreign.removeprefix("backbone."): np.broadcast_to(np.float32(0), e.foreign_shape)
             for e in weight_map(dialect, SPECS[spec]).entries if e.foreign.startswith("backbone.")}
    return found | {name: np.broadcast_to(np.float32(0), (10,)) for name in extra}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
@pytest.mark.parametrize(("spec", "dialect", "extra", "said"), [
    ("dbnet_resnet18", "mhliao", ["fc.weight", "fc.bias"], "ResNet-18 in torchvision's names"),
    ("dbnet_resnet50", "mhliao", ["fc.weight", "fc.bias"], "ResNet-50 in torchvision's names"),
    ("dbnet_resnet50", "mindocr", ["classifier.weight", "classifier.bias"], "ResNet-50 in MindCV's names"),
    ("dbnet_mobilenetv3", "mindocr", ["classifier.0.weight"], "MobileNetV3 x0.5 in MindCV's names"),
])
def test_a_backbone_alone_is_recognised(spec, dialect, extra, said, prefix):
    found = backbone_alone(backbone_file(spec, dialect, prefix, extra))
    assert found is not None
    assert found.describe() == said


def test_a_detector_or_half_a_backbone_is_no_backbone_alone():
    whole = {e.foreign: np.broadcast_to(np.float32(0), e.foreign_shape)
             for e in weight_map("mhliao", SPECS["dbnet_resnet18"]).entries}
    assert backbone_alone(whole) is None
    half = backbone_file("dbnet_resnet18", "mhliao")
    half.pop("layer4.1.conv2.weight")
    assert backbone_alone(half) is None


def test_inspect_and_convert_say_backbone(tmp_path):
    path = written(tmp_path / "resnet18.pth", {name: np.array(array) for name, array in
                                               backbone_file("dbnet_resnet18", "mhliao", extra=["fc.bias"]).items()})
    found = inspect(path)
    assert (found["subset"], found["backbone"]) == ("backbone", "ResNet-18 in torchvision's names")
    done = CliRunner().invoke(cli, ["inspect", str(path)])
    assert done.exit_code == 1
    assert "ResNet-18 in torchvision's names" in done.output
    assert "--pretrained" in done.output
    with pytest.raises(DbnetError, match=r"a backbone only, ResNet-18 in torchvision's names.*--pretrained"):
        convert(path, tmp_path / "b.ckpt")


# Several networks in one file -----------------------------------------------------------------------------------------


@pytest.fixture
def distilled(tmp_path):
    """A collaborative distillation: two students, and a teacher that cannot be read."""
    student = weight_map("paddle", SPECS["db_mv3_ppocrv3"])
    tensors = {}
    for number, part in enumerate(("Student", "Student2")):
        weights = student.inverse(seeded_weights(SPECS["db_mv3_ppocrv3"], number))
        tensors |= {f"{part}.{name}": array for name, array in weights.items()}
    tensors |= {f"Teacher.{name}": np.zeros((2, 2), np.float32) for name in FILES["LKPAN"]}
    return written(tmp_path / "cml.pdparams", tensors)


def test_nobody_guesses_which_network_is_meant(distilled):
    with pytest.raises(DbnetError, match=r"several networks of a distillation: Student, Student2, Teacher.*--part"):
        load_model(distilled)
    with pytest.raises(DbnetError, match="has no part Nobody: it holds Student, Student2, Teacher"):
        load_model(distilled, SourceOptions(part="Nobody"))
    with pytest.raises(DbnetError, match="LKPAN"):
        load_model(distilled, SourceOptions(part="Teacher"))


def test_a_part_is_read_alone(distilled, tmp_path):
    first, second = (load_model(distilled, SourceOptions(part=part)) for part in ("Student", "Student2"))
    assert first.record.spec.name == second.record.spec.name == "db_mv3_ppocrv3"
    assert first.record.sha256 != second.record.sha256
    done = CliRunner().invoke(cli, ["convert", str(distilled), str(tmp_path / "a.onnx"), "--part", "Student2"])
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "a.onnx").record.sha256 == second.record.sha256
    assert inspect(distilled)["spec"] == "db_mv3_ppocrv3"
    assert any("several networks: Student, Student2, Teacher" in note for note in inspect(distilled)["notes"])
    assert "LKPAN" in inspect(distilled, SourceOptions(part="Teacher"))["recognised"]


@pytest.mark.parametrize("wrapper", ["_layers.", "module._orig_mod."])
def test_parts_behind_wrappers(wrapper, tmp_path):
    """Paddle's DataParallel puts `_layers.` before the networks of a distillation."""
    mapping = weight_map("paddle", SPECS["db_mv3_paddle"])
    tensors = {f"{wrapper}{part}.{name}": array for number, part in enumerate(("Student", "Teacher"))
               for name, array in mapping.inverse(seeded_weights(SPECS["db_mv3_paddle"], number)).items()}
    path = written(tmp_path / "both.pdparams", tensors)
    with pytest.raises(DbnetError, match="several networks of a distillation: Student, Teacher"):
        load_model(path)
    student, teacher = (load_model(path, SourceOptions(part=part)).record for part in ("Student", "Teacher"))
    assert student.sha256 != teacher.sha256
    assert inspect(path, SourceOptions(part="Teacher"))["sha256"] == teacher.sha256
    alone = written(tmp_path / "one.pdparams", {n: a for n, a in tensors.items() if ".Student." in n})
    assert load_model(alone, SourceOptions(part="Student")).record == load_model(alone).record == student


def test_a_part_of_a_file_with_one_network_is_refused(tmp_path):
    path = written(tmp_path / "a.pdparams", weight_map("paddle", SPECS["db_mv3_paddle"]).inverse(
        seeded_weights(SPECS["db_mv3_paddle"])))
    with pytest.raises(DbnetError, match="one network only"):
        load_model(path, SourceOptions(part="Student"))
    with pytest.raises(DbnetError, match="no part Student"):
        inspect(path, SourceOptions(part="Student"))
