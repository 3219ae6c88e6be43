"""`dbnet precision`: what overflows is found in its layer, the layers that have to stay float32 cure it, the drift."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import converters
from converters.load import load_model
from dbnet.cli.precision_print import verdict
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from dbnet.spec import PADDLE_PIXELS, SPECS
from evaluation.precision import Drift, Setup, examine
from evaluation.precision_search import Searcher
from tests import detecting
from tests.running import command

#: A network that was never trained, with thresholds that leave something to compare, and small inputs.
SPEC = replace(SPECS["dbnet_resnet18"], pixels=replace(PADDLE_PIXELS, size=(96, 96)),
               boxes=replace(SPECS["dbnet_resnet18"].boxes, binary_thresh=0.5))
#: The layers that the tests let outgrow the format: values, and the statistics that undo it.
CONV, NORM = "head.segm.0", "head.segm.1"


def healthy():
    return seeded_weights(SPEC, 2030)


def outgrown(values: float = 1e6):
    """The same network in float32: a convolution's output is larger, which the batch norm after it undoes."""
    weights = seeded_weights(SPEC, 2030)
    weights[f"{CONV}.weight"] *= np.float32(values)
    weights[f"{NORM}.moving_mean"] *= np.float32(values)
    weights[f"{NORM}.gamma"] /= np.float32(values)
    return weights


def vanishing():
    """A convolution of tiny weights, undone by tiny statistics: fp16 has neither."""
    weights = seeded_weights(SPEC, 2030)
    weights[f"{CONV}.weight"] *= np.float32(1e-9)
    weights[f"{NORM}.moving_mean"] *= np.float32(1e-9)
    weights[f"{NORM}.gamma"] *= np.float32(1e9)
    return weights


@pytest.fixture
def photo(tmp_path):
    return [("img_1.png", str(detecting.write_image(tmp_path / "img_1.png", 1, 120, 160)))]


def saved(tmp_path, weights, name="model.safetensors"):
    path = tmp_path / name
    converters.save_weights(weights, path, spec=SPEC)
    return path


def setup_of(path, precision="fp16", runner="onnxruntime"):
    model = load_model(path)
    return Setup(model, precision, runner, model.record.spec.boxes, "cpu", 1)


@pytest.mark.parametrize("runner", ["onnxruntime", pytest.param("torch", marks=pytest.mark.long)])
def test_an_overflow_is_found_in_its_layer_and_cured(tmp_path, photo, runner):
    pytest.importorskip(runner)
    setup = setup_of(saved(tmp_path, outgrown()), runner=runner)
    report = examine(setup, photo)
    assert not report.fine
    names = [layer.name for layer in report.overflowing]
    assert CONV in names
    assert set(names) <= {CONV, NORM}
    found = {layer.name: layer for layer in report.layers}
    assert found[CONV].float32.largest > 65504
    assert found[CONV].headroom(setup.form) < 1
    assert found[CONV].nonfinite > 0
    assert found["neck.out.0"].nonfinite == 0
    assert report.drift.nonfinite or report.drift.maps.max_abs > 0.01
    cured = examine(setup, photo, keep=[CONV, NORM], goal=0.05)
    assert cured.overflowing == []
    assert cured.drift.nonfinite == 0
    assert cured.drift.maps.max_abs < 0.05
    half_cured = examine(setup, photo, keep=[CONV], goal=0.05)
    assert half_cured.drift.nonfinite or half_cured.drift.maps.max_abs > 0.05


def test_bf16_has_the_range(tmp_path, photo):
    report = examine(setup_of(saved(tmp_path, outgrown()), "bf16"), photo)
    assert not report.overflowing
    assert report.drift.nonfinite == 0


@pytest.mark.long
def test_the_first_layer_that_overflows_is_told_first(tmp_path, photo):
    weights = outgrown()
    weights["backbone.layer1.0.conv1.weight"] *= np.float32(1e7)
    weights["backbone.layer1.0.bn1.moving_mean"] *= np.float32(1e7)
    weights["backbone.layer1.0.bn1.gamma"] /= np.float32(1e7)
    report = examine(setup_of(saved(tmp_path, weights)), photo)
    assert report.overflowing[0].name == "backbone.layer1.0.conv1"
    assert {CONV, "backbone.layer1.0.conv1"} <= {layer.name for layer in report.overflowing}


def test_values_that_vanish(tmp_path, photo):
    setup = setup_of(saved(tmp_path, vanishing()))
    report = examine(setup, photo)
    layer = next(layer for layer in report.layers if layer.name == CONV)
    assert layer.weights.flushed > layer.weights.size / 2
    assert layer.float32.flushed > layer.float32.size / 2
    assert not report.drift.same_boxes() or report.drift.maps.max_abs > 1e-2
    cured = examine(setup, photo, keep=[CONV, NORM])
    assert cured.drift.maps.max_abs < report.drift.maps.max_abs / 4


def test_the_search_finds_the_layers(tmp_path, photo):
    """What overflows is all that is needed here, and less is not enough."""
    setup = setup_of(saved(tmp_path, outgrown()))
    setup = replace(setup, rule=replace(setup.rule, binary_thresh=0.95))
    report = examine(setup, photo, goal=0.05)
    assert not report.fine
    searcher = Searcher(report, photo)
    found = searcher.search()
    assert found.for_boxes is found.for_goal
    assert (found.for_goal.keep, found.for_goal.met, found.alone) == ((CONV, NORM), True, {})
    assert found.for_goal.drift.within(0.05)
    assert found.for_range.keep == (CONV, NORM)
    assert found.tried == 5  # both on all images, both on the worst, each alone, and again all
    again = examine(setup, photo, keep=found.for_goal.keep, goal=0.05)
    assert again.fine
    assert again.drift.maps.max_abs == found.for_goal.drift.maps.max_abs


@pytest.mark.long
def test_a_search_by_sensitivity(tmp_path, photo):
    """Without an overflow the order comes from each layer alone; a set is as small as it can be."""
    report = examine(setup_of(saved(tmp_path, healthy())), photo, goal=1e-6)
    assert not report.fine
    searcher = Searcher(replace(report, goal=report.drift.maps.max_abs * 0.6), photo)
    searcher.layers = [*searcher.layers[:3], *searcher.layers[-6:]]
    found = searcher.search()
    assert set(found.alone) == set(searcher.layers)
    assert all(0 < error < 0.5 for error in found.alone.values())
    assert found.for_goal.met == found.for_goal.drift.within(searcher.report.goal)
    assert list(found.for_goal.keep) == [name for name in searcher.layers if name in found.for_goal.keep]
    if found.for_goal.met:
        for name in found.for_goal.keep:
            fewer = [other for other in found.for_goal.keep if other != name]
            assert not searcher._meets(fewer, lambda drift: drift.within(searcher.report.goal))


def between(values: float = 3e4):
    """A batch norm's output is beyond fp16, and the convolution that takes it makes it small again."""
    weights = seeded_weights(SPEC, 7)
    for leaf in ("gamma", "beta"):
        weights[f"backbone.layer1.0.bn1.{leaf}"] *= np.float32(values)
    weights["backbone.layer1.0.conv2.weight"] /= np.float32(values)
    return weights


@pytest.mark.long
@pytest.mark.parametrize("runner", ["onnxruntime", "torch"])
def test_the_layer_that_takes_what_overflows_is_needed_too(tmp_path, photo, runner):
    """It overflows itself only once the one before it is float32."""
    pytest.importorskip(runner)
    setup = setup_of(saved(tmp_path, between()), runner=runner)
    norm, conv = "backbone.layer1.0.bn1", "backbone.layer1.0.conv2"
    report = examine(setup, photo, goal=0.05)
    assert [layer.name for layer in report.overflowing] == [norm]
    assert Searcher(report, photo).needed() == {norm, conv}
    kept = examine(setup, photo, keep=[norm], goal=0.05)
    assert kept.drift.nonfinite or kept.drift.maps.max_abs > 0.05
    assert [layer.name for layer in kept.overflowing] == [conv]
    assert kept.overflowing[0].taken_half.beyond > 0 == kept.overflowing[0].weights.beyond
    [line] = [line for line in verdict(kept, None) if line.startswith(f"overflow: {conv}: ")]
    assert "values that it takes are beyond 65504 (largest " in line
    cured = examine(setup, photo, keep=[norm, conv], goal=0.05)
    assert (cured.overflowing, cured.drift.nonfinite) == ([], 0)
    assert cured.drift.maps.max_abs < 0.05


@pytest.mark.long
def test_a_sum_that_overflows_is_blamed_on_the_layer_before(tmp_path, photo):
    """Both maps fit, and one of the sums of their pixels does not."""
    parts = ("neck.unify_channels.3", "neck.unify_channels.2")
    weights = healthy()
    plain = examine(setup_of(saved(tmp_path, weights)), photo)
    largest = {layer.name: layer.float32.largest for layer in plain.layers}
    fits = 65000 / max(largest[part] for part in parts)
    weights |= {f"{part}.weight": weights[f"{part}.weight"] * np.float32(fits) for part in parts}
    report = examine(setup_of(saved(tmp_path, weights, "sum.safetensors")), photo)
    assert not {layer.name for layer in report.overflowing} & set(parts)
    assert largest["neck.add.2"] * fits > 65504
    assert report.overflowing[0].name == "neck.add.2"
    assert "neck.unify_channels.2" in Searcher(report, photo).needed()


def test_failed_images_are_told(tmp_path, photo):
    (tmp_path / "bad.png").write_bytes(b"no image")
    setup = setup_of(saved(tmp_path, healthy()))
    report = examine(setup, [*photo, ("bad.png", str(tmp_path / "bad.png"))])
    assert len(report.drift.maps.images) == 1
    assert "bad.png" in report.drift.maps.failed[0]
    with pytest.raises(DbnetError, match=r"nothing could be measured.*bad\.png"):
        examine(setup, [("bad.png", str(tmp_path / "bad.png"))])


def test_a_drift_of_nothing_is_not_fine():
    from evaluation.compare_maps import MapComparison
    assert not Drift(MapComparison(), 0).same_boxes()


# The command ----------------------------------------------------------------------------------------------------------


def dbnet(*arguments, code=0):
    done = command(*arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path):
    detecting.write_photos(tmp_path / "photos", 2)
    return tmp_path


@pytest.mark.long
def test_the_command_says_that_everything_can_be_half(folder):
    model = saved(folder, healthy())
    done = dbnet("precision", model, "--images", folder / "photos", "--goal", "0.5", "--binary-thresh", "0.9",
                 "--json", folder / "p.json")
    assert "everything can be fp16" in done.stdout
    told = json.loads((folder / "p.json").read_text())
    assert told["fine"] is True
    assert told["search"] is None
    assert told["drift"]["max_abs"] > 0
    assert set(told["drift"]["images"]) == {"img_1.png", "img_2.png"}
    assert told["environments"]["fp16"]["precision"] == "fp16"
    assert {"layer", "headroom", "float32", "half", "weights", "taken"} <= set(told["layers"][0])
    assert "2 images" in done.stdout and "goes to zero in head.sigmoid: 0)" not in done.stdout
    assert [row["has_weights"] for row in told["layers"] if row["layer"] in (CONV, "head.sigmoid")] == [True, False]


@pytest.mark.long
def test_the_command_names_what_overflows_and_what_cures_it(folder):
    model = saved(folder, outgrown())
    detecting.write_labels(folder / "gt", 2)
    common = ("precision", model, "--images", folder / "photos", "--gt", folder / "gt", "--goal", "0.2")
    done = dbnet(*common, "--no-search", "--json", "-", code=1)
    told = json.loads(done.stdout)
    assert CONV in told["overflow"]
    assert told["drift"]["nonfinite"] or told["drift"]["max_abs"] > 0.2
    assert "rrc" in told["drift"]["scores"]["protocols"]
    shown = dbnet(*common, "--keep-float32", f"{CONV},{NORM}", "--binary-thresh", "0.95")
    assert "F rrc" in shown.stdout
    assert "the same boxes in fp16 with these layers in float32" in shown.stdout
    assert f"fp16 with {CONV}, {NORM} in float32" in shown.stdout


@pytest.mark.long
def test_the_command_advises(folder):
    model = saved(folder, outgrown())
    shown = dbnet("precision", model, "--images", folder / "photos", "--limit", "1", "--goal", "0.2",
                  "--binary-thresh", "0.95", code=1)
    assert f"overflow: {CONV}: " in shown.stdout
    assert f"2 of 54 layers in float32: --keep-float32 {CONV},{NORM}" in shown.stdout


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (("--precision", "fp8"), 2, "fp8"),
    (("--precision", "float32"), 2, "float32"),
    (("--runner", "mindspore"), 2, "mindspore"),
    (("--goal", "0"), 2, "--goal"),
    (("--goal", "nan"), 2, "--goal"),
    (("--keep-float32", ","), 2, "no name"),
    (("--keep-float32", "head.segm.9"), 3, "no layer 'head.segm.9'"),
    (("--protocol", "rrc"), 2, "--protocol means nothing"),
    (("--device", "cuda:9", "--runner", "torch"), 3, "no device cuda:9"),
])
def test_wrong_usage(folder, arguments, code, told):
    model = saved(folder, healthy())
    done = dbnet("precision", model, "--images", folder / "photos", *arguments, code=code)
    assert told in done.stderr
    assert done.stdout == ""


def test_json_replaces_no_input(folder):
    model = saved(folder, healthy())
    (folder / "labels.json").write_text("{}")
    for target, told in ((model, "named like a weight file"), (folder / "labels.json", "name another file")):
        done = dbnet("precision", model, "--images", folder / "photos", "--gt", folder / "labels.json", "--json",
                     target, code=3)
        assert told in done.stderr


@pytest.mark.long
def test_a_failed_image_is_exit_code_3(folder):
    model = saved(folder, healthy())
    (folder / "photos" / "bad.png").write_bytes(b"no image")
    done = dbnet("precision", model, "--images", folder / "photos", "--goal", "0.5", "--binary-thresh", "0.9", code=3)
    assert "bad.png" in done.stderr
    assert "everything can be fp16" in done.stdout
