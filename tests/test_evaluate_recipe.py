"""`dbnet evaluate -c RECIPE`, as MindOCR's tools/eval.py, and `--dataset` for the sets as they were published."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import converters
from dbnet.cli.evaluate import evaluate
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from tests.running import dbnet

#: Settings under which a network that was never trained finds something, small and quick.
SMALL = ("eval.dataset.transform_pipeline.DetResize={target_size: [192, 256], keep_ratio: True, padding: True}",
         "postprocess={binary_thresh: 0.95, box_thresh: 0.3}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models, and below data/ what the seed's page asks of ICDAR 2015."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("recipes")
    for name in ("dbnet_resnet18", "db_mv3_paddle"):
        converters.save_weights(seeded_weights(SPECS[name], 8), folder / f"{name}.onnx", spec=name)
    images = folder / "data/test/images"
    images.mkdir(parents=True)
    lines = []
    for i in (1, 2, 3, 4):
        image, polygons = draw(i)
        cv2.imwrite(str(images / f"img_{i}.png"), image)
        entries = [{"transcription": "word", "points": np.round(polygon).tolist()} for polygon in polygons]
        lines.append(f"img_{i}.png\t{json.dumps(entries)}")
    (folder / "data/test/test_det_gt.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def options(*settings: str) -> list[str]:
    return [part for setting in (*SMALL, *settings) for part in ("-o", setting)]


def scored(*arguments: str | Path) -> dict:
    return json.loads(dbnet("evaluate", *arguments, "--json", "-").stdout)


def test_as_in_the_seed(folder):
    """`-c=FILE`, the model from the recipe, many settings behind one -o."""
    recipe = folder / "own.yaml"
    recipe.write_text("model: {backbone: {name: det_resnet18}}\n"
                      f"eval:\n  ckpt_load_path: {folder}/dbnet_resnet18.onnx\n  dataset:\n"
                      f"    dataset_root: {folder}/data\n    data_dir: test/images\n"
                      f"    label_file: test/test_det_gt.txt\n")
    done = dbnet("evaluate", f"-c={recipe}", "-o", *SMALL, "system.seed=1")
    assert "4 images of recipe own; pixels RGB keep_ratio_pad (192, 256)" in done.stdout
    assert "boxes mindocr quad, binary_thresh 0.95, box_thresh 0.3" in done.stdout
    assert "mindocr" in done.stdout
    assert "rrc" not in done.stdout
    assert "scored by mindocr" in done.stderr
    assert "pixels are the recipe's" in done.stderr
    same = scored("-c", "db_r18_icdar15", folder / "dbnet_resnet18.onnx", "--root", folder / "data", *options())
    assert same["settings"]["pixels"]["size"] == [192, 256]
    assert (same["settings"]["recipe"], same["settings"]["spec"]) == ("db_r18_icdar15.yaml", "dbnet_resnet18")
    assert any("scored by mindocr" in note for note in same["settings"]["notes"])
    assert list(same["scores"]) == ["mindocr"]
    assert sum(len(image["detections"]) for image in same["images"].values()) > 20


def test_other_protocols_and_options_go_before_the_recipe(folder):
    model, common = folder / "dbnet_resnet18.onnx", ("-c", "db_r18_icdar15", "--root", folder / "data")
    found = scored(model, *common, *options(), "-p", "rrc,mindocr", "--box-type", "poly", "--limit", "2")
    assert list(found["scores"]) == ["rrc", "mindocr"]
    assert (found["settings"]["boxes"]["box_type"], found["settings"]["images"]) == ("poly", 2)
    assert not any("scored by mindocr" in note for note in found["settings"]["notes"])
    half = scored(model, *common, *options("eval.dataset.sample_ratio=0.5"))
    assert list(half["images"]) == ["img_1.png", "img_2.png"]


def test_several_label_files(folder, tmp_path):
    for name, rows in (("a", [1, 2]), ("b", [3])):
        (tmp_path / name).mkdir()
        lines = (folder / "data/test/test_det_gt.txt").read_text().splitlines()
        (tmp_path / f"{name}.txt").write_text("\n".join(lines[i - 1] for i in rows))
        for i in rows:
            (tmp_path / name / f"img_{i}.png").write_bytes((folder / f"data/test/images/img_{i}.png").read_bytes())
    found = scored(folder / "dbnet_resnet18.onnx", "-c", "db_r18_icdar15", "--root", tmp_path, *options(
        "eval.dataset.data_dir=[a, b]", "eval.dataset.label_file=[a.txt, b.txt]"))
    assert list(found["images"]) == ["img_1.png", "img_2.png", "img_3.png"]


def test_images_of_one_name_in_several_folders(folder, tmp_path):
    entries = (folder / "data/test/test_det_gt.txt").read_text().splitlines()[0].partition("\t")[2]
    for name in ("a", "b", "b/c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "img_1.png").write_bytes((folder / "data/test/images/img_1.png").read_bytes())
    (tmp_path / "a.txt").write_text(f"img_1.png\t{entries}")
    (tmp_path / "b.txt").write_text(f"img_1.png\t{entries}\nc/img_1.png\t{entries}")
    arguments = [folder / "dbnet_resnet18.onnx", "-c", "db_r18_icdar15", "--root", tmp_path, *options(
        "eval.dataset.data_dir=[a, b]", "eval.dataset.label_file=[a.txt, b.txt]")]
    found = scored(*arguments)
    assert list(found["images"]) == ["a/img_1.png", "b/img_1.png", "b/c/img_1.png"]
    assert len({json.dumps(image) for image in found["images"].values()}) == 1
    arguments += ["-o", "eval.dataset.data_dir=[a, a]", "-o", "eval.dataset.label_file=[a.txt, a.txt]"]
    with pytest.raises(DbnetError, match=r"a/img_1\.png: is there twice"):
        CliRunner().invoke(evaluate, list(map(str, arguments)), catch_exceptions=False)


def test_what_the_seed_publishes_is_told(folder):
    done = dbnet("evaluate", folder / "dbnet_resnet18.onnx", "-c", "db_r18_icdar15", "--root", folder / "data",
                 "--limit", "1", "-o", "eval.loader.num_workers=3")
    assert "publishes" not in done.stderr
    done = dbnet("evaluate", folder / "dbnet_resnet18.onnx", "-c", "db_r18_icdar15", "--root", folder / "data",
                 "--limit", "1")
    assert ("the seed publishes for db_r18_icdar15, by mindocr: recall 80.12, precision 83.41, f-score 81.73 %"
            in done.stderr)


@pytest.mark.parametrize(("arguments", "told"), [
    (["-c", "db_r18_icdar15", "--root", "data"],
     "eval.ckpt_load_path (seed default): tmp_det/best.ckpt: no such file"),
    (["-c", "db_r18_icdar15", "--root", "data", "-o", "eval.ckpt_load_path="], "names no model"),
    (["-c", "db_r18_icdar15", "--root", "data", "-o", "eval.ckpt_load_path=https://x/a.ckpt"],
     "is an address; download it, then name MODEL"),
    (["-c", "db_r18_icdar15", "--root", "data", "-o", "eval.ckpt_load_path=https://x/dbnet_resnet50-c3a4aa24.ckpt"],
     "is an address; fetch it (dbnet fetch dbnet_resnet50-c3a4aa24.ckpt), then name MODEL"),
    (["-c", "db_r18_icdar15", "dbnet_resnet18.onnx"], "eval.dataset.data_dir: test/images: not found"),
    (["-c", "db_r18_icdar15", "dbnet_resnet18.onnx", "--root", "data/test"], "data/test/test/images: not found"),
    (["-c", "db_r18_icdar15", "dbnet_resnet18.onnx", "--root", "data", "-o", "eval.dataset.label_file=test/gt.txt"],
     "(data/test has test_det_gt.txt)"),
    (["-c", "db_r18_icdar15", "nothing.onnx", "--root", "data"], "nothing.onnx"),
    (["-c", "db_r18_icdar15", "dbnet_resnet18.onnx", "--root", "data", "-o", "eval.dataset.sample_ratio=0"],
     "eval.dataset.sample_ratio (command line) leaves none of 4 images"),
    (["-c", "db_r18_icdar15", "dbnet_resnet18.onnx", "--root", "data", "-o", "eval.dataset.sample_ratio=0.1"],
     "eval.dataset.sample_ratio (command line) leaves none of 4 images"),
    (["-c", "db_r18_icdar15", "dbnet_resnet18.onnx", "--root", "data", "-o", "eval.dataset.type=SynthTextDataset"],
     "SynthTextDataset is not evaluated"),
    (["-c", "db_r18_icdar15", "dbnet_resnet18.onnx", "--root", "data", "-o", "eval.loader.batchsize=2"],
     "did you mean eval.loader.batch_size?"),
    (["-c", "db_r50_icdar15", "dbnet_resnet18.onnx", "--root", "data"],
     "backbone is resnet18, the recipe says resnet50"),
    (["-c", "db_mobilenetv3_icdar15", "db_mv3_paddle.onnx", "--root", "data"],
     "se_gate is none, the recipe says sigmoid"),
    (["-c", "dbpp_r50_icdar15", "dbnet_resnet18.onnx", "--root", "data"], "backbone is resnet18"),
    (["-c", "db_r18_synthtext", "dbnet_resnet18.onnx"], "has no section eval"),
    (["-c", "db_mobilenetv3_ppocrv3", "dbnet_resnet18.onnx", "--root", "data"],
     "eval.dataset.data_dir: "),
    (["-c", "db_r18_icdar51", "dbnet_resnet18.onnx"], "did you mean the recipe db_r18_icdar15"),
    (["-c", "dbnet_resnet18.onnx", "db_r18_icdar15"], "are no recipe"),
    (["-c", "", "dbnet_resnet18.onnx"], "name is empty"),
    (["-c", "db_r18_icdar15", "dbnet_resnet18.onnx", "--root", "data", "--json", "data/test/test_det_gt.txt"],
     "name another file"),
])
def test_what_cannot_be_done_is_one_line(folder, arguments, told):
    """Raised as DbnetError, which the command turns into exit code 3 (see test_exit_codes of tests/test_recipe.py)."""
    words = [str(folder / word) if word.startswith("data") or word.endswith(".onnx") else word for word in arguments]
    done = CliRunner().invoke(evaluate, words)
    assert isinstance(done.exception, DbnetError), done.output
    assert told.replace("data/test", f"{folder}/data/test") in str(done.exception)


@pytest.mark.parametrize(("arguments", "told"), [
    (["-c", "r", "--results", "x", "--gt", "y"], "-c means nothing with --results"),
    (["-c", "r", "--dataset", "td500"], "--dataset means nothing with -c"),
    (["-c", "r", "--gt", "y"], "--gt means nothing with -c"),
    (["m.onnx", "--root", "d", "-o", "a=1"], "-o means nothing with MODEL without -c"),
    (["m.onnx"], "--root, or -c RECIPE"),
    (["-c", "db_r18_icdar15", "m.onnx", "-o", "eval.ckpt_load_path=x"], "name a model both"),
    (["-c", "db_r18_icdar15", "m.onnx", "--root", "d", "-o", "eval.dataset.dataset_root=x"], "name a folder both"),
    (["-c", "db_r18_icdar15", "m.onnx", "--sweep", "score=0.5"], "--sweep score is for --results"),
    ([], "-c RECIPE"),
])
def test_usage(arguments, told):
    done = CliRunner().invoke(evaluate, arguments)
    assert done.exit_code == 2, done.exception
    assert told in done.output


def test_a_published_set(folder, need, tmp_path):
    """MSRA-TD500 as it was published; its images are turned by EXIF here, and kept as stored by the recipe."""
    root = need("data/td500")
    found = scored(folder / "dbnet_resnet18.onnx", "--dataset", "td500", "--root", root, "--limit", "2")
    assert list(found["scores"]) == ["td500", "td500_in_place"]
    assert len(found["images"]) == 2
    done = dbnet("evaluate", folder / "dbnet_resnet18.onnx", "--dataset", "totaltext", "--root", tmp_path, code=3)
    assert done.stderr.count("\n") == 1
    assert "--labels" not in done.stderr


def test_an_image_as_it_is_stored(folder, tmp_path):
    """The recipe's ignore_orientation reaches the decoder: boxes lie in the stored image, not in the turned one."""
    image, polygons = draw(5)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    for name, content in (("turned", data), ("plain", jpeg)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(content)
    (tmp_path / "gt.txt").write_text("a.jpg\t" + json.dumps([{"transcription": "x", "points": polygons[0].tolist()}]))
    found = {}
    for name, stored in (("turned", "True"), ("plain", "False"), ("turned", "False")):
        report = scored(folder / "dbnet_resnet18.onnx", "-c", "db_r18_icdar15", *options(
            f"eval.dataset.data_dir={tmp_path / name}", f"eval.dataset.label_file={tmp_path}/gt.txt",
            f"eval.dataset.transform_pipeline.DecodeImage.ignore_orientation={stored}"))
        found[name, stored] = report["images"]["a.jpg"]["detections"]
    assert found["turned", "True"] == found["plain", "False"] != found["turned", "False"]
    assert found["turned", "True"]
