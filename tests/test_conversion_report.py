"""What a conversion tells of every difference between origin and target: applied, folded, not representable."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from converters.check import weight_map
from converters.convert import convert, describe, load_model
from converters.dialects import DIALECTS
from converters.formats import codec
from converters.load import LoadedModel, SourceOptions, default_record
from converters.report import STATUSES, Item, report
from dbnet.__main__ import cli
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from dbnet.spec import MINDOCR_PIXELS, SEMANTIC_FIELDS, SPECS

KIND = {"mindocr": "ckpt", "mindocr_enhance": "ckpt", "paddle": "pdparams"}


def origin(path, dialect, spec):
    """A file of that project, without a record."""
    tensors = weight_map(dialect, SPECS[spec]).inverse(seeded_weights(SPECS[spec], 2))
    with path.open("w+b") as stream:
        codec(path.suffix[1:]).write(stream, tensors, None)
    return path


def loaded(dialect, spec):
    """A bare file of that dialect, without its weights."""
    record = default_record(dialect, SPECS[spec])
    return LoadedModel(None, "", dialect, record, {}, "complete", True)


def told(items: list[Item]) -> dict[str, str]:
    return {item.what: item.status for item in items}


ROWS = [
    # from, network, to, format -> what must be told
    ("mindocr", "dbnet_resnet50", "torch", "pth", {}),
    ("mindocr", "dbnet_resnet50", "mindocr", "onnx", {}),
    ("mindocr", "dbnet_resnet50", "mindocr", "ckpt", {"step_function": "not representable"}),
    ("mhliao", "dbnet_resnet18", "mindocr", "ckpt", {
        "stem_pool": "not representable", "pixels.colour": "not representable", "boxes.rule": "not representable"}),
    ("mhliao", "dbnet_resnet18", "mindocr", "onnx", {
        "stem_pool": "applied", "pixels.colour": "applied", "boxes.rule": "applied"}),
    ("mhliao", "dbnet_resnet18", "torch", "pth", {"stem_pool": "applied", "pixels.mean": "applied"}),
    ("mhliao", "dbnet_resnet18", "mmocr", "pth", {
        "order of the joined maps": "folded", "last sigmoid": "applied", "pixels.colour": "not representable",
        "boxes.box_thresh": "not representable"}),
    ("mmocr", "dbnet_resnet50", "mhliao", "pth", {
        "order of the joined maps": "folded", "last sigmoid": "applied", "pixels.std": "not representable"}),
    ("mmocr", "dbnet_resnet50", "mmocr", "pth", {}),
    ("mmocr", "dbnet_resnet50", "mmocr0", "pth", {"last sigmoid": "applied", "pixels.mean": None}),
    ("mmocr", "dbnet_resnet50_deformable", "mmocr0", "pth", {
        "last sigmoid": "applied", "pixels.mean": "not representable", "pixels.std": None, "pixels.size": None}),
    ("mhliao", "dbnet_resnet18", "mmocr0", "pth", {"order of the joined maps": "folded", "last sigmoid": None}),
    ("mmocr", "dbnet_resnet50_deformable", "mindocr", "onnx", {
        "offsets": "applied", "deformable form": "applied", "order of the joined maps": "folded"}),
    ("mhliao", "dbnet_resnet50_deformable", "mindocr", "ckpt", {
        "deformable": "not representable", "stem_pool": "not representable", "offsets": None}),
    ("paddle", "dbnet_mobilenetv3", "mindocr", "ckpt", {
        "squeeze-and-excitation": "folded", "se_gate": "not representable", "depthwise_padding": "not representable",
        "pixels.colour": "not representable"}),
    ("paddle", "dbnet_mobilenetv3", "torch", "pth", {
        "squeeze-and-excitation": "folded", "se_gate": "applied", "depthwise_padding": "applied"}),
    ("paddle", "db_mv3_paddle", "mindocr_enhance", "ckpt", {
        "squeeze-and-excitation": None, "pixels.colour": "not representable", "boxes.rule": "not representable"}),
    ("paddle", "db_mv3_paddle", "mindocr", "ckpt", {
        "depthwise_padding": "not representable", "se_gate": "not representable", "pixels.colour": "not representable",
        "boxes.rule": "not representable"}),
    ("mindocr_enhance", "db_mv3_ppocrv3", "torch", "safetensors", {
        "upsampling": "applied", "neck_gate": "applied", "pixels.colour": None, "pixels.resize": "applied",
        "boxes.box_thresh": "applied"}),
    ("paddle", "db_mv3_ppocrv3", "mindocr", "ckpt", {
        "upsampling": "not representable", "neck_gate": "not representable"}),
]


@pytest.mark.parametrize(("source", "spec", "target", "kind", "expected"), ROWS)
def test_every_difference_is_told(source, spec, target, kind, expected):
    found = told(report(loaded(source, spec), DIALECTS[target], kind))
    assert {what: found.get(what) for what in expected} == expected
    if not expected:
        assert not found


@pytest.mark.parametrize(("source", "spec"), [(d.name, s) for d in DIALECTS.values() for s in d.specs])
def test_nothing_is_told_of_the_way_home(source, spec):
    """A file written in its own project's names loses nothing that inference sees."""
    items = report(loaded(source, spec), DIALECTS[source], KIND.get(source, "pth"))
    if default_record(source, SPECS[spec]).origin == source:
        assert [item for item in items if not item.training] == []
    assert all(item.status in STATUSES for item in items)


@pytest.mark.parametrize("field", [f for f in SEMANTIC_FIELDS if f not in ("backbone", "neck_channels", "neck")])
def test_no_semantic_field_is_forgotten(field):
    """Whatever a file means otherwise than a bare one is in the report of every target."""
    other = {"fusion": "asf", "norm_eps": 1e-3, "k": 20.0, "step_function": "mindocr", "deformable": "modulated",
             "offsets": "mhliao", "stem_pool": "symmetric", "depthwise_padding": "symmetric", "se_gate": "hard_sigmoid",
             "neck_gate": "sigmoid", "upsampling": "align_corners", "first_shortcut": "projection"}[field]
    base = {"depthwise_padding": "dbnet_mobilenetv3", "se_gate": "dbnet_mobilenetv3", "neck_gate": "db_mv3_ppocrv3",
            "upsampling": "db_mv3_ppocrv3", "first_shortcut": "dbnet_resnet18",
            "offsets": "dbpp_resnet50_paddle"}.get(field, "dbnet_resnet50")
    model = loaded("torch", base)
    model.record = replace(model.record, spec=replace(model.record.spec, **{field: other}))
    for target, kind in (("torch", "pth"), ("mindocr", "onnx"), ("mindocr", "safetensors")):
        assert told(report(model, DIALECTS[target], kind))[field] == "applied"


def test_pixels_travel_with_the_weights_and_are_told(tmp_path):
    start = origin(tmp_path / "a.pdparams", "paddle", "db_mv3_paddle")
    done = convert(start, tmp_path / "b.ckpt", to="mindocr_enhance")
    items = {item.what: item for item in done.report}
    assert items["pixels.colour"] == Item("pixels.colour", "BGR", "RGB", "not representable",
                                          "MindOCR takes this from its recipe, not from a file of weights")
    assert load_model(done.target).record.spec.pixels == SPECS["db_mv3_paddle"].pixels != MINDOCR_PIXELS
    lines = describe(done)
    assert "not representable in MindOCR's own code: pixels (colour, resize, size), boxes (rule)" in lines


def test_a_remark_tells_of_the_colour_only_where_the_recipe_feeds_another(tmp_path):
    start = origin(tmp_path / "a.pdparams", "paddle", "db_mv3_paddle")
    done = convert(start, tmp_path / "b.ckpt", to="mindocr_enhance")
    assert "these weights want BGR pixels, MindOCR's recipes feed RGB" in done.remarks
    start = origin(tmp_path / "c.pdparams", "paddle", "db_mv3_ppocrv3")
    gates = SourceOptions(semantics={"upsampling": "align_corners", "neck_gate": "hard_sigmoid"})
    done = convert(start, tmp_path / "d.ckpt", gates, to="mindocr_enhance")
    assert (done.source.record.spec.pixels.colour, done.remarks) == ("BGR", [])


def test_the_command_prints_and_writes_it(tmp_path):
    start = origin(tmp_path / "a.pth", "mmocr", "dbnet_resnet18")
    done = CliRunner().invoke(cli, ["convert", str(start), str(tmp_path / "b.onnx"), "--json", "-"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.output)
    rows = {row["what"]: row for row in data["report"]}
    assert rows["order of the joined maps"]["status"] == "folded"
    assert rows["stem_pool"] == {"what": "stem_pool", "value": "symmetric", "target": "same", "status": "applied",
                                 "why": "in the graph", "training": False}
    assert (data["from"], data["origin"]) == ("mmocr", "mmocr")
    again = CliRunner().invoke(cli, ["convert", str(start), str(tmp_path / "c.ckpt")])
    assert "folded: order of the joined maps" in again.output
    assert "not representable in MindOCR's own code: stem_pool=symmetric" in again.output
    second = CliRunner().invoke(cli, ["convert", str(tmp_path / "c.ckpt"), str(tmp_path / "d.onnx")])
    assert "applied: stem_pool=symmetric" in second.output
    assert "folded" not in second.output


def test_what_a_project_cannot_compute_is_refused_by_name(tmp_path):
    start = origin(tmp_path / "a.pdparams", "paddle", "db_mv3_ppocrv3")
    with pytest.raises(DbnetError, match=r"MindOCR: neck_gate is hard_sigmoid_0\.2.*upsampling is floor.*out --to"):
        convert(start, tmp_path / "b.ckpt", to="mindocr_enhance")
    other = convert(start, tmp_path / "c.safetensors", SourceOptions(semantics={"upsampling": "align_corners"})).target
    with pytest.raises(DbnetError, match=r"PaddleOCR: upsampling is align_corners.*name a \.pth"):
        convert(other, tmp_path / "d.pdparams")
    with pytest.raises(DbnetError, match=r"PaddleOCR has no names for dbnetpp_resnet50; name a \.pth"):
        convert(origin(tmp_path / "e.ckpt", "mindocr", "dbnetpp_resnet50"), tmp_path / "e.pdparams")
    assert not list(tmp_path.glob("[bd].*"))


def test_the_gates_that_paddle_knows_are_both_named(tmp_path):
    start = origin(tmp_path / "a.ckpt", "mindocr", "dbnet_mobilenetv3")
    with pytest.raises(DbnetError, match=r"se_gate is sigmoid, PaddleOCR knows only none or hard_sigmoid_0\.2"):
        convert(start, tmp_path / "b.pdparams")


def test_training_alone_is_no_reason_to_refuse(tmp_path):
    """MhLiao/DB trains with k (P - T); weights trained otherwise infer the same."""
    start = origin(tmp_path / "a.pth", "mhliao", "dbnet_resnet18")
    hop = convert(start, tmp_path / "b.safetensors", SourceOptions(semantics={"step_function": "mindocr"})).target
    done = convert(hop, tmp_path / "c.pth", to="mhliao")
    found = {item.what: item for item in done.report}
    assert (found["step_function"].status, found["step_function"].training) == ("not representable", True)
    assert not any("step_function" in line for line in describe(done))
    assert np.array_equal(load_model(done.target).weights["head.segm.6.bias"],
                          load_model(start).weights["head.segm.6.bias"])
