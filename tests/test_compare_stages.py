"""`dbnet compare A B`: what a user sees of two models that part, and of two that do not."""

from __future__ import annotations

import json
from dataclasses import replace

import click
import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import converters
from converters.export import export
from dbnet.cli.compare import compare
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from dbnet.spec import MHLIAO_PIXELS, SPECS
from evaluation.compare_maps import Side
from evaluation.runners import open_runner
from evaluation.swap_parts import parts_of

SPEC = SPECS["db_mv3_paddle"]
#: What scripts read.
KEYS = {"verdict", "unfinished", "first_divergence", "layer", "cause", "causes", "own_errors", "stages", "notes",
        "maps", "boxes", "images", "failed", "scores", "swap", "a", "b", "versions", "command", "seconds"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("models")
    weights = seeded_weights(SPEC, 5)
    converters.save_weights(weights, folder / "a.pth", spec=SPEC)
    converters.save_weights(weights, folder / "a.onnx", spec=SPEC)
    converters.save_weights(weights, folder / "padded.pth", spec=replace(SPEC, depthwise_padding="same"))
    turned = replace(SPEC, pixels=replace(SPEC.pixels, colour="RGB"))
    converters.save_weights(weights, folder / "turned.pth", spec=turned)
    anonymous = onnx.load(folder / "a.onnx")
    del anonymous.metadata_props[:]
    names = {node.output[0]: f"t{i}" for i, node in enumerate(anonymous.graph.node)} | {"probability": "map"}
    for node in anonymous.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    anonymous.graph.output[0].name = "map"
    onnx.save(anonymous, folder / "anonymous.onnx")
    return folder


def run(*arguments):
    done = CliRunner().invoke(compare, [str(argument) for argument in arguments], standalone_mode=False)
    code = getattr(done.exception, "exit_code", None) if done.exception else done.return_value or 0
    assert done.exception is None or code is not None, done.exception
    return code, done.output


def test_two_that_part(models, tmp_path):
    code, told = run(models / "a.pth", models / "padded.pth", "--json", tmp_path / "o.json")
    assert code == 1
    assert "different: first at c2, in backbone.features.4.layers.3; cause: depthwise_padding" in told
    data = json.loads((tmp_path / "o.json").read_text())
    assert set(data) == KEYS and data["boxes"] is None
    assert (data["verdict"], data["first_divergence"], data["cause"]) == ("different", "c2", "depthwise_padding")
    rows = {row["stage"]: row for row in data["stages"]}
    assert not rows["p5"]["passed"] and rows["p5"]["isolated_passed"] and rows["p5"]["isolated_max_abs"] == 0
    assert rows["c2"]["isolated_max_abs"] == rows["c2"]["max_abs"] > 0
    assert rows["c2"]["float64_reference"] < 1e-5 < rows["c2"]["float64_candidate"]


def test_two_that_do_not(models):
    code, told = run(models / "a.pth", models / "a.onnx")
    assert code == 0 and "within tolerance" in told and "DIFFERS" not in told
    ours, theirs = (open_runner(models / f"a.{kind}", stages=("probability",)) for kind in ("pth", "onnx"))
    [part] = parts_of(Side(ours, SPEC.boxes), Side(theirs, SPEC.boxes))[0]
    assert part.what.startswith("the same weights, run by another graph; runs in onnxruntime on cpu")
    code, told = run(models / "a.pth", models / "a.pth", "--json", "-")
    assert code == 0 and json.loads(told)["verdict"] == "same" and json.loads(told)["cause"] is None


def test_pixels_are_a_row(models):
    code, told = run(models / "a.pth", models / "turned.pth")
    assert code == 1 and "first at pixels; cause: color_order" in told
    code, told = run(models / "a.pth", models / "turned.pth", "--pixels", "paddle")
    assert code == 0 and "same: every stage is equal bit for bit" in told


def test_networks_that_differ_behind_the_pixels(models, tmp_path):
    spec = replace(SPEC, depthwise_padding="same", pixels=replace(SPEC.pixels, colour="RGB"),
                   boxes=replace(SPEC.boxes, box_thresh=0.5))
    converters.save_weights(seeded_weights(SPEC, 5), tmp_path / "both.pth", spec=spec)
    code, told = run(models / "a.pth", tmp_path / "both.pth", "--json", tmp_path / "o.json")
    assert code == 1 and ("first at pixels; cause: color_order; the networks differ too, first at c2, cause: "
                          "depthwise_padding") in told
    assert f"note: the box rules differ: box_thresh {SPEC.boxes.box_thresh} and 0.5" in told
    causes = json.loads((tmp_path / "o.json").read_text())["causes"]
    assert [(row["cause"], row["stage"]) for row in causes] == [("color_order", "pixels"), ("depthwise_padding", "c2")]


def test_with_images(models, tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(cv2.imencode(".png", draw(i, 160, 224)[0])[1].tobytes())
    code, told = run(models / "a.pth", models / "padded.pth", "--images", tmp_path, "--json", "-")
    data = json.loads(told[told.index("{"):])
    assert code == 1 and set(data) == KEYS
    assert data["cause"] == "depthwise_padding" and set(data["images"]) == {"0.png", "1.png"}


def test_an_onnx_of_somebody_else(models):
    """Its nodes' names say nothing: its stages are those of the weights that were read from it, which is told."""
    code, told = run(models / "a.pth", models / "anonymous.onnx", "--pixels", "paddle")
    assert code == 0 and "within tolerance" in told and "only the reference gives" not in told
    assert "its graph does not name its stages; they are computed from the weights that were read from it" in told


def test_files_of_one_size(models, tmp_path):
    for name, size in (("small", (96, 160)), ("large", (128, 160))):
        export(models / "padded.pth", tmp_path / f"{name}.onnx", data_shape=size)
    code, told = run(models / "padded.pth", tmp_path / "small.onnx")
    assert code == 0 and "within tolerance" in told
    code, told = run(models / "a.pth", tmp_path / "small.onnx")
    assert code == 1 and "cause: depthwise_padding" in told
    with pytest.raises(DbnetError, match="different sizes only"):
        CliRunner().invoke(compare, [str(tmp_path / "small.onnx"), str(tmp_path / "large.onnx")],
                           standalone_mode=False, catch_exceptions=False)


@pytest.mark.parametrize("options", [
    ["--weights", "--stages"], ["--limit", "3"], ["--stages", "--box-thresh", "0.5"], ["--same-f", "0.001"], ["--swap"],
    ["--images", "x", "--same-f", "0.001"], ["--images", "x", "--protocol", "rrc"], ["--weights", "--html", "x.html"],
    ["--no-stages"], ["--images", "x", "--gt", "y", "--protocol-b", "rrc"], ["--html", "o", "--markdown", "o"]])
def test_options_that_mean_nothing(models, options):
    with pytest.raises(click.UsageError, match=r"means nothing|one of them|leaves nothing|goes with|same file"):
        CliRunner().invoke(compare, [str(models / "a.pth"), str(models / "a.onnx"), *options], standalone_mode=False,
                           catch_exceptions=False)


def test_an_error_in_the_numbers_is_no_verdict_about_nothing():
    """A map without text has no largest value to measure by."""
    from parity.compare import compare as compare_maps
    a = np.full((1, 1, 8, 8), 1e-6)
    a[0, 0, 0, 0] = 2e-6
    assert not compare_maps("probability", a, a * 1.001, 5e-5).passed
    assert compare_maps("probability", a, a * 1.001, 5e-5, least=0.1).passed


def test_other_sizes_are_no_infinity_in_json(models, tmp_path):
    """Pixels of two sizes have no error; neither has a map that holds NaN."""
    other = replace(SPEC, pixels=replace(MHLIAO_PIXELS, size=(512, 512)))
    weights = seeded_weights(SPEC, 5)
    converters.save_weights(weights, tmp_path / "sized.pth", spec=other)
    code, told = run(models / "a.pth", tmp_path / "sized.pth", "--json", "-")
    data = json.loads(told, parse_constant=pytest.fail)
    assert code == 1 and data["cause"] == "resize_rule" and data["causes"][0]["before"] is None
    assert data["causes"][-1]["explained"] and not data["stages"][0]["passed"]
    code, told = run(models / "a.pth", tmp_path / "sized.pth")
    assert "left of sizes or values that cannot be compared" in told
    weights["backbone.features.0.weight"] = weights["backbone.features.0.weight"] * np.float32(3e38)
    converters.save_weights(weights, tmp_path / "huge.pth", spec=SPEC)
    code, told = run(models / "a.pth", tmp_path / "huge.pth", "--json", "-")
    data = json.loads(told, parse_constant=pytest.fail)
    assert code == 1 and data["stages"][0]["why"] == "the candidate holds NaN or Inf"
