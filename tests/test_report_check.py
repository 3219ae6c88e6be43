"""dbnet report check: a bundle scores again to its own digits, and whatever was changed is named."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from dbnet.errors import DbnetError
from evaluation.bench_report.check import check_bundle
from evaluation.bench_report.labels import labels_of
from evaluation.bench_report.scoring import counts_of, scores_of
from evaluation.benching.bundle import Scores, detections_digest, digest_of, to_text, write_bundle
from evaluation.benching.data import label_digests
from tests.report_bundles import Run, bundle, data


@pytest.fixture
def kept(tmp_path):
    """The file of a bundle, and a way to write a changed one: `kept(change)` on its JSON."""
    path = tmp_path / "a.json"

    def write(change=None):
        told = json.loads(to_text(bundle(Run(1))))
        if change is not None:
            change(told)
        path.write_text(json.dumps(told))
        return path

    return write


def checked(made):
    return check_bundle(made, labels_of(made, "a.json", None, None))


def test_the_same_digits():
    found = checked(bundle(Run(1)))
    assert found.findings == [] and found.rescored == 2
    assert [fscore for *_, fscore in found.rows] == [row.scores["rrc"].fscore for row in bundle(Run(1)).rows]


def test_a_part_and_joined_parts_score_again():
    from evaluation.bench_report.merge import merge
    parts = [bundle(Run(i), data(shard=(i, 2)), label=str(i)) for i in (1, 2)]
    for part in parts:
        assert checked(part).findings == [] and checked(part).rescored == 2
    for source in merge([("1", parts[0]), ("2", parts[1])]).sources:
        assert checked(source.bundle).findings == [] and len(labels_of(source.bundle, "", None, None)) == 6


def scores_changed(field, value):
    def change(told):
        told["rows"][1]["scores"]["rrc"][field] = value
    return change


def moved_box(told):
    """One box is elsewhere, and whoever did it thought of the digest."""
    [images] = told["detections"].values()
    changed = copy.deepcopy(images)
    changed[2]["detections"][0]["polygon"] = [[x + 200, y] for x, y in changed[2]["detections"][0]["polygon"]]
    digest = detections_digest(changed)
    told["detections"][digest] = changed
    told["rows"][1]["detections"] = digest


def moved_box_alone(told):
    [images] = told["detections"].values()
    images[0]["detections"][0]["score"] = 0.5


def counts_changed(told):
    """Counts and scores fit each other, but not the boxes."""
    scores = told["rows"][0]["scores"]["rrc"]
    counts = np.array(scores["counts"])
    counts[1, 0, 0] += 1
    made = scores_of("rrc", counts)
    told["rows"][0]["scores"]["rrc"] = vars(made)


def parity_changed(told):
    told["rows"][1]["parity"]["boxes_same"] -= 1


@pytest.mark.parametrize(("change", "messages"), [
    (scores_changed("fscore", 0.94), ["row 2, r18.onnx in torch",
                                      "fscore by rrc: 0.94 in the bundle, 0.9333333333333333"]),
    (scores_changed("recall", 0.8750000000000001), ["recall by rrc: 0.8750000000000001 in the bundle, 0.875"]),
    (scores_changed("precision", 0.5), ["precision by rrc: 0.5 in the bundle, 1.0"]),
    (scores_changed("interval", [0.1, 0.2]), ["interval by rrc: [0.1, 0.2] in the bundle"]),
    (moved_box, ["row 2, r18.onnx in torch", "f-score by rrc: 0.9333333333333333 in the bundle, 0.9",
                 "found texts by rrc in scene_0003", "boxes that are the same"]),
    (moved_box_alone, ["row 1", "row 2", "sha256 of the detections"]),
    (counts_changed, ["row 1, r18.onnx in onnxruntime", "found texts by rrc in scene_0002"]),
    (parity_changed, ["row 2", "boxes that are the same as the reference's: 41 in the bundle, 42 from"]),
], ids=lambda value: getattr(value, "__name__", ""))
def test_what_was_changed_is_named(dbnet, kept, change, messages):
    told = dbnet("report", "check", kept(change), code=1)
    for message in messages:
        assert message in told.out, told.out
    assert "DIFFERENT" in told.out and told.err == ""


def test_all_is_well_for_the_command(dbnet, kept, tmp_path):
    assert "the same digits (2 of 2 scores from detections and labels, 2 from counts)" in dbnet(
        "report", "check", kept()).out
    told = json.loads(dbnet("report", "check", kept(), "--json", "-").out)
    assert told["bundles"][0]["findings"] == [] and told["bundles"][0]["rescored"] == 2
    assert "no score from labels, 2 from counts" in dbnet("report", "check", kept(), "--no-labels").out


def test_without_labels_a_moved_box_is_not_seen(dbnet, kept):
    """Why check wants labels: all that needs none agrees."""
    def change(told):
        moved_box(told)
        told["rows"] = [{**told["rows"][1], "parity": None}]  # which is compared with nothing
    dbnet("report", "check", kept(change), "--no-labels")
    dbnet("report", "check", kept(change), code=1)


@pytest.mark.parametrize(("words", "code", "message"), [
    (["--root", "x", "--gt", "y"], 2, "give one of --root, --gt and --no-labels"),
    (["--no-labels", "--gt", "y"], 2, "give one of"),
    (["evaluation.json"], 3, "put files of one kind together"),
    (["nowhere.json"], 3, "cannot be read"),
])
def test_what_is_typed_wrong(dbnet, kept, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"scores": {}, "images": {}}')
    assert message in dbnet("report", "check", kept(), *words, code=code).err
    assert "what is checked" in dbnet("report", "check", "evaluation.json", code=3).err


def published(told, folder, names, **changes):
    """A bundle of ICDAR 2015's kind whose labels lie in a folder."""
    from dbnet.datasets.labels import read_labels
    folder.mkdir()
    (folder / "gt_img_1.txt").write_text("0,0,100,0,100,40,0,40,word\n0,100,100,100,100,140,0,140,###\n")
    (folder / "gt_img_2.txt").write_text("10,10,90,10,90,50,10,50,other\n")
    samples = read_labels(folder, "icdar2015").samples
    labels = label_digests(names, samples)
    told.update(kind="icdar2015", names=names, names_sha256=digest_of(names), images=2, image_sha256s=["a", "b"],
                images_sha256="x", label_sha256s=labels, labels_sha256=digest_of(labels), **changes)
    return samples


def labelled(tmp_path):
    """Such a bundle."""
    from evaluation.protocols.table import PROTOCOLS
    made = bundle(Run(1))
    told = dict(made.data)
    samples = published(told, tmp_path / "gt", ["img_1.jpg", "img_2.jpg"])
    images = [{"name": name, "detections": [{"polygon": sample.polygons[0].tolist(), "score": 0.5}]}
              for name, sample in zip(told["names"], samples, strict=True)]
    digest = detections_digest(images)
    from evaluation.benching.bundle import detections_of
    counts = PROTOCOLS["rrc"][0].count(samples, list(detections_of(images).values()))
    scores = {"rrc": scores_of("rrc", counts)}
    rows = [replace(row, detections=digest, scores=scores, parity=row.parity and replace(
        row.parity, images=2, boxes_same=2, boxes_all=2)) for row in made.rows]
    return replace(made, data=told, rows=rows, detections={digest: images})


def test_labels_of_their_owner_are_asked_for(dbnet, tmp_path):
    path = tmp_path / "a.json"
    write_bundle(labelled(tmp_path), path)
    told = dbnet("report", "check", path, code=3)
    assert "a.json was scored on icdar2015, whose labels are needed" in told.err and "--root or --gt" in told.err
    assert "the same digits (2 of 2 scores from detections" in dbnet(
        "report", "check", path, "--gt", tmp_path / "gt").out
    assert "no score from labels" in dbnet("report", "check", path, "--no-labels").out


@pytest.mark.parametrize(("change", "message"), [
    (lambda gt: (gt / "gt_img_2.txt").write_text("11,10,90,10,90,50,10,50,other\n"),
     "scored with other labels than these, of img_2.jpg"),
    (lambda gt: (gt / "gt_img_2.txt").rename(gt / "gt_img_3.txt"), "has no labels for img_2.jpg"),
    (lambda gt: [file.unlink() for file in gt.iterdir()], "no labels"),
])
def test_other_labels_are_no_check(dbnet, tmp_path, change, message):
    path = tmp_path / "a.json"
    write_bundle(labelled(tmp_path), path)
    change(tmp_path / "gt")
    assert message in dbnet("report", "check", path, "--gt", tmp_path / "gt", code=3).err


def test_the_data_set_itself_gives_the_labels(dbnet, tmp_path):
    import cv2
    made = labelled(tmp_path)
    write_bundle(made, tmp_path / "a.json")
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    for name in made.data["names"]:
        cv2.imwrite(str(root / "images" / name), np.zeros((160, 120, 3), np.uint8))
    (tmp_path / "gt").rename(root / "gt")
    assert "the same digits" in dbnet("report", "check", tmp_path / "a.json", "--root", root).out


def test_images_without_labels_have_nothing_to_score(dbnet, kept):
    def change(told):
        told["data"].update(kind="images", labels_sha256=None, label_sha256s=None, protocol=None, seed=None)
        for row in told["rows"]:
            row["scores"] = {}
    assert "there are no scores in it" in dbnet("report", "check", kept(change)).out


def shape_of(told, value):
    told["data"]["size"] = value


def first_polygon(told, value):
    for images in told["detections"].values():
        images[0]["detections"][0]["polygon"] = value


@pytest.mark.parametrize(("change", "message"), [
    (lambda told: shape_of(told, [10 ** 9, 10 ** 9]), "cannot be drawn|were drawn by seed"),
    (lambda told: shape_of(told, "x"), "were drawn by seed"),
    (lambda told: shape_of(told, None), "were drawn by seed"),
    (lambda told: told["data"].pop("size"), "were drawn by seed"),
    (lambda told: told["data"].update(seed=None), "were drawn by seed"),
    (lambda told: told["data"].update(seed=4), "other labels than these"),
    (lambda told: told["data"].update(shard={"index": 9, "count": 2, "images": 5}), "a.json: 9/2: the parts are"),
    (lambda told: told["data"].update(kind="imagenet"), "whose labels this dbnet cannot read|needed"),
    (lambda told: first_polygon(told, []), "damaged"),
    (lambda told: first_polygon(told, [[1.0, 2.0]]), "damaged"),
    (lambda told: first_polygon(told, [[1e30, 2.0]] * 4), "damaged"),
    (lambda told: first_polygon(told, [["a", "b"]] * 4), "damaged"),
    (lambda told: told["rows"][0]["scores"]["rrc"].update(counts=[[[1.0]]] * 6), "counts by rrc that are none"),
    (lambda told: told["rows"][0]["scores"]["rrc"].update(counts=[[[1.0, 2.0, 3.0, -4.0]]] * 6), "counts by rrc"),
    (lambda told: told["rows"][0]["scores"]["rrc"].update(counts=[[[1, 2, 3, 1e300]]] * 6), "counts by rrc"),
    (lambda told: told["rows"][0]["scores"].update(hmean=told["rows"][0]["scores"]["rrc"]), "no protocol of this"),
])
def test_damaged_bundles_are_one_line(dbnet, kept, change, message):
    import re
    told = dbnet("report", "check", kept(change), code=3)
    assert re.search(message, told.err) and told.err.count("\n") == 1, told.err


def test_scores_without_detections_are_named(dbnet, kept):
    def change(told):
        told["rows"][1].update(detections=None, parity=None)
    assert "row 2" in dbnet("report", "check", kept(change), code=1).out


@pytest.mark.parametrize("counts", [[[[1.0, 2.0, 3.0]]], [[]], [1.0], [[[1.0, 2.0, 3.0, 4.0]] * 2]])
def test_counts_are_what_the_protocol_gives(counts):
    with pytest.raises(DbnetError, match="counts by rrc that are none"):
        counts_of("rrc", Scores(0.0, 0.0, 0.0, [0.0, 0.0], counts))


def test_degenerate_boxes_do_not_stop_it(dbnet, kept):
    """Lines, points and bow ties: they count as what they are, in no more than a moment."""
    def change(told):
        [images] = told["detections"].values()
        for polygon in ([[5.0, 5.0]] * 4, [[0.0, 0.0], [9.0, 9.0], [9.0, 0.0], [0.0, 9.0]],
                        [[0.0, 0.0], [5.0, 0.0], [9.0, 0.0]]):
            images[0]["detections"].append({"polygon": polygon, "score": 0.5})
        told["detections"] = {detections_digest(images): images}
        for row in told["rows"]:
            row["detections"] = detections_digest(images)
    assert "detections by rrc in scene_0001" in dbnet("report", "check", kept(change), code=1).out
