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
from evaluation.evaluate import Evaluation, evaluate, evaluate_results
from evaluation.protocols import Protocol, Result, Score
from evaluation.protocols.table import find

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


@pytest.fixture
def samples(tmp_path):
    """Two found texts, and one that is missed; one found and one to be ignored; nothing."""
    first = draw(tmp_path / "img_1.png", [(20, 30, 60, 12), (110, 70, 60, 12)])
    missed = replace(first, polygons=[*first.polygons, grown(5, 5, 30, 10)], ignore=np.zeros(3, bool), texts=[""] * 3)
    return [missed, draw(tmp_path / "img_2.png", [(20, 30, 60, 12), (110, 70, 60, 12)], ignore=(1,)),
            draw(tmp_path / "图 3.png", [], size=(33, 47))]


def test_evaluation(samples):
    seen = []
    evaluation = evaluate(BrightnessRunner(), samples, PIXELS, PADDLE_BOXES,
                          progress=lambda done, count: seen.append((done, count)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(evaluation.detections) == ["img_1.png", "img_2.png", "图 3.png"]
    assert [len(found) for found in evaluation.detections.values()] == [2, 2, 0]
    assert evaluation.results["rrc"].per_image.tolist() == [[2, 3, 2, 2], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert evaluation.scores == {"rrc": Score(1.0, 0.75, pytest.approx(6 / 7))}
    assert evaluation.settings == {"runner": "brightness", "model": None, "spec": "db_mv3_paddle",
                                   "semantics": SPEC.semantics(), "pixels": asdict(PIXELS),
                                   "boxes": asdict(PADDLE_BOXES), "images": 3}
    assert evaluation.versions["opencv"] == cv2.__version__
    assert evaluation.versions["dbnet-parity"] == VERSION
    assert evaluation.versions["runner"] == {"device": "CPU"}
    assert all(evaluation.versions[part] for part in ("numpy", "shapely", "pyclipper", "python"))
    assert (evaluation.sweep, evaluation.resumed) == ([], 0)


def test_json_is_the_documented_contract(samples):
    evaluation = evaluate(BrightnessRunner(), samples, PIXELS, PADDLE_BOXES)
    data = json.loads(evaluation.to_json())
    assert data == json.loads(json.dumps(evaluation.to_dict()))
    assert list(data) == ["scores", "protocols", "images", "versions", "settings"]
    assert data["scores"] == {"rrc": {"precision": 1.0, "recall": 0.75, "fscore": pytest.approx(6 / 7)}}
    rrc = find(["rrc"])[0]
    interval = {name: list(ends) for name, ends in evaluation.results["rrc"].interval().items()}
    assert data["protocols"] == {
        "rrc": {"title": rrc.title, "thresholds": dict(rrc.thresholds), "interval95": interval}}
    assert list(data["images"]) == ["img_1.png", "img_2.png", "图 3.png"]
    image = data["images"]["img_1.png"]
    assert image["counts"] == {"rrc": {"found_texts": 2, "texts": 3, "right_detections": 2, "detections": 2}}
    detection, _ = image["detections"]
    assert list(detection) == ["polygon", "score"]
    assert np.shape(detection["polygon"]) == (4, 2)
    found = evaluation.detections["img_1.png"][0]
    assert (detection["polygon"], detection["score"]) == (found.polygon.tolist(), found.score)
    assert 0.6 < detection["score"] <= 1


@pytest.mark.parametrize("variants", [1, 3])
@pytest.mark.parametrize("seed", [0, 5])
def test_interval_is_the_percentile_bootstrap(variants, seed):
    """Against the definition, drawn otherwise; several variants compete in every draw."""
    rng = np.random.default_rng(seed + 10)
    texts, detections = rng.integers(1, 9, (2, 60, 1)).repeat(variants, axis=2)
    matched = rng.binomial(np.minimum(texts, detections), 0.6)
    counts = np.stack([matched, texts, matched, detections], axis=-1).astype(float)
    table = Result(Protocol("any", "", {}, lambda samples, found: counts, ("",) * variants), counts)
    draws = []
    for _ in range(6000):
        sums = counts[rng.choice(60, 60)].sum(axis=0)
        scores = [(m / d, m / t, 2 * m / (t + d)) for m, t, _, d in sums]
        draws.append(max(scores, key=lambda score: score[2]))
    expected = np.percentile(draws, [2.5, 97.5], axis=0).T
    assert np.abs(np.array(list(table.interval(seed=seed).values())) - expected).max() < 0.008


def test_interval_of_variants_that_take_turns():
    """Each image is found by one variant only: the best of a draw is always above the half that each has in all."""
    counts = np.zeros((40, 2, 4))
    counts[:, :, [1, 3]] = 1
    counts[::2, 0, [0, 2]] = counts[1::2, 1, [0, 2]] = 1
    table = Result(Protocol("any", "", {}, lambda samples, found: counts, ("a", "b")), counts)
    assert table.interval()["fscore"][0] >= 0.5


def test_protocols_with_several_variants_name_theirs(samples):
    def count(samples, detections):
        return np.array([[[i, 2, i, 2] for i in range(3)]] * len(samples), float)

    table = Result(Protocol("best of", "a scan", {}, count, ("low", "middle", "high")), count(samples, []))
    data = Evaluation({"best of": table}, {"a": [], "b": [], "c": []}, [], {}, {}).to_dict()
    assert data["protocols"]["best of"]["variant"] == "high"
    assert data["images"]["b"]["counts"]["best of"]["found_texts"] == 2


def test_a_sweep_is_one_evaluation_for_each_rule(samples):
    rules = [replace(PADDLE_BOXES, box_thresh=threshold, unclip_ratio=ratio)
             for threshold in (0.5, 0.95) for ratio in (1.5, 4.0)]
    evaluation = evaluate(BrightnessRunner(), samples, PIXELS, PADDLE_BOXES, sweep=rules)
    assert [values for values, _ in evaluation.sweep] == [
        {"box_thresh": rule.box_thresh, "unclip_ratio": rule.unclip_ratio} for rule in rules]
    for rule, (_, results) in zip(rules, evaluation.sweep, strict=True):
        alone = evaluate(BrightnessRunner(), samples, PIXELS, rule)
        np.testing.assert_array_equal(results["rrc"].counts, alone.results["rrc"].counts)
    assert len({results["rrc"].score.fscore for _, results in evaluation.sweep}) > 1
    plain = evaluate(BrightnessRunner(), samples, PIXELS, PADDLE_BOXES)
    assert evaluation.scores == plain.scores
    data = json.loads(evaluation.to_json())
    assert "chosen on the images that it is scored on" in data["sweep"]["note"]
    assert data["sweep"]["settings"][3]["values"] == {"box_thresh": 0.95, "unclip_ratio": 4.0}
    assert set(data["sweep"]["settings"][0]["scores"]["rrc"]) == {"precision", "recall", "fscore"}
    assert data["images"] == json.loads(plain.to_json())["images"]


def test_anybodys_detections_score_like_our_own(samples):
    evaluation = evaluate(BrightnessRunner(), samples, PIXELS, PADDLE_BOXES)
    theirs = evaluate_results(samples, list(evaluation.detections.values()), ["rrc"], score_thresholds=(0.1, 0.95))
    assert theirs.scores == evaluation.scores
    assert theirs.to_dict()["images"] == evaluation.to_dict()["images"]
    assert [(values, results["rrc"].score) for values, results in theirs.sweep] == [
        ({"score": 0.1}, evaluation.scores["rrc"]), ({"score": 0.95}, Score(0, 0, 0))]
    with pytest.raises(ValueError, match="3 samples but detections of 1"):
        evaluate_results(samples, [[]])


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


def test_no_images_and_one_image_twice(tmp_path):
    with pytest.raises(DbnetError, match="no images to evaluate"):
        evaluate(BrightnessRunner(), [], PIXELS, PADDLE_BOXES)
    sample = draw(tmp_path / "img_1.png", [])
    for again in (sample, replace(sample, image=tmp_path / "below" / ".." / "img_1.png")):
        with pytest.raises(DbnetError, match=r"img_1\.png: is there twice"):
            evaluate(BrightnessRunner(), [sample, again], PIXELS, PADDLE_BOXES)
        with pytest.raises(DbnetError, match=r"img_1\.png: is there twice"):
            evaluate_results([sample, again], [[], []])


def test_images_of_one_name_in_several_folders(tmp_path):
    """All are called by their paths below the folder that holds them, in the report and in the file of detections."""
    for folder in ("a", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
    names = ["a/img_1.png", "b/c/img_1.png", "b/img_2.png"]
    samples = [draw(tmp_path / name, [(20 + 9 * i, 30, 60, 14)] * (i > 0)) for i, name in enumerate(names)]
    save = tmp_path / "found.jsonl"
    for resumed in (0, 3):
        report = evaluate(BrightnessRunner(), samples, PIXELS, PADDLE_BOXES, save=save)
        assert report.resumed == resumed
        images = report.to_dict()["images"]
        assert list(images) == names
        assert [len(image["detections"]) for image in images.values()] == [0, 1, 1]
        assert [json.loads(line)["name"] for line in save.read_text().splitlines()[1:]] == names
    scored = evaluate_results(samples, [report.detections[name] for name in names])
    assert scored.scores == report.scores
    assert list(scored.detections) == names
    assert list(evaluate_results(samples[1:], [[], []]).detections) == ["img_1.png", "img_2.png"]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"protocols": ["rrc", "rcc"]}, "unknown protocol 'rcc'"), ({"protocols": []}, "no protocol"),
    ({"workers": 0}, "workers must be at least 1")])
def test_nothing_runs_with_bad_arguments(samples, tmp_path, arguments, message):
    with pytest.raises(DbnetError, match=message):
        evaluate(BrokenRunner(None), samples, PIXELS, PADDLE_BOXES, save=tmp_path / "a.jsonl", **arguments)
    assert not (tmp_path / "a.jsonl").exists()


def test_paddles_maps_give_the_boxes_of_its_result_file(need):
    """Real maps of the trained model through pixels, box rule and rescaling: the boxes that were handed in for them."""
    from dbnet.preprocess import read_image
    from evaluation.results import read_results

    results = read_results(need("data/results/icdar2015_db_mv3.zip")).detections
    for name in ("img_2", "img_7", "img_10"):
        golden = cv2.imread(str(need(f"golden/db_mv3_icdar15/{name}.probability.png")), cv2.IMREAD_UNCHANGED)
        runner = BrokenRunner((golden / 65535).astype(np.float32)[np.newaxis, np.newaxis])
        image = read_image(need(f"data/icdar2015/test/images/{name}.jpg"))
        found = detect(runner, image, PADDLE_PIXELS, PADDLE_BOXES)
        assert [d.polygon.tolist() for d in found] == [d.polygon.tolist() for d in results[name]]
