"""`dbnet compare` with all that it can say of two models: boxes, scores, exchanged parts, reports."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from dbnet.seeded import seeded_weights
from tests import detecting

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
    assert (tmp_path / "r.markdown").read_text().startswith("## Different")
    suite = ET.parse(tmp_path / "r.junit").getroot()
    assert suite.findall(".//failure")
    for line in ("100 % network", f"report: {tmp_path / 'r.html'}", "img_1.png"):
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
