"""`dbnet evaluate` for scripts and people: result files without a model, protocols side by side, sweeps, --save."""

import json
import zipfile

import cv2
import pytest

import converters
from dbnet.datasets.drawn import draw
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from tests.running import dbnet

GT = {1: ["0,0,100,0,100,20,0,20,Hello, world", "0,50,100,50,100,70,0,70,###"], 2: ["10,10,60,10,60,40,10,40,EXIT"],
      10: ["0,0,80,0,80,30,0,30,a"]}
#: img_1: one hit, and one on the ignored text; img_2: missed, a false alarm; img_10: found twice.
FOUND = {1: ["0,0,100,0,100,20,0,20,0.9", "0,50,90,50,90,70,0,70,0.8"], 2: ["200,200,260,200,260,240,200,240,0.4"],
         10: ["0,0,80,0,80,30,0,30,0.7", "2,0,80,0,80,30,2,30,0.6"]}


#: Settings under which a network that was never trained finds something.
LOOSE = ("--binary-thresh", "0.6", "--box-thresh", "0.3")


def write(folder, files, template):
    folder.mkdir()
    for number, lines in files.items():
        (folder / template.format(number)).write_text("\r\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def gt(tmp_path):
    return write(tmp_path / "gt", GT, "gt_img_{}.txt")


@pytest.fixture
def results(tmp_path):
    return write(tmp_path / "results", FOUND, "res_img_{}.txt")


def scored(*arguments):
    return json.loads(dbnet("evaluate", *arguments, "--json", "-").stdout)


def test_results_without_a_model(gt, results, tmp_path):
    report = tmp_path / "report.json"
    said = dbnet("evaluate", "--results", results, "--gt", gt, "--protocol", "rrc,mindocr", "--json", report).stdout
    found = json.loads(report.read_text())
    assert list(found["scores"]) == ["rrc", "mindocr"]
    # The official script calls the second detection on one text a false alarm, MindOCR does not.
    assert found["scores"]["rrc"] == {"precision": 0.5, "recall": pytest.approx(2 / 3), "fscore": pytest.approx(4 / 7)}
    assert found["scores"]["mindocr"]["precision"] == pytest.approx(2 / 3)
    assert list(found["images"]) == ["img_1", "img_2", "img_10"]
    assert found["images"]["img_10"]["counts"]["rrc"] == {
        "found_texts": 1, "texts": 1, "right_detections": 1, "detections": 2}
    low, high = found["protocols"]["rrc"]["interval95"]["fscore"]
    assert 0 <= low <= found["scores"]["rrc"]["fscore"] <= high <= 1
    for told in ("0.57143", "IoU > 0.5", "95 %", "opencv", "shapely", "img_2", "0/1", "5 detections", "4 texts"):
        assert told in said, (told, said)


def test_every_protocol_side_by_side(gt, results):
    found = scored("--results", results, "--gt", gt, "-p", "all")
    assert set(found["scores"]) >= {"rrc", "mindocr", "mhliao", "mmocr", "totaltext", "ctw1500", "td500", "mlt2017"}
    assert all(0 < value <= 1 for score in found["scores"].values() for value in score.values())
    assert found["protocols"]["mmocr"]["variant"]
    assert "scan" in found["protocols"]["mmocr"]["title"].lower()


def test_zips_with_folders_and_a_missing_file_score_the_same(gt, results, tmp_path):
    whole = scored("--results", results, "--gt", gt)
    for name, folder in (("g.zip", gt), ("r.zip", results)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"some/where/{file.name}")
    assert scored("--results", tmp_path / "r.zip", "--gt", tmp_path / "g.zip")["scores"] == whole["scores"]
    (results / "res_img_2.txt").unlink()
    assert scored("--results", results, "--gt", gt)["scores"]["rrc"] == {
        "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "fscore": pytest.approx(2 / 3)}


def test_sweep_of_scores_says_that_it_is_one(gt, results):
    done = dbnet("evaluate", "--results", results, "--gt", gt, "--sweep", "score=0.3:0.9:0.2")
    assert "0.57143" in done.stdout.split("sweep of")[0]  # the score itself stays that of the whole files
    assert "the best of 4 settings chosen on the images that are scored" in done.stdout
    found = scored("--results", results, "--gt", gt, "--sweep", "score=0.3:0.9:0.2")
    assert [round(entry["scores"]["rrc"]["fscore"], 5) for entry in found["sweep"]["settings"]] == [
        0.57143, 0.66667, 0.8, 0.5]


@pytest.mark.parametrize(("arguments", "told"), [
    ([], "MODEL"),
    (["model.pth"], "--root"),
    (["--results", "r"], "--gt"),
    (["model.pth", "--results", "r", "--gt", "g"], "MODEL"),
    (["--results", "r", "--gt", "g", "--runner", "torch"], "--runner"),
    (["--results", "r", "--gt", "g", "--box-thresh", "0.5"], "--box-thresh"),
    (["--results", "r", "--gt", "g", "--box-rule", "paddle"], "--box-rule"),
    (["--results", "r", "--gt", "g", "--protocol", "rcc"], "rrc, mindocr"),
    (["--results", "r", "--gt", "g", "--protocol", ","], "no name"),
    (["--results", "r", "--gt", "g", "--format", "icdar"], "icdar2015"),
    (["--results", "r", "--gt", "g", "--sweep", "box_thresh=0.5"], "score="),
    (["--results", "r", "--gt", "g", "--sweep", "score"], "NAME="),
    (["--results", "r", "--gt", "g", "--sweep", "score=high"], "high"),
    (["--results", "r", "--gt", "g", "--sweep", "score=0.9:0.1:0.1"], "upwards"),
    (["--results", "r", "--gt", "g", "--sweep", "score=0:1:1e-9"], "more than"),
    (["--results", "r", "--gt", "g", "--sweep", "score=nan"], "nan"),
    (["--results", "r", "--gt", "g", "--from", "paddle"], "--from"),
    (["--results", "r", "--gt", "g", "--dataset", "icdar2015"], "--dataset"),
    (["--results", "", "--gt", "g"], "empty"),
    (["--results", "r", "--gt", "g", "--sweep", "score=0:1e300:1e-300"], "more than"),
    (["model.pth", "--root", "d", "--gt", "g"], "--gt"),
    (["model.pth", "--root", "d", "--save", "-"], ".jsonl"),
    (["model.pth", "--root", "d", "--save", "model.pth"], ".jsonl"),
    (["model.pth", "--root", "d", "--sweep", "score=0.5"], "box_thresh"),
    (["model.pth", "--root", "d", "--sweep", "rule=mine"], "mindocr"),
    (["model.pth", "--root", "d", "--sweep", "dilation=perhaps"], "perhaps"),
    (["model.pth", "--root", "d", "--box-thresh", "1.5"], "1.5"),
])
def test_usage(arguments, told):
    assert told in dbnet("evaluate", *arguments, code=2).stderr


@pytest.mark.parametrize(("files", "told"), [
    ({"res_img_1.txt": "0,0,nan,0,9,9,0,9"}, "line 1"),
    ({"res_img_1.txt": "0,0,9,0,9,9,0,9\n0,0,9,9"}, "line 2"),
    ({"res_img_77.txt": "0,0,9,0,9,9,0,9"}, "img_77"),
    ({}, "results"),
])
def test_bad_results_are_one_line(gt, tmp_path, files, told):
    folder = tmp_path / "results"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    done = dbnet("evaluate", "--results", folder, "--gt", gt, "--json", tmp_path / "out.json", code=3)
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_json_never_replaces_what_is_read(gt, results, tmp_path):
    """Nor what no --json can have written, nor what somebody made read-only."""
    with zipfile.ZipFile(tmp_path / "gt.zip", "w") as archive:
        for file in gt.iterdir():
            archive.write(file, file.name)
    (tmp_path / "locked.json").write_text("{}")
    (tmp_path / "locked.json").chmod(0o444)
    (tmp_path / "notes.txt").write_text("my notes")
    for target in (tmp_path / "gt.zip", gt / "gt_img_1.txt", results / "new.json", tmp_path / "locked.json",
                   tmp_path / "notes.txt", tmp_path / "link.json"):
        if target.name == "link.json":
            target.symlink_to(tmp_path / "gt.zip")
        before = target.read_bytes() if target.exists() else None
        done = dbnet("evaluate", "--results", results, "--gt", tmp_path / "gt.zip", "--json", target, code=3)
        assert done.stderr.count("\n") == 1, target
        assert (target.read_bytes() if target.exists() else None) == before, target


def test_what_was_assumed_is_told(gt, results, tmp_path):
    """On standard error, which --json - leaves alone, and in the report."""
    (results / "res_img_2.txt").unlink()
    done = dbnet("evaluate", "--results", results, "--gt", gt, "--json", "-")
    assert "1 of 3 images have no result" in done.stderr
    settings = json.loads(done.stdout)["settings"]
    assert settings["notes"] == ["1 of 3 images have no result: taken as no detections in them"]
    assert (settings["format"], settings["dataset"]) == ("icdar2015", "icdar2015")
    assert scored("--results", results, "--gt", gt, "--limit", 1)["settings"]["notes"] == []


def test_results_without_scores_cannot_be_swept(gt, tmp_path):
    bare = write(tmp_path / "bare", {n: [line.rsplit(",", 1)[0] for line in lines] for n, lines in FOUND.items()},
                 "res_img_{}.txt")
    assert "every detection has the score 1" in dbnet("evaluate", "--results", bare, "--gt", gt, "-p", "mmocr").stderr
    assert dbnet("evaluate", "--results", bare, "--gt", gt).stderr == ""


def test_tables_are_worst_first_and_name_the_best(gt, results):
    done = dbnet("evaluate", "--results", results, "--gt", gt, "--sweep", "score=0.3,0.65", "--images", "2")
    rows = [line.split()[0] for line in done.stdout.split("most errors")[1].splitlines() if "img_" in line]
    assert rows == ["img_2", "img_10"]
    assert "rrc: 0.80000 at score 0.65" in done.stdout


def test_which_coordinate_is_x_is_told(tmp_path):
    """Total-Text's results with y first, through the command."""
    polygon = [10, 200, 110, 200, 110, 230, 60, 240, 10, 230]
    swapped = [v for x, y in zip(polygon[::2], polygon[1::2], strict=True) for v in (y, x)]
    gt = write(tmp_path / "gt", {i: [",".join(map(str, polygon)) + ",word"] for i in (1, 2)}, "poly_gt_img{}.txt")
    for name, points in (("xy", polygon), ("yx", swapped)):
        found = write(tmp_path / name, {i: [",".join(map(str, points))] for i in (1, 2)}, "img{}.txt")
        done = dbnet("evaluate", "--results", found, "--gt", gt, "--json", tmp_path / f"{name}.json")
        assert json.loads((tmp_path / f"{name}.json").read_text())["scores"]["totaltext"]["fscore"] == 1
        assert ("y,x" in done.stderr) == (name == "yx")


def test_numbered_results_find_their_images(gt, tmp_path):
    done = dbnet("evaluate", "--results", write(tmp_path / "r", FOUND, "{}.txt"), "--gt", gt)
    assert "0.57143" in done.stdout
    assert "was taken for img_" in done.stderr


def test_what_the_official_script_refuses_is_told(gt, tmp_path):
    files = {1: ["0,0,0,20,100,20,100,0"], 2: ["10.5,10,60,10,60,40,10,40"], 10: ["0,0,80,0,80,30,0,30"]}
    done = dbnet("evaluate", "--results", write(tmp_path / "r", files, "res_img_{}.txt"), "--gt", gt)
    assert "of 3 quadrilaterals 1 run anticlockwise and 1 have fractions of pixels" in done.stderr


def test_names_of_protocols(gt, results):
    found = scored("--results", results, "--gt", gt, "-p", "RRC, totaltext_iou", "-p", "rrc")
    assert list(found["scores"]) == ["rrc", "totaltext_iou"]


@pytest.mark.parametrize("text", ['{"a": [1]}', '{"expected": {}, "detections": {"1": []}}', '{"dbnet": "detections"}'])
def test_foreign_json_is_no_result(gt, tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    done = dbnet("evaluate", "--results", tmp_path / "r.json", "--gt", gt, code=3)
    assert "images" in done.stderr


@pytest.fixture(scope="module")
def model_and_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    converters.save_weights(seeded_weights(SPECS["db_mv3_paddle"], 8), folder / "m.onnx", spec="db_mv3_paddle")
    for part in ("images", "gt"):
        (folder / part).mkdir()
    for i in (1, 2, 3):
        image, polygons = draw(i)
        cv2.imwrite(str(folder / f"images/img_{i}.jpg"), image)
        lines = [",".join(str(round(v)) for v in p.flat) + ",word" for p in polygons]
        (folder / f"gt/gt_img_{i}.txt").write_text("\n".join(lines))
    return folder / "m.onnx", folder


def test_model_with_settings_sweep_and_save(model_and_root, tmp_path):
    pytest.importorskip("onnxruntime")
    model, root = model_and_root
    chosen = ("--box-rule", "mhliao", "--box-type", "poly", "--binary-thresh", "0.6", "--box-thresh", "0.3")
    first = scored(model, "--root", root, *chosen, "-p", "rrc,mindocr", "--sweep", "unclip_ratio=1.5,2",
                   "--sweep", "box_thresh=0.3,0.9", "--save", tmp_path / "kept.jsonl")
    assert first["settings"]["boxes"] | {"max_candidates": 0} == {
        "rule": "mhliao", "box_type": "poly", "binary_thresh": 0.6, "box_thresh": 0.3, "unclip_ratio": 2.0,
        "max_candidates": 0, "score_mode": "fast", "dilation": False}
    assert all(image["detections"] for image in first["images"].values())
    assert [entry["values"] for entry in first["sweep"]["settings"]] == [
        {"box_thresh": b, "unclip_ratio": u} for u in (1.5, 2.0) for b in (0.3, 0.9)]
    lines = (tmp_path / "kept.jsonl").read_text().splitlines()
    (tmp_path / "cut.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    again = dbnet("evaluate", model, "--root", root, *chosen, "-p", "rrc,mindocr", "--sweep", "unclip_ratio=1.5,2",
                  "--sweep", "box_thresh=0.3,0.9", "--save", tmp_path / "cut.jsonl", "--json", tmp_path / "again.json")
    assert "2 of them from" in again.stdout
    second = json.loads((tmp_path / "again.json").read_text())
    assert {key: second[key] for key in ("scores", "images", "sweep")} == {
        key: first[key] for key in ("scores", "images", "sweep")}
    assert (tmp_path / "cut.jsonl").read_text().splitlines() == lines
    refused = dbnet("evaluate", model, "--root", root, "--save", tmp_path / "kept.jsonl", code=3)
    assert refused.stderr.count("\n") == 1


def test_json_leaves_the_labels_of_a_data_set_alone(model_and_root, tmp_path):
    """Also an empty one, which belongs to an image without texts."""
    _, root = model_and_root
    model = tmp_path / "m.onnx"
    for folder in ("images", "gt"):
        (tmp_path / folder).mkdir()
        for file in (root / folder).iterdir():
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "gt/gt_img_3.txt").write_text("")
    done = dbnet("evaluate", model, "--root", tmp_path, "--json", tmp_path / "gt/gt_img_3.txt", code=3)
    assert "name another file for --json" in done.stderr
    assert (tmp_path / "gt/gt_img_3.txt").read_text() == ""


def test_saved_detections_score_like_the_run(model_and_root, tmp_path):
    """A file that --save or --json wrote is a result file too."""
    pytest.importorskip("onnxruntime")
    model, root = model_and_root
    for option, name in (("--save", "d.jsonl"), ("--json", "d.json")):
        run = dbnet("evaluate", model, "--root", root, *LOOSE, "--limit", 2, option, tmp_path / name).stdout
        assert "2 images" in run
        rescored = dbnet("evaluate", "--results", tmp_path / name, "--gt", root / "gt", "--limit", 2).stdout
        assert int(rescored.split(" detections")[0].split()[-1]) > 100
        line = next(line for line in run.splitlines() if line.strip().startswith("rrc"))
        assert line in rescored
