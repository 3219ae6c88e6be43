"""The trained DBNet on real ICDAR 2015 images: the same boxes and the same F-score in all three runtimes."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

import converters
from dbnet.datasets import icdar2015
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import prepare, read_image
from evaluation.protocols import table
from evaluation.results import by_sample, read_results
from evaluation.runners import open_runner
from parity.boxes import compare_boxes
from parity.cases import PAIRS, RUNNERS, SUFFIX
from parity.data import need

FEW, ALL = 24, 200
#: MindSpore takes two seconds an image.
FEWER = 12
#: The official script's result on the same images was made with OpenCV 4.10, see docs/parity.md.
SCORE_TOLERANCE = 0.001


def official(samples, detections):
    return table.score(["rrc"], samples, detections)["rrc"].score


class Trained:
    """Probability maps and detections of the trained model: runner -> image -> result, made when first asked for."""

    def __init__(self, folder, device_of=lambda runner: "cpu"):
        self.device_of = device_of
        self.source = need("weights/db_mv3_icdar15.pdparams")
        self.samples = icdar2015.load(need("data/icdar2015/test"))
        self.folder, self.files, self.runners, self.done = folder, {}, {}, {}

    def file(self, runner):
        """pdparams -> ckpt -> pth -> onnx: each runner reads its own format, the last after three hops."""
        path = self.source
        for name in ("mindspore", "torch", "onnxruntime"):
            if name not in self.files:
                self.files[name] = converters.convert(path, self.folder / f"trained{SUFFIX[name]}").target
            path = self.files[name]
        return self.files[runner]

    def map_and_boxes(self, runner, index):
        if (runner, index) not in self.done:
            if runner not in self.runners:
                self.runners[runner] = open_runner(self.file(runner), runner=runner, device=self.device_of(runner),
                                                   stages=("probability",))
            opened = self.runners[runner]
            spec = opened.spec
            prepared = prepare(read_image(self.samples[index].image), spec.pixels)
            probability = opened.run(prepared.tensor)["probability"][0, 0]
            boxes = boxes_from_map(probability, **asdict(spec.boxes), resized_size=prepared.resized_size,
                                   original_size=prepared.original_size)
            self.done[runner, index] = (probability, boxes)
        return self.done[runner, index]

    def score(self, runner, count):
        samples = self.samples[:count]
        return official(samples, [self.map_and_boxes(runner, i)[1] for i in range(len(samples))])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lab):
    return Trained(tmp_path_factory.mktemp("trained"), lab.device_of)


def require_same_boxes(trained, pair, count, report):
    from dbnet.spec import SPECS
    unexplained = []
    for i in range(min(count, len(trained.samples))):
        maps = [trained.map_and_boxes(runner, i)[0] for runner in pair]
        found = compare_boxes(*maps, SPECS["db_mv3_paddle"].boxes)
        report(pair=pair, image=trained.samples[i].name, boxes=found.boxes, unmatched=found.unmatched,
               explained=found.explained, max_abs=float(np.abs(maps[0] - maps[1]).max()))
        if found.unexplained:
            unexplained.append(f"{trained.samples[i].name}: {found.unexplained} of {found.boxes} boxes")
    assert not unexplained, f"{pair[0]} against {pair[1]}: " + "; ".join(unexplained)


def require_same_score(trained, count, available):
    available(*RUNNERS)
    scores = {runner: trained.score(runner, count) for runner in RUNNERS}
    assert len({round(score.fscore, 4) for score in scores.values()}) == 1, scores
    samples = trained.samples[:count]
    theirs = by_sample(read_results(need("data/results/icdar2015_db_mv3.zip")), samples, partial=True)
    published = official(samples, theirs)
    assert abs(scores["torch"].fscore - published.fscore) <= SCORE_TOLERANCE, (scores["torch"], published)


@pytest.mark.parametrize("pair", PAIRS, ids="~".join)
def test_same_boxes(pair, trained, available, report):
    available(*pair)
    require_same_boxes(trained, pair, FEWER if "mindspore" in pair else FEW, report)


def test_same_boxes_as_the_published_ones(trained, available):
    """Of PaddleOCR's own result file, made elsewhere with another OpenCV; a few boxes may differ in a corner."""
    available("torch")
    theirs = by_sample(read_results(need("data/results/icdar2015_db_mv3.zip")), trained.samples[:FEW], partial=True)
    equal = total = 0
    for i, boxes in enumerate(theirs):
        ours = {np.round(d.polygon).astype(int).tobytes() for d in trained.map_and_boxes("torch", i)[1]}
        equal += sum(np.round(d.polygon).astype(int).tobytes() in ours for d in boxes)
        total += len(boxes)
    assert equal >= 0.97 * total, f"{equal} of {total}"


@pytest.mark.long
@pytest.mark.parametrize("pair", PAIRS, ids="~".join)
def test_same_boxes_on_all_images(pair, trained, available, report):
    available(*pair)
    require_same_boxes(trained, pair, ALL, report)


@pytest.mark.long
def test_same_score_on_all_images(trained, available):
    require_same_score(trained, ALL, available)


def test_golden_maps(trained, available):
    """The project's own float32 maps of three images, stored with 16 bits."""
    available("torch")
    import cv2
    for number in (2, 7, 10):
        golden = cv2.imread(str(need(f"golden/db_mv3_icdar15/img_{number}.probability.png")), cv2.IMREAD_UNCHANGED)
        index = next(i for i, s in enumerate(trained.samples) if s.name == f"img_{number}.jpg")
        for runner in RUNNERS:
            available(runner)
            assert np.abs(trained.map_and_boxes(runner, index)[0] - golden / 65535).max() <= 1e-4, (runner, number)
