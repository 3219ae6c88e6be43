"""`dbnet compare` with all that it can say of two models: boxes, scores, exchanged parts, reports."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from tests import detecting
from tests.comparison_data import different

pytest.importorskip("onnxruntime")

COUNT = 20  # the fewest that can show that two scores are the same


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two models, photographs and their labels."""
    import converters
    folder = tmp_path_factory.mktemp("scene")
    detecting.write_model(folder / "a.onnx")
    converters.save_weights(seeded_weights(detecting.SPEC, 2031), folder / "b.onnx", spec=detecting.SPEC)
    detecting.write_photos(folder / "photos", COUNT)
    detecting.write_labels(folder / "gt", COUNT)
    return folder


def compared(dbnet, scene, a, b, *more, code):
    """The JSON of a comparison on the labelled images, without its stages."""
    out = scene / "o.json"
    out.unlink(missing_ok=True)
    said = dbnet("compare", scene / a, scene / b, "--no-stages", "--images", scene / "photos", *more, "--json", out,
                 code=code)
    return said, json.loads(out.read_text()) if out.exists() else None


def test_everything_at_once(scene, tmp_path, dbnet):
    reports = [argument for kind in ("html", "markdown", "junit") for argument in (f"--{kind}", tmp_path / f"r.{kind}")]
    said, data = compared(dbnet, scene, "a.onnx", "b.onnx", "--gt", scene / "gt", "--protocol", "rrc,mindocr", "--swap",
                          "--limit", "3", "--box-thresh", "0.1", *reports, code=1)
    assert data["verdict"] == "different" and data["unfinished"] is None and len(data["images"]) == 3
    boxes, differences = data["boxes"], data["boxes"]["differences"]
    apart = boxes["moved"] + boxes["lost"] + boxes["invented"]
    assert len(differences) == min(apart, 100) > 0 and all(row["why"] for row in differences)
    assert set(data["scores"]["protocols"]) == {"rrc", "mindocr"} and data["scores"]["images"] == 3
    rrc = data["scores"]["protocols"]["rrc"]
    assert rrc["difference"]["fscore"] == pytest.approx(rrc["b"]["fscore"] - rrc["a"]["fscore"])
    [part] = data["swap"]["parts"]
    assert (part["part"], part["boxes_share"], data["swap"]["protocol"]) == ("network", 1.0, "rrc")
    assert data["swap"]["total_boxes"] == boxes["a"] + boxes["b"] - 2 * boxes["identical"]
    assert data["command"][:2] == ["dbnet", "compare"] and set(data["seconds"]) >= {"comparing the images"}
    page = (tmp_path / "r.html").read_text()
    assert "img_1.png" in page and page.count("data:image/jpeg") == 3
    assert (tmp_path / "r.markdown").read_text().startswith("<!-- dbnet compare -->\n\n## Different")
    suite = ET.parse(tmp_path / "r.junit").getroot()
    assert suite.findall(".//failure")
    for line in ("different: in what they find\n", "note: F is by rrc here, not by mindocr", "100 % network",
                 f"report: {tmp_path / 'r.html'}", "img_1.png"):
        assert line in said.out


@pytest.mark.parametrize(("b", "margin", "limit", "code", "verdict", "score"), [
    ("a.onnx", "0.001", COUNT, 0, "same", "same"),
    ("a.onnx", "0.001", COUNT - 1, 1, "same", "not shown"),  # that no difference was found is not enough
    ("b.onnx", "0.9", COUNT, 0, "different", "same"),  # other boxes, but that was not the question
])
def test_the_exit_code_answers_the_question(b, margin, limit, code, verdict, score, scene, dbnet):
    said, data = compared(dbnet, scene, "a.onnx", b, "--gt", scene / "gt", "--same-f", margin, "--limit", limit,
                          code=code)
    told = data["scores"]["protocols"]["rrc"]["same_f"]
    assert (data["verdict"], told["verdict"]) == (verdict, score)
    assert f"rrc: F {score} within {margin}" in said.out


@pytest.mark.parametrize(("kind", "content", "told"), [
    ("html", "<!DOCTYPE html><html><head><title>mine</title>", "is no report of --html"),
    ("junit", "<?xml version='1.0'?><testsuites name='mine'>", "is no report of --junit"),
    ("markdown", "# Mine", "is no report of --markdown"), ("markdown", "## Different, first at p5", "is no report"),
    ("html", None, "nowhere.onnx"), ("junit", None, "nowhere.onnx"), ("markdown", None, "nowhere.onnx"),
    ("html", "", "nowhere.onnx"), ("markdown", "junit", "is no report of --markdown"),
])
def test_nothing_but_a_report_of_ours_is_replaced(kind, content, told, tmp_path, dbnet):
    """content: of the file that is there already, None for a report of that kind."""
    from evaluation import comparison_report
    ours = getattr(comparison_report, content or kind)(different()) if content in (None, "junit") else content
    (tmp_path / "there").write_text(ours)
    model = tmp_path / "nowhere.onnx"
    said = dbnet("compare", model, model, f"--{kind}", tmp_path / "there", code=3)
    assert told in said.err and said.err.count("\n") == 1 and (tmp_path / "there").read_text() == ours


@pytest.mark.parametrize("name", ["gt_img_1.txt", "gt_img_2.txt", "new.md"])
def test_labels_that_are_read_are_not_overwritten(name, tmp_path, dbnet):
    """An empty label file is a picture without text, and no report."""
    labels = detecting.write_labels(tmp_path / "gt", 1)
    (labels / "gt_img_2.txt").touch()
    before = {path.name: path.read_text() for path in labels.iterdir()}
    model = tmp_path / "a.onnx"
    said = dbnet("compare", model, model, "--images", tmp_path, "--gt", labels, "--markdown", labels / name, code=3)
    assert ("is no report of --markdown" if name == "gt_img_1.txt" else "gt is read by this command") in said.err
    assert before == {path.name: path.read_text() for path in labels.iterdir()}


def test_two_protocols(scene, dbnet):
    """The same model, scored in two ways: nothing but that makes a difference."""
    said, data = compared(dbnet, scene, "a.onnx", "a.onnx", "--gt", scene / "gt", "--swap", "--protocol", "rrc",
                          "--protocol-b", "mindocr", "--limit", "4", "--box-thresh", "0.05", code=0)
    assert [part["part"] for part in data["swap"]["parts"]] == ["protocol"] and data["swap"]["total_boxes"] == 0
    assert "no box differs" in said.out


def test_images_without_labels(scene, tmp_path, dbnet):
    detecting.write_photos(scene / "photos", 1)
    detecting.write_image(scene / "photos/stranger.png")
    try:
        said, _ = compared(dbnet, scene, "a.onnx", "b.onnx", "--gt", scene / "gt", code=3)
    finally:
        (scene / "photos/stranger.png").unlink()
    assert "stranger.png" in said.err and "has no labels for it" in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize("name", ["d[/x].png", "b[red].png", ":smile:.png", "e[/].png", "c\\[a].png"])
def test_names_are_no_markup(name, capsys):
    """Rich would colour them, leave them out, or stop at what it cannot close."""
    from dbnet.cli.options import print_table
    print_table(name, (name, "boxes"), [(name, 3)], right=[1])
    assert capsys.readouterr().out.count(name) == 3


@pytest.mark.parametrize("form", ["files", "label file"])
def test_a_broken_label_matters_to_who_looks_at_its_image(form, tmp_path):
    """--limit leaves out the second image, and with it its label."""
    from dbnet.cli.compare_inputs import find_inputs
    detecting.write_photos(tmp_path / "photos", 3)
    labels = detecting.write_labels(tmp_path / "gt", 3)
    if form == "files":
        with (labels / "gt_img_2.txt").open("a") as stream:
            stream.write("\n1,2,3,nobody\n")
    else:
        labels = tmp_path / "labels.txt"
        good = [{"transcription": "a", "points": [[0, 0], [9, 0], [9, 9], [0, 9]]}]
        labels.write_text("".join(f"img_{i}.png\t{json.dumps(good + [{'points': 5}] * (i == 2))}\n" for i in (1, 2, 3)))
    images = (str(tmp_path / "photos"),)
    found = find_inputs(images, False, 1, labels, None, ())
    assert [sample.image.name for sample in found.samples] == ["img_1.png"]
    with pytest.raises(DbnetError, match=r"gt_img_2\.txt|labels\.txt, line 2"):
        find_inputs(images, False, 2, labels, None, ())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] out of memory")])
def test_a_runner_that_gives_up(error, scene, tmp_path, dbnet, monkeypatch):
    """Stages were compared, then there is no memory for the images: that is told, in the report too."""
    pytest.importorskip("torch")
    import converters
    from torch_reference.dbnet import DBNet
    converters.save_weights(seeded_weights(detecting.SPEC, 2030), tmp_path / "a.pth", spec=detecting.SPEC)
    stages = DBNet.stages

    def limited(self, x):
        if x.shape[-1] > 160:
            raise error
        return stages(self, x)

    monkeypatch.setattr(DBNet, "stages", limited)
    said = dbnet("compare", tmp_path / "a.pth", scene / "a.onnx", "--images", scene / "photos", "--limit", "2",
                 "--pixels", "resize=stretch,size=192x192", "--html", tmp_path / "o.html", "--json",
                 tmp_path / "o.json", code=3)
    data = json.loads((tmp_path / "o.json").read_text())
    assert len(data["failed"]) == 2 or data["unfinished"]
    assert "memory" in said.err and "memory" in (tmp_path / "o.html").read_text()
