"""The evaluate engine with a runner that needs no framework: it finds text where an image is bright."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbnet.errors import DbnetError
from dbnet.sample import Sample
from dbnet.spec import MHLIAO_BOXES, MHLIAO_PIXELS, MINDOCR_BOXES, MINDOCR_PP_PIXELS, PADDLE_BOXES, PADDLE_PIXELS, SPECS
from dbnet.version import VERSION
from evaluation.detect import detect
from evaluation.evaluate import evaluate
from evaluation.protocols import Counts, Score

SPEC = SPECS["db_mv3_paddle"]
#: Small, so that a test takes milliseconds.
PIXELS = replace(PADDLE_PIXELS, size=(96, 96))


class BrightnessRunner:
    """Probability = brightness: 0.9 where all three channels are bright, 0 elsewhere."""

    name = "brightness"
    device = "cpu"
    spec = SPEC

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"probability": np.where(images.min(axis=1, keepdims=True) > 0, 0.9, 0.0).astype(np.float32)}

    def environment(self) -> dict[str, str]:
        return {"device": "CPU"}


class BrokenRunner(BrightnessRunner):
    def __init__(self, output: np.ndarray):
        self.output = output

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"probability": self.output}


def grown(x: int, y: int, width: int, height: int) -> np.ndarray:
    """The text of which only this core is drawn, as DBNet is taught to see it."""
    distance = width * height * 1.5 / (2 * (width + height))
    left, top, right, bottom = x - distance, y - distance, x + width + distance, y + height + distance
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def draw(path: Path, cores: list[tuple[int, int, int, int]], size=(120, 200), ignore=()) -> Sample:
    image = np.zeros((*size, 3), np.uint8)
    for x, y, width, height in cores:
        image[y:y + height, x:x + width] = 255
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    ignored = np.isin(np.arange(len(cores)), ignore)
    return Sample(path, [grown(*core) for core in cores], ignored, [""] * len(cores))


@pytest.mark.parametrize(("pixels", "boxes"), [
    (PIXELS, PADDLE_BOXES),
    (replace(MHLIAO_PIXELS, size=(96, 96)), MHLIAO_BOXES),
    (replace(MINDOCR_PP_PIXELS, size=(160, 416)), MINDOCR_BOXES),  # a third of it padding
    (replace(MINDOCR_PP_PIXELS, size=(416, 160)), replace(MINDOCR_BOXES, box_type="poly")),
    (replace(MINDOCR_PP_PIXELS, size=(128, 160), resize="stretch"), MINDOCR_BOXES),
])
def test_boxes_come_back_in_pixels_of_the_image(tmp_path, pixels, boxes):
    core = (60, 40, 80, 24)
    image = cv2.imread(str(draw(tmp_path / "a.png", [core]).image))
    (found,) = detect(BrightnessRunner(), image, pixels, boxes)
    low, high = found.polygon.min(axis=0), found.polygon.max(axis=0)
    np.testing.assert_allclose((low, high), (grown(*core)[0], grown(*core)[2]), atol=5)
    assert found.score > 0.7


def test_evaluation(tmp_path):
    samples = [
        draw(tmp_path / "img_1.png", [(20, 30, 60, 12), (110, 70, 60, 12)]),
        draw(tmp_path / "img_2.png", [(20, 30, 60, 12), (110, 70, 60, 12)], ignore=(1,)),
        draw(tmp_path / "图 3.png", [], size=(33, 47)),
    ]
    missed = replace(samples[0], polygons=[*samples[0].polygons, grown(5, 5, 30, 10)],
                     ignore=np.array([False, False, False]), texts=["", "", ""])
    seen = []
    evaluation = evaluate(BrightnessRunner(), [missed, *samples[1:]], PIXELS, PADDLE_BOXES,
                          progress=lambda done, count: seen.append((done, count)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(evaluation.counts.items()) == [
        ("img_1.png", Counts(2, 3, 2)), ("img_2.png", Counts(1, 1, 1)), ("图 3.png", Counts(0, 0, 0))]
    assert evaluation.scores == {"rrc": Score(1.0, 0.75, pytest.approx(6 / 7))}
    assert evaluation.settings == {"runner": "brightness", "spec": "db_mv3_paddle", "semantics": SPEC.semantics(),
                                   "pixels": asdict(PIXELS), "boxes": asdict(PADDLE_BOXES), "images": 3}
    assert evaluation.versions["opencv"] == cv2.__version__
    assert evaluation.versions["dbnet-parity"] == VERSION
    assert evaluation.versions["runner"] == {"device": "CPU"}
    assert all(evaluation.versions[part] for part in ("numpy", "shapely", "pyclipper", "python"))


def test_json_is_the_documented_contract(tmp_path):
    evaluation = evaluate(BrightnessRunner(), [draw(tmp_path / "img_1.png", [(20, 30, 60, 12)])], PIXELS, PADDLE_BOXES)
    data = json.loads(evaluation.to_json())
    assert list(data) == ["scores", "images", "versions", "settings"]
    assert data["scores"] == {"rrc": {"precision": 1.0, "recall": 1.0, "fscore": 1.0}}
    ((name, image),) = data["images"].items()
    assert name == "img_1.png"
    ((detection,),) = image.values()
    assert list(image) == ["detections"]
    assert list(detection) == ["polygon", "score"]
    assert np.shape(detection["polygon"]) == (4, 2)
    assert detection["polygon"] == evaluation.detections["img_1.png"][0].polygon.tolist()
    assert 0.6 < detection["score"] <= 1


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_one_line(tmp_path, content):
    good = draw(tmp_path / "img_1.png", [(20, 30, 60, 12)])
    bad = replace(good, image=tmp_path / "img_2.png")
    if content is not None:
        bad.image.write_bytes(content)
    with pytest.raises(DbnetError, match=r"img_2\.png: ") as error:
        evaluate(BrightnessRunner(), [good, bad], PIXELS, PADDLE_BOXES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("output", "message"), [
    (np.full((1, 1, 128, 192), np.nan, np.float32), r"img_1\.png: the probability map holds values from nan"),
    (np.full((1, 1, 128, 192), 3, np.float32), r"img_1\.png: the probability map holds values from 3 to 3"),
    (np.zeros((1, 1, 24, 40), np.float32), r"brightness returned .*\(1, 1, 24, 40\), not \(1, 1, 128, 192\)"),
    (np.zeros((128, 192), np.float32), r"img_1\.png: brightness returned"),
])
def test_a_broken_network(tmp_path, output, message):
    with pytest.raises(DbnetError, match=message):
        evaluate(BrokenRunner(output), [draw(tmp_path / "img_1.png", [])], PIXELS, PADDLE_BOXES)


def test_no_images_and_images_of_the_same_name(tmp_path):
    with pytest.raises(DbnetError, match="no images to evaluate"):
        evaluate(BrightnessRunner(), [], PIXELS, PADDLE_BOXES)
    (tmp_path / "other").mkdir()
    samples = [draw(tmp_path / "img_1.png", []), draw(tmp_path / "other" / "img_1.png", [])]
    with pytest.raises(DbnetError, match=r"another image is called img_1\.png"):
        evaluate(BrightnessRunner(), samples, PIXELS, PADDLE_BOXES)


def test_paddles_maps_give_the_boxes_of_its_result_file(need):
    """Real maps of the trained model through pixels, box rule and rescaling: the boxes that were handed in for them."""
    from dbnet.preprocess import read_image
    from evaluation.results import read_results

    results = read_results(need("data/results/icdar2015_db_mv3.zip"))
    for name in ("img_2", "img_7", "img_10"):
        golden = cv2.imread(str(need(f"golden/db_mv3_icdar15/{name}.probability.png")), cv2.IMREAD_UNCHANGED)
        runner = BrokenRunner((golden / 65535).astype(np.float32)[np.newaxis, np.newaxis])
        image = read_image(need(f"data/icdar2015/test/images/{name}.jpg"))
        found = detect(runner, image, PADDLE_PIXELS, PADDLE_BOXES)
        assert [d.polygon.tolist() for d in found] == [d.polygon.tolist() for d in results[name]]
