"""What a comparison's report says where it is easily said wrong: pixels and network, failed images, no boxes at all."""

from __future__ import annotations

import re
import shlex
from html import unescape

import pytest

from evaluation.comparison_report.verdict import verdict
from tests.comparison_data import STAGES, boxes, different, same, score, side
from tests.test_comparison_report import checked


def cause(name, stage, before, residual):
    return {"cause": name, "what": f"what of {name}", "before": before, "residual": residual, "stage": stage,
            "explained": residual == 0}


@pytest.mark.parametrize(("behind", "sentence", "why"), [
    ([], ", which no known difference explains", "c2 differs on the same pixels too, and no known difference"),
    ([cause("unknown", "c2", 0.2, 0.2)], ", which no known difference explains", "and unknown. c2 differs"),
    ([cause("bn_eps", "c2", 0.2, 0.0)], ": the cause is bn_eps", "too. Corrected, nothing is left"),
    ([cause("bn_eps", "c2", 0.2, 0.1)], ": the cause is bn_eps", "all of that. Corrected, an error of 1.0e-01")])
def test_networks_that_differ_behind_the_pixels_are_told(behind, sentence, why):
    pixels = {"stage": "pixels", "max_rel": 0.7, "tolerance": 1e-5, "passed": False}
    data = {**different(), "first_divergence": "pixels", "cause": "color_order",
            "causes": [cause("color_order", "pixels", 0.7, 0.0), *behind]}
    told = verdict({**data, "stages": [pixels, *data["stages"]]})
    assert f"The networks differ too, first at c2{sentence}" in told.sentence
    where, because = told.facts[:2]
    assert "first at c2" in where.detail and why in because.detail
    assert ("nothing is left" in because.detail) == (why == "too. Corrected, nothing is left")
    alone = verdict({**data, "causes": data["causes"][:1], "stages": [pixels, *same()["stages"]]})
    assert "networks" not in alone.sentence and alone.facts[1].detail.endswith("Corrected, nothing is left")
    words = checked({**data, "stages": [pixels, *data["stages"]]})[0].words
    assert ("0.2" in words) and ("2.0e-01 2.0e-01 no " in words) == (behind[:1] == [cause("unknown", "c2", 0.2, 0.2)])


@pytest.mark.parametrize(("changes", "title"), [
    ({}, "The same within tolerance on 1 of 3 images, the others failed"),
    ({"verdict": None}, "The same within tolerance on 1 of 3 images, the others failed"),
    ({"verdict": None, "stages": [], "maps": [{"max_abs": 0.0, "passed": True}]},
     "The same on 1 of 3 images, the others failed"),
    ({"verdict": None, "boxes": boxes()}, "No verdict"), ({"verdict": None, "images": {}, "boxes": None}, "No verdict"),
    ({"verdict": None, "maps": different()["maps"]}, "No verdict"),
    ({"verdict": None, "unfinished": "x"}, "Unfinished")])
def test_images_that_failed_take_the_verdict(changes, title):
    told = verdict({**same("within tolerance"), "failed": ["a: is cut off", "b: is cut off"], **changes})
    assert (told.title, told.tone) == (title, "none") and told.sentence.endswith("2 images could not be compared.")


def test_no_word_about_boxes_that_nobody_looked_for():
    data = {**same(), "verdict": None, "boxes": None, "maps": None, "images": {}, "failed": ["a: is cut off"],
            "a": {"file": "a.onnx"}, "b": {"file": "b.onnx"}}
    page, text, suite = checked(data)
    assert "box" not in page.words.lower() and "box" not in text.lower()
    assert {case.get("name") for case in suite.findall("testcase")} == {*STAGES, "all images could be compared"}


def test_no_boxes_are_no_proof():
    data = {**same(), "boxes": boxes(a=0, b=0, identical=0, moved=0, lost=0)}
    page, text, suite = checked(data)
    for words in (page.words, text):
        assert "Neither finds a box, which proves nothing of boxes." in words and "All 0" not in words
        assert "all the same" not in words
    assert suite.find("testcase[@name='boxes']/skipped") is not None


def test_box_rules_that_differ_are_why():
    data = {**different(), "first_divergence": None, "cause": None, "causes": [], "stages": same()["stages"],
            "failed": [],
            "b": side("b.onnx", boxes={"rule": "mindocr", "box_thresh": 0.5})}
    told = verdict(data)
    assert told.sentence.endswith("Their box rules differ.")
    [why] = [fact for fact in told.facts if fact.question == "Why"]
    assert (why.answer, why.detail) == ("the box rules differ", "box_thresh 0.6 and 0.5")
    assert "Why" not in [fact.question for fact in verdict({**same(), "b": data["b"]}).facts]
    assert "Why" not in [fact.question for fact in verdict({**data, "b": data["a"]}).facts]


def test_the_command_is_what_was_typed():
    words = ["dbnet", "compare", "a  b.onnx", "c@d`e.onnx", "x<y.onnx"]
    page, text, suite = checked({**different(), "command": words})
    [command] = [p.get("value") for p in suite.iter("property") if p.get("name") == "command"]
    assert shlex.split(command) == words
    assert shlex.split(unescape(re.search("<pre>(.*?)</pre>", text)[1])) == words
    assert command in "".join(page.text)


@pytest.mark.parametrize("command", [None, [], ["dbnet"]], ids=str)
def test_no_command_is_no_advice(command):
    page, text, suite = checked({**different(), "command": command})
    assert "How to get this again" not in page.words and "How to get this again" not in text
    assert "What A and B are" in text and "command" not in [p.get("name") for p in suite.iter("property")]


def test_maps_of_two_sizes_have_no_distance():
    row = {"stage": "probability", "max_abs": None, "passed": False, "tolerance": 1e-4, "other_sizes": 2}
    suite = checked({**different(), "maps": [row]})[2]
    message = suite.find("testcase[@name='probability, all images']/failure").get("message")
    assert message == "2 images have maps of two sizes"


def test_of_several_protocols_one_is_exchanged_by():
    page, text, _ = checked(different())
    assert all("F is by rrc here, not by mindocr" in words for words in (page.words, text))
    one = {**different(), "scores": {"protocols": {"rrc": score(0.1, None)}}}
    assert "F is by" not in checked(one)[0].words
