"""The report of a comparison: its page, Markdown and JUnit, on everything and on nearly nothing."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.comparison_report import Picture, html, junit, markdown
from evaluation.comparison_report.page import PICTURE_BYTES
from evaluation.comparison_report.stages import scale_of, state_of
from evaluation.comparison_report.verdict import CAUSES, verdict
from evaluation.comparison_report.words import error, fixed, many, name_of, percent, plain, seconds, signed, tolerance
from parity import suspects
from tests.comparison_data import STAGES, difference, different, image_row, same, score

VOID = {"meta", "link", "img", "br"}
PNG = b"\x89PNG" + bytes(100)
HOSTILE = ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "a\nb\r\nc\td", "\x00\x08\x1b[31m\x7f\x85",
           "\udcff\ud800", "\ufffe\uffff", "x" * 300, "\u202egpj.exe", "שלום عالم",
           "| a | `b` ``c`` | *d* _e_ [f](g) @h", "{{ 7 * 7 }}{% raw %}", "]]>", "&amp;<!--", "'; DROP", ""]


class Page(HTMLParser):
    """Checks as it reads: every tag is closed where it should be."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.sections: dict[str, int] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def strings(data, path=()):
    """The paths of all texts in a tree."""
    if isinstance(data, str):
        yield path
    elif isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from strings(value, (*path, key))


def paths(data, path=()):
    """The paths of everything in a tree."""
    if path:
        yield path
    if isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from paths(value, (*path, key))


def put(data, path, value):
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


def checked(data, pictures=()):
    """All three, each read by another's parser."""
    page, text, xml = html(data, pictures), markdown(data), junit(data)
    for written in (page, text, xml):
        written.encode("utf-8")
        assert "<script" not in written
    read = Page(page)
    tree = ElementTree.fromstring(xml.encode("utf-8"))
    suite = tree[0]
    cases = suite.findall("testcase")
    assert cases
    for kind in ("failure", "error", "skipped"):
        told = suite.get({"failure": "failures", "error": "errors", "skipped": "skipped"}[kind])
        assert int(told) == sum(case.find(kind) is not None for case in cases)
    assert int(suite.get("tests")) == len(cases)
    return read, text, suite


def test_page_tells_everything():
    page, _, _ = checked(different(), [Picture("Where c2 differs", "caption of heat", PNG, top=6.76),
                                       Picture("img_1.jpg", "caption", PNG, image="img_1.jpg")])
    for words in ("Different, first at c2", "bn_eps", "backbone.features.1", "8 of 74 boxes stay", "falls by 0.0106",
                  "2.2e-01", "own error", "inherited", "norm_eps is 0.001, not 1e-05", "caption of heat", "6.8",
                  "img_4.jpg", "The worst 3 of 66.", "3 pixels lie on two sides", "x 401 y 88: 0.2991 → 0.3009",
                  "0.7327 … 0.7727", "the official script", "not shown to be the same",
                  "no image is counted otherwise", "p = 0.031", "103 %", "−3 %", "−0.0099", "img_7.jpg: is cut off",
                  "only the reference gives it", "B: its graph was edited",
                  "dbnet compare a.ckpt b.onnx --images 'my images'", "28f9cbfc60319", "1e-05", "1 min 31 s"):
        assert words in page.words, words
    assert dict(page.tags)["html"] == {"lang": "en"}


def test_page_is_for_all_readers():
    page, _, _ = checked(different(), [Picture("t", "c", PNG, top=1.0), Picture("i", "c", PNG, image="img_1.jpg")])
    for tag, attributes in page.tags:
        assert tag != "script" and not any(name.startswith("on") for name in attributes)
        assert tag != "th" or attributes.get("scope") in ("col", "row")
        assert tag != "img" or attributes.get("alt")
        assert attributes.get("role") != "region" or attributes.get("aria-label")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    wanted |= {attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes}
    assert wanted <= set(ids)
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1


def test_nothing_is_loaded_from_elsewhere():
    text = html(different(), [Picture("t", "c", PNG)])
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub("base64,[^\"]*", "", text))
    assert text.startswith("<!DOCTYPE html>") and "default-src 'none'" in text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_stay_texts(text):
    data = different()
    for path in list(strings(data)):
        if path not in {("verdict",), ("first_divergence",), ("cause",)}:
            put(data, path, text)
    data["images"] = {text: image_row(), "b": image_row()}
    data["scores"]["protocols"] = {text: score(0.1, text or None)}
    data["unfinished"] = text or "stopped"
    page, mark, suite = checked(data, [Picture(text, text, PNG, image=text), Picture(text, text, PNG)])
    plain_page, plain_mark, _ = checked({**different(), "unfinished": "stopped"})
    tags = {tag for tag, _ in plain_page.tags} | {"figure", "figcaption", "img", "h3", "ul", "li"}
    assert {tag for tag, _ in page.tags} <= tags
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    rows = [line for line in mark.split("\n") if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {
        len(re.findall(r"(?<!\\)\|", row)) for row in plain_mark.split("\n") if row.startswith("|")}
    assert "@" not in re.sub("<code>.*?</code>", "", mark)
    if text.startswith("<"):
        assert text in page.words and text in "".join(suite.itertext())


def test_names_that_differ_in_what_no_page_can_hold_stay_two():
    data = {**different(), "images": {"a\x00": image_row(), "a\x01": image_row()}}
    assert checked(data)[0].words.count("a\ufffd") >= 2


@settings(max_examples=25)
@given(st.data())
def test_anything_may_be_missing(draw):
    data = different()
    for _ in range(draw.draw(st.integers(1, 6))):
        path = draw.draw(st.sampled_from(list(paths(data))))
        if draw.draw(st.booleans()) and not isinstance(path[-1], int):
            parent = data
            for key in path[:-1]:
                parent = parent[key]
            del parent[path[-1]]
        else:
            put(data, path, None)
        if not data:
            break
    page, text, _ = checked(data)
    for words in ("None", "nan", "Undefined"):
        assert words not in page.words and words not in text


@pytest.mark.parametrize("name", different())
@pytest.mark.parametrize("empty", [None, [], {}, "absent"], ids=str)
def test_an_empty_part_has_no_section(name, empty):
    data = different()
    if empty == "absent":
        del data[name]
    else:
        data[name] = empty
    page, _, _ = checked(data)
    section = {"stages": "stages", "causes": "causes", "images": "images", "scores": "scores", "swap": "swap",
               "failed": "failed", "boxes": "boxes"}.get(name)
    assert section is None or section not in [attributes.get("id") for _, attributes in page.tags]


def test_nothing_at_all():
    page, text, suite = checked({})
    assert "Nothing could be compared" in page.words and "Nothing could be compared" in text
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "section"] == []
    assert suite.find("testcase/error") is not None


@pytest.mark.parametrize(("changes", "title", "words"), [
    ({}, "Different, first at c2", "The two models part at c2. The cause is bn_eps"),
    ({"cause": "unknown", "causes": []}, "Different, first at c2", "No known difference explains it."),
    ({"first_divergence": None, "cause": None, "causes": []}, "Different in what they find", "No stage differs"),
    ({"first_divergence": None, "cause": None, "stages": []}, "Different in what they find", "is not the same"),
    ({"boxes": None, "scores": None}, "Different, first at c2", "The two models part at c2."),
    ({"first_divergence": "pixels"}, "Different, first at pixels", "are given other pixels"),
    ({"verdict": None}, "No verdict", "What could be compared stands below"),
    ({"verdict": "anything"}, "No verdict", "There is no verdict"),
    ({"verdict": None, "stages": [], "images": {}}, "Nothing could be compared", "no stage and no image"),
    ({"verdict": None, "unfinished": "stopped"}, "Unfinished", "the comparison stopped before"),
])
def test_the_sentence_of_a_difference(changes, title, words):
    told = verdict({**different(), **changes})
    assert told.title == title and words in told.sentence
    assert title in markdown({**different(), **changes}).replace("\\", "")


@pytest.mark.parametrize(("name", "title", "words"), [
    ("same", "The same", "All 11 stages agree bit for bit."),
    ("within tolerance", "The same within tolerance", "none of 11 stages differs by more than its tolerance")])
def test_the_sentence_of_sameness(name, title, words):
    told = verdict(same(name))
    assert told.title == title and words in told.sentence
    assert [(fact.question, fact.answer, fact.tone) for fact in told.facts] == [
        ("Where", "nowhere", "good"), ("Boxes", "all the same", "good")]


@pytest.mark.parametrize(("rows", "tone", "words"), [
    ({"rrc": score(0.0, None)}, "plain", "not yet a proof"),
    ({"rrc": score(0.0, "same")}, "plain", "shown to be the same on these images only: no image is counted otherwise"),
    ({"rrc": score(0.0002, "same")}, "good", "shown to be the same"),
    ({"rrc": score(0.0, "not shown")}, "plain", "not shown to be the same"),
    ({"rrc": score(-0.3, "same"), "mindocr": score(0.001, "different")}, "bad", "shown to be different"),
])
def test_the_fact_of_the_score(rows, tone, words):
    fact = verdict({**different(), "scores": {"protocols": rows}}).facts[-1]
    assert (fact.question, fact.tone) == ("F-score", tone) and words in fact.detail


def test_unfinished_is_told_first():
    data = {**different(), "unfinished": "MemoryError at image 3; images 3 to 9 are missing"}
    page, text, suite = checked(data)
    assert page.words.split("details")[1].strip().startswith("Unfinished. MemoryError at image 3")
    assert text.index("Unfinished") < text.index("### ")
    assert "MemoryError at image 3" in suite.find("testcase[@name='finished']/error").get("message")


def test_a_stage_that_failed_is_named_without_a_verdict():
    assert verdict({"stages": different()["stages"], "unfinished": "stopped"}).facts[0].answer == "c2"


def test_sameness_on_images_alone():
    data = {**same("within tolerance"), "stages": []}
    assert verdict(data).sentence == ("Not bit for bit, but nothing on 1 image differs by more than the tolerance. "
                                      "All 74 boxes are the same.")
    assert verdict({**data, "verdict": "same"}).sentence.startswith("No difference was found on 1 image.")


@pytest.mark.parametrize("name", ["same", "within tolerance"])
def test_what_is_unfinished_is_not_called_the_same(name):
    told = verdict({**same(name), "unfinished": "stopped at image 3"})
    assert told.title.endswith(", so far") and told.tone == "none"
    assert verdict({**different(), "unfinished": "stopped"}).tone == "different"


def test_images_that_failed_are_told_beside_the_verdict():
    assert verdict({**same(), "failed": ["a", "b"]}).sentence.endswith("2 images could not be compared.")


def test_causes_are_those_of_the_engine():
    assert set(CAUSES) == set(suspects.CAUSES)


def test_infinite_residuals_are_said():
    data = {**different(), "causes": [{"cause": "resize_rule", "what": "w", "before": None, "residual": 0.2,
                                       "explained": False}]}
    page, _, _ = checked(data)
    assert "not comparable 2.0e-01" in page.words and "not all of it" in page.words


def test_a_stage_that_cannot_be_compared():
    why = "736 x 1280 px against 960 x 960 px"
    page, text, suite = checked({**different(), "stages": [{"stage": "pixels", "passed": False, "why": why}]})
    assert all(why in words for words in (page.words, text, suite.find("testcase[@name='pixels']/failure").text))


@pytest.mark.parametrize(("row", "state"), [
    ({"passed": True}, "ok"), ({"passed": False, "why": "x"}, "apart"),
    ({"passed": False, "max_rel": 1, "isolated_passed": True}, "inherited"),
    ({"passed": False, "max_rel": 1, "isolated_passed": False}, "own"),
    ({"passed": False, "max_rel": 1, "isolated_passed": None}, "differs"),
    ({"passed": False, "max_rel": 1, "stage": "c2"}, "own")])
def test_whose_error_it_is(row, state):
    assert state_of(row, own=["c2"]) == state


@given(st.lists(st.floats(0, 1e30) | st.none(), max_size=20))
def test_every_value_has_its_place_on_the_axis(values):
    scale = scale_of(values)
    places = [(value, scale.place(value)) for value in values if value is not None]
    assert all(0 <= place <= 100 for _, place in places)
    ordered = [place for _, place in sorted(places)]
    assert ordered == sorted(ordered)
    assert scale.high > scale.low and scale.ticks[0][0] == 0


def test_the_bars_are_as_long_as_the_errors():
    text = html({**different(), "stages": [{"stage": "c2", "max_rel": 1e-2, "isolated_max_rel": 1e-5,
                                            "tolerance": 1e-4, "float64_candidate": 1e-3, "passed": False},
                                           {"stage": "c3", "max_rel": 1e-6, "tolerance": 1e-4, "passed": True}]})
    widths = [float(width) for width in re.findall(r'class="chained" style="width:([\d.]+)%"', text)]
    marks = [float(left) for left in re.findall(r'class="tolerance" style="left:([\d.]+)%"', text)]
    assert widths == [100.0, 20.0] and marks == [60.0, 60.0]  # the axis from 1e-7 to 1e-2
    assert re.findall(r'class="isolated" style="width:([\d.]+)%"', text) == ["40.0"]
    assert re.findall(r'class="dot (.)" style="left:([\d.]+)%"', text) == [("b", "80.0")]


def test_junit_tells_what_failed():
    suite = checked(different())[2]
    found = {case.get("name"): case for case in suite.findall("testcase")}
    assert set(found) == {*STAGES, "probability, all images", "boxes", "rrc", "mindocr", "all images could be compared"}
    failure = found["c2"].find("failure")
    assert "bn_eps" in failure.get("message") and "inherited" in failure.text and failure.text.count("\n") > len(STAGES)
    assert "8 of 74" in found["boxes"].find("failure").get("message")
    assert found["mindocr"].find("failure").get("message").startswith("not shown within ±0.001")
    assert "img_7.jpg" in found["all images could be compared"].find("error").text
    assert float(suite.get("time")) == pytest.approx(103.5)
    assert {p.get("name"): p.get("value") for p in suite.iter("property")}["verdict"] == "different"


def test_junit_passes_for_models_that_are_the_same():
    suite = checked(same())[2]
    assert [suite.get(name) for name in ("failures", "errors", "skipped")] == ["0", "0", "0"]
    assert int(suite.get("tests")) == len(STAGES) + 2


@pytest.mark.parametrize(("name", "kind"), [("same", None), ("different", "failure"), ("not shown", "failure"),
                                            (None, "skipped")])
def test_junit_of_a_score(name, kind):
    suite = checked({**same(), "scores": {"protocols": {"rrc": score(0.0, name)}}})[2]
    children = [child.tag for child in suite.find("testcase[@name='rrc']")]
    assert children == ([kind] if kind else [])


def test_junit_never_passes_what_is_different():
    suite = checked({"verdict": "different", "stages": [{"stage": "c2", "passed": True, "max_rel": 0.0}]})[2]
    assert suite.get("failures") == "1"


def test_200_images_stay_below_5_mb():
    """With all the pictures that are given, in noise, which no format makes smaller."""
    data = different()
    names = [f"a_folder_with_a_long_name/scene_{i:05}.jpg" for i in range(200)]
    data["images"] = {name: image_row() for name in names}
    data["boxes"]["differences"] = [difference(name) for name in names[:100]]
    data["failed"] = [f"{name}: is cut off" for name in names]
    noise = np.random.default_rng(1).bytes(160_000)
    pictures = [Picture(name, "caption", b"\xff\xd8" + noise, image=name) for name in names]
    page, text, _ = checked(data, pictures)
    kept = sum(tag == "img" for tag, _ in page.tags)
    assert kept == PICTURE_BYTES // 160_002 and f"{200 - kept} more pictures are left out" in page.words
    assert 4_000_000 < len(html(data, pictures).encode()) < 5_000_000
    assert all(name in page.words for name in names)
    assert len(text) < 65_536


@pytest.mark.parametrize(("said", "expected"), [
    (error(0.0), "0"), (error(1.234e-5), "1.2e-05"), (error(None), "–"), (error(float("nan")), "–"),
    (tolerance(1e-5), "1e-05"), (tolerance(2.5e-5), "2.5e-05"), (plain(153286), "153,286"), (plain(-4.0), "−4"),
    (plain(124.12, 1), "124.1"), (fixed(-0.00001), "0.0000"), (signed(0), "±0"), (signed(-0.0106), "−0.0106"),
    (signed(0.00001), "+1e−05"), (percent(0.94), "94 %"), (percent(0.0003), "0.03 %"), (percent(-0.03), "−3 %"),
    (percent(1), "100 %"), (percent(0.9996), "99.96 %"), (seconds(200.4), "3 min 20 s"), (seconds(0.412), "0.41 s"),
    (seconds(59.9), "60 s"), (many(1, "box", "boxes"), "1 box"), (many(2, "box", "boxes"), "2 boxes"),
    (name_of("a/b.onnx"), "b.onnx"), (name_of("C:\\m\\b.ckpt"), "b.ckpt"), (plain(True), "–")])
def test_numbers_in_words(said, expected):
    assert said == expected


def test_the_data_is_not_changed():
    data = different()
    before = copy.deepcopy(data)
    checked(data)
    assert data == before
    json.dumps(data, allow_nan=False)


def test_pictures_without_numbers_are_shown():
    page, _, _ = checked({}, [Picture("of a stage", "c", PNG, top=1.0), Picture("of an image", "c", PNG, image="")])
    assert sum(tag == "img" for tag, _ in page.tags) == 2 and "of a stage" in page.words and "of an image" in page.words
