"""A comparison in words, and one set of options for two files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from converters.choices import for_each
from converters.load import NoChoiceError, SourceOptions
from dbnet.cli import compare_show
from dbnet.spec import MHLIAO_BOXES, STAGES
from evaluation.box_reasons import BoxDifference
from evaluation.compare_maps import Boxes, ImageComparison, MapComparison
from parity.causes import Cause
from parity.compare import compare
from parity.models import ModelComparison, StageRow, _tell_network
from parity.told import box_lines, image_table, rows_of, rule_notes, stage_table, told, verdict_lines


def comparison(stage, error):
    right = np.linspace(0.0, 1.0, 24).reshape(2, 3, 4)
    wrong = right.copy()
    wrong[1, 2, 0] += error
    return compare(stage, right, wrong, 1e-5)


def rows():
    bad = comparison("c3", 0.5)
    return [StageRow("pixels", None, why="96 x 96 px against 64 x 64 px"), StageRow("c2", comparison("c2", 1e-7)),
            StageRow("c3", bad, bad, (1e-7, 0.5)), StageRow("c4", comparison("c4", 0.2), comparison("c4", 0.0))]


def test_every_row_ends_with_what_it_means():
    header, *lines = stage_table(rows()).splitlines()
    assert [line.split()[0] for line in lines] == ["pixels", "c2", "c3", "c4"]
    ends = ("DIFFERS: 96 x 96 px against 64 x 64 px", "ok", "DIFFERS, most at (1, 2, 0)", "inherited")
    assert all(line.endswith(end) for line, end in zip(lines, ends, strict=True))
    assert header.split("  ")[0].strip() == "stage" and "5.0e-01" in lines[2]
    assert lines[2].index("5.00e-01") + 8 == header.index("max abs") + 7  # right below its header


@pytest.mark.parametrize("width", [200, 150, 120, 100, 79, 10])
def test_a_narrow_table_leaves_out_what_is_missed_least(width):
    table = stage_table(rows(), width=width)
    columns = table.splitlines()[0]
    assert all(name in columns for name in ("stage", "max rel", "tolerance", "its own"))
    assert ("mean abs" in columns) == (width >= 200)
    assert width < 79 or max(map(len, table.splitlines())) <= width
    assert len(table.splitlines()) == 5


def test_columns_that_would_be_empty_are_not_there():
    plain = [comparison(stage, 0.0) for stage in STAGES]
    assert "float64" not in stage_table(rows_of(plain)) and "its own" not in stage_table(rows_of(plain))
    far = dict.fromkeys(STAGES, 1e-7)
    table = stage_table(rows_of(plain, (far, far)), ("torch", "mindspore"))
    assert "torch to float64  mindspore to float64" in table and table.count("1.0e-07") == 2 * len(STAGES)


def test_the_verdict_comes_first():
    causes = [Cause("bn_eps", "norm_eps is 0.001, not 1e-05", math.inf, 0.0, True),
              Cause("precision", "rounded", 0.5, 0.25, False)]
    result = ModelComparison("different", rows(), "c3", "backbone.bn1", causes, ["c3", "c4"], ["one\tnote"])
    lines = told(result).splitlines()
    assert lines[0] == "different: first at c3, in backbone.bn1; cause: bn_eps"
    assert lines[1].endswith("nothing is left of sizes or values that cannot be compared")
    assert lines[2].endswith("an error of 2.5e-01 is left of an error of 5.0e-01, more than the tolerance")
    assert "c3, c4" in lines[3] and lines[-1] == "note: one\tnote"
    assert verdict_lines(ModelComparison("same", [])) == ["same: every stage is equal bit for bit"]
    assert verdict_lines(ModelComparison("within tolerance", []))[0].startswith("within tolerance: ")


def test_networks_that_differ_behind_the_pixels_are_told():
    pixels = Cause("color_order", "colour is BGR, not RGB", 0.7, 0.0, True, "pixels")
    unknown = Cause("unknown", "c3 differs too", 0.5, 0.5, False, "c3")
    result = ModelComparison("different", rows(), "pixels", causes=[pixels, unknown])
    first, _, last, *_ = verdict_lines(result)
    assert first == ("different: first at pixels; cause: color_order; the networks differ too, first at c3, "
                     "cause: unknown")
    assert last == "  unknown: c3 differs too; an error of 5.0e-01, more than the tolerance"
    alone = ModelComparison("different", rows()[:2], "pixels", causes=[pixels])
    assert verdict_lines(alone)[0] == "different: first at pixels; cause: color_order"


def test_box_rules_that_differ_are_a_note():
    assert rule_notes(MHLIAO_BOXES, MHLIAO_BOXES) == []
    assert rule_notes(MHLIAO_BOXES, replace(MHLIAO_BOXES, binary_thresh=0.2, unclip_ratio=2.5)) == [
        f"the box rules differ: binary_thresh {MHLIAO_BOXES.binary_thresh} and 0.2, "
        f"unclip_ratio {MHLIAO_BOXES.unclip_ratio} and 2.5"]


@pytest.mark.parametrize(("verdict", "stages", "seen", "failed", "line"), [
    ("different", "different", 3, 0, ""), ("same", "same", 3, 0, ""), ("same", None, 3, 0, ""),
    ("within tolerance", None, 3, 0, ""),
    ("within tolerance", "within tolerance", 0, 0, ""), ("different", None, 3, 0, "different: in what they find"),
    ("different", "same", 3, 0, "different: in what they find; the stages are the same"),
    ("different", "within tolerance", 3, 1, "different: in what they find; the stages are the same within tolerance"),
    ("within tolerance", "same", 3, 0, "within tolerance: in what they find; the stages are the same"),
    (None, "same", 3, 2, "no verdict: the same on 3 of 5 images, the others failed"),
    (None, "same", 0, 2, "no verdict: not all could be compared"),
    (None, None, 0, 0, "no verdict: not all could be compared")])
def test_the_whole_verdict_is_told_where_no_other_line_does(verdict, stages, seen, failed, line):
    whole = SimpleNamespace(verdict=verdict, stages=stages and SimpleNamespace(verdict=stages), stopped=[],
                            maps=SimpleNamespace(images=[0] * seen, failed=[""] * failed))
    assert compare_show._verdict(whole) == line


def test_a_network_without_a_cause_is_told_behind_the_pixels():
    pixels = Cause("color_order", "colour is BGR, not RGB", 0.7, 0.0, True, "pixels")
    result = ModelComparison("different", rows(), "pixels", causes=[pixels])
    for _ in range(2):  # and once only
        _tell_network(result, "c3")
    assert [(cause.cause, cause.stage) for cause in result.causes] == [("color_order", "pixels"), ("unknown", "c3")]
    assert result.network == ("c3", "unknown") and result.to_dict()["causes"][1]["before"] == pytest.approx(0.5)
    plain = ModelComparison("different", rows()[1:], "c3")
    _tell_network(plain, "c3")
    assert (plain.causes, plain.cause, plain.network) == ([], "unknown", None)


def test_the_worst_images_are_told():
    images = [ImageComparison(f"{i}.png", i * 1e-6, 0.0, ((32, 32), (32, 32)), Boxes(2, 2, 2), 0) for i in range(5)]
    images.append(ImageComparison("bad.png", None, None, ((32, 32), (64, 32)), Boxes(3, 2, 1, 1, 4.25, 1, 0), 0))
    lines = image_table(MapComparison(images), most=2).splitlines()
    assert [line.split()[0] for line in lines] == ["image", "bad.png", "4.png", "(4", "all"]
    assert "1 (4.2 px)" in lines[1] and lines[1].split()[1:3] == ["-", "-"] and "4 more, no worse" in lines[3]


def test_boxes_come_with_what_decided():
    outline = np.float32([[0, 0], [9, 0], [9, 9], [0, 9]])
    lost = BoxDifference("lost", outline, None, 0.61, 0.59, None, "score", "B scores 0.59, below box_thresh")
    images = [ImageComparison(f"{i}.png", 0.0, 0.0, ((32, 32), (32, 32)), Boxes(1, 0, lost=1), 0, [lost])
              for i in range(3)]
    assert box_lines(MapComparison(images), most=2) == [
        "0.png: lost: B scores 0.59, below box_thresh", "1.png: lost: B scores 0.59, below box_thresh", "(1 more)"]


# One set of options ---------------------------------------------------------------------------------------------------


def opener(name, *idle):
    """Opens a file that leaves no choice of the fields `idle`."""

    def opened(options):
        for field in idle:
            if getattr(options, field) is not None:
                raise NoChoiceError(f"{name}: has no {field}", field)
        return name, options

    return opened


def test_each_file_takes_the_options_that_it_leaves_open():
    options = SourceOptions(take="ema", part="Student", spec="x")
    (_, a), (_, b) = for_each(options, opener("a", "take"), opener("b", "part"))
    assert (a.take, a.part, b.take, b.part, a.spec, b.spec) == (None, "Student", "ema", None, "x", "x")


@pytest.mark.parametrize("idle", [("take",), ("part", "take")])
def test_an_option_that_none_has_is_refused(idle):
    with pytest.raises(NoChoiceError, match="has no take"):
        for_each(SourceOptions(take="ema"), opener("a", "take"), opener("b", *idle))


def test_what_else_is_refused_is_raised():
    def never(options):
        raise NoChoiceError(str(Path("c")), "take")
    with pytest.raises(NoChoiceError, match="c"):
        for_each(SourceOptions(), never, opener("b"))
