"""`dbnet export`: a file for a runtime, compared there before it appears."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import converters
from converters.delivery_note import read_delivery
from converters.load import load_model
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation.delivery import check as checking
from evaluation.delivery.rapidocr import BOXES, PIXELS
from evaluation.delivery.targets import TARGETS
from tests.running import command, dbnet

ROOT = Path(__file__).parents[1]
TRAINED = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
REFUSED, USAGE = 3, 2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("models")
    converters.save_weights(seeded_weights(SPECS["dbnet_mobilenetv3"], 3), folder / "m.ckpt", spec="dbnet_mobilenetv3")
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18_deformable"], 3), folder / "d.pth",
                            spec="dbnet_resnet18_deformable")
    return folder


def exported(out: Path, *arguments: object, model: Path = TRAINED) -> dict:
    """What --json says of an export that is done."""
    return json.loads(dbnet("export", model, out, *arguments, "--json", "-").stdout)


def refused(done, code: int, *told: str) -> None:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 if code == REFUSED else True
    for text in told:
        assert text in " ".join(done.stderr.split()), done.stderr


# Targets --------------------------------------------------------------------------------------------------------------


def test_the_list_of_targets_is_one():
    from dbnet.cli.export import TARGETS as SHOWN
    assert tuple(TARGETS) == SHOWN
    for target in TARGETS.values():
        module, function = target.writer.split(":")
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert f"def {function}(" in path.read_text(), target.name


def test_an_onnx_finds_the_same_boxes(models, tmp_path):
    found = exported(tmp_path / "a.onnx")
    [row] = found["checked"]
    assert (row["runner"], row["count"], row["boxes"], row["lost"]) == ("onnxruntime", 3, row["same"], 0)
    assert row["boxes"] > 10 and row["noise"] <= checking.TOLERANCE
    assert found["input"]["shape"] == ["N", 3, "H", "W"]
    assert [Path(name).name for name in found["files"]] == ["a.onnx"]
    assert read_delivery(tmp_path / "a.onnx") is None


def test_images_of_the_user_are_compared(tmp_path, photos):
    found = exported(tmp_path / "a.onnx", "--images", photos, "--pixels", "resize=grid")
    assert found["checked"][0]["count"] == 3
    assert "on 3 images" in " ".join(found["told"])


def test_a_fixed_size_and_a_batch(tmp_path):
    found = exported(tmp_path / "a.onnx", "--data-shape", 96, 160, "--batch", 2)
    assert found["input"]["shape"] == [2, 3, 96, 160]
    note = read_delivery(tmp_path / "a.onnx")
    assert (note.pixels.resize, note.pixels.size) == ("keep_ratio_pad", (96, 160))
    assert any("padded to 96x160" in line for line in found["told"])
    # The file then runs as it is, without --pixels.
    image = tmp_path / "scene.png"
    cv2.imwrite(str(image), np.zeros((50, 70, 3), np.uint8))
    done = command("detect", image, "--model", tmp_path / "a.onnx", "--out", tmp_path / "out")
    assert "batch" in done.stderr or done.returncode == 0


def test_rapidocrs_file_takes_rapidocrs_pixels(tmp_path):
    found = exported(tmp_path / "det.onnx", "--target", "rapidocr")
    assert found["checked"][0]["boxes"] == found["checked"][0]["same"] > 10
    if importlib.util.find_spec("rapidocr_onnxruntime") is None:
        assert "pip install rapidocr-onnxruntime" in found["checked"][1]["why"]
    note = read_delivery(tmp_path / "det.onnx")
    assert (note.target, note.pixels, note.boxes) == ("rapidocr", PIXELS, BOXES)
    assert load_model(tmp_path / "det.onnx").record.spec == load_model(TRAINED).record.spec


def test_opencvs_db_api_finds_the_boxes(tmp_path):
    """Of one size, (H, W), by OpenCV's own rule; the map in cv2.dnn, the boxes in TextDetectionModel_DB."""
    found = exported(tmp_path / "cv.onnx", "--target", "opencv", "--data-shape", 352, 640)
    maps, api = found["checked"]
    assert maps["runner"] == "opencv" and maps["boxes"] == maps["same"] > 10
    assert api["runner"] == "TextDetectionModel_DB" and api["boxes"] == api["same"] > 10
    note = read_delivery(tmp_path / "cv.onnx")
    assert (note.rank, note.boxes.rule, note.pixels.resize, note.pixels.size) == (2, "opencv", "stretch", (352, 640))
    assert [len(output.type.tensor_type.shape.dim) for output in onnx.load(tmp_path / "cv.onnx").graph.output] == [2]
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "cv.onnx"))
    assert net.getUnconnectedOutLayersNames() == ("probability",)


@pytest.mark.parametrize("target", ["openvino", "opencv"])
def test_deformable_networks_where_they_run(target, models, tmp_path):
    """OpenCV 4 refuses them, and what else there is is told; OpenVINO takes them."""
    pytest.importorskip("openvino")
    if target == "openvino":
        [row] = exported(tmp_path / "d.xml", "--data-shape", 64, 96, model=models / "d.pth")["checked"]
        assert row["noise"] < 1e-4
        assert sorted(path.name for path in tmp_path.iterdir()) == ["d.bin", "d.xml"]
        return
    if int(cv2.__version__.partition(".")[0]) >= 5:
        pytest.skip("OpenCV 5 runs them")
    done = command("export", models / "d.pth", tmp_path / "d.onnx", "--target", "opencv", "--data-shape", 64, 96)
    refused(done, REFUSED, "refuses it", "kept as d.onnx.refused", "--check-in opencv@PYTHON",
            "--target onnx or openvino")
    assert [path.name for path in tmp_path.iterdir()] == ["d.onnx.refused"]


def test_openvinos_pair_appears_together(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "m.bin").write_bytes(b"mine")
    refused(command("export", TRAINED, tmp_path / "m.xml"), REFUSED, "m.bin", "add --force")
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]
    [row] = exported(tmp_path / "m.xml", "--output", "logits", "--force")["checked"]
    assert row["boxes"] == row["same"] > 10
    assert read_delivery(tmp_path / "m.xml").logits
    assert (tmp_path / "m.bin").stat().st_size > 1e6


def test_logits_want_no_more_than_a_sigmoid(tmp_path):
    found = exported(tmp_path / "l.onnx", "--output", "logits")
    assert found["output"] == {"name": "logits", "kind": "logits", "rank": 4}
    assert found["checked"][0]["boxes"] == found["checked"][0]["same"] > 10


def test_what_was_exported_is_exported_again(tmp_path):
    """By its weights: front and end are not the model's, and nothing of them is told of the new file."""
    dbnet("export", TRAINED, tmp_path / "r.onnx", "--target", "rapidocr", "--output", "probability")
    told = dbnet("export", tmp_path / "r.onnx", tmp_path / "again.onnx").stdout.splitlines()
    assert [line for line in told if "pixels of rapidocr" in line] == [
        "r.onnx itself was exported for rapidocr: takes the pixels of rapidocr; its weights and record are the model's "
        "own"]
    dbnet("export", TRAINED, tmp_path / "once.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "once.onnx").read_bytes()


def test_float16_must_not_overflow(tmp_path):
    """The trained model's head.segm.1 has a variance above 65504."""
    done = command("export", TRAINED, tmp_path / "h.onnx", "--precision", "fp16")
    refused(done, REFUSED, "beyond float16's 65504", "--keep-float32 head.segm.1")
    assert not list(tmp_path.iterdir())
    found = exported(tmp_path / "h.onnx", "--precision", "fp16", "--keep-float32", "head.segm.1")
    [row] = found["checked"]
    assert (row["lost"], row["invented"]) == (0, 0) and row["boxes"] > 10
    assert "rounded to float16 after every operator" in " ".join(found["told"])
    assert (tmp_path / "h.onnx").stat().st_size < 0.6 * TRAINED.stat().st_size * 2


@pytest.mark.long
def test_float16_values_that_overflow_are_named(models, tmp_path):
    """Weights within the range, and maps beyond it: what only a run shows."""
    weights = seeded_weights(SPECS["dbnet_mobilenetv3"], 3)
    weights["head.segm.1.gamma"] = weights["head.segm.1.gamma"] * np.float32(4e4)
    weights["head.segm.3.weight"] = weights["head.segm.3.weight"] / np.float32(4e4)
    converters.save_weights(weights, tmp_path / "m.pth", spec="dbnet_mobilenetv3")
    done = command("export", tmp_path / "m.pth", tmp_path / "h.onnx", "--precision", "fp16")
    refused(done, REFUSED, "values are beyond float16's 65504", "--keep-float32 head.segm.1")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]


# Runtimes that are not there, or refuse -------------------------------------------------------------------------------


def test_a_runtime_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "installed", lambda name: False)
    told = " ".join(exported(tmp_path / "a.onnx")["told"])
    assert "not run: onnxruntime is not installed (pip install 'dbnet-parity[onnxruntime]')" in told
    assert (tmp_path / "a.onnx").exists()


def test_a_target_that_cannot_be_written_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("dbnet.extras.installed", lambda name: False)
    done = command("export", TRAINED, tmp_path / "a.xml")
    refused(done, REFUSED, "openvino is not installed", "pip install 'dbnet-parity[openvino]'")
    assert not list(tmp_path.iterdir())


def test_a_difference_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "TOLERANCE", -1.0)
    done = command("export", TRAINED, tmp_path / "a.onnx")
    refused(done, REFUSED, "differs from the model in ONNX Runtime", "nothing was written")
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays_if_the_check_fails(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"mine")
    refused(command("export", TRAINED, tmp_path / "a.onnx"), REFUSED, "add --force")
    monkeypatch.setattr(checking, "WHOLE", -1.0)
    refused(command("export", TRAINED, tmp_path / "a.onnx", "--force"), REFUSED, "on images")
    assert (tmp_path / "a.onnx").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_file_that_the_runtime_refuses_is_kept(tmp_path, monkeypatch):
    from dbnet.errors import DbnetError

    def refuses(*_arguments, **_options):
        raise DbnetError("a.onnx: ONNX Runtime 1.32.0 refuses it: no reason")

    monkeypatch.setattr(checking, "open_runner", refuses)
    done = command("export", TRAINED, tmp_path / "a.onnx")
    refused(done, REFUSED, "refuses it: no reason", "kept as a.onnx.refused")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx.refused"]
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx.refused"))
    (tmp_path / "a.onnx.refused").write_bytes(b"mine")
    done = command("export", TRAINED, tmp_path / "a.onnx")
    refused(done, REFUSED, "refuses it: no reason; not kept, for a.onnx.refused exists already (--force replaces it)")
    assert (tmp_path / "a.onnx.refused").read_bytes() == b"mine"
    refused(command("export", TRAINED, tmp_path / "a.onnx", "--force"), REFUSED, "kept as a.onnx.refused")
    assert (tmp_path / "a.onnx.refused").read_bytes() != b"mine"
    (tmp_path / "a.onnx.refused").unlink()
    (tmp_path / "a.onnx.refused").mkdir()
    done = command("export", TRAINED, tmp_path / "a.onnx", "--force")
    refused(done, REFUSED, "refuses it: no reason", "not kept as a.onnx.refused (Is a directory)")
    assert ".dbnet-export-" not in done.stderr


@pytest.mark.parametrize("reason", ["ONNX Runtime refuses it: no reason", "has no reason"])
def test_what_is_aside_is_not_named(reason, tmp_path, monkeypatch):
    """In a moment it is gone."""
    from dbnet.errors import DbnetError

    def fails(path, *_arguments, **_options):
        raise DbnetError(f"{path}: {reason}")

    monkeypatch.setattr(checking, "open_runner", fails)
    done = command("export", TRAINED, tmp_path / "a.onnx")
    refused(done, REFUSED, "no reason", "a.onnx")
    assert ".dbnet-export-" not in done.stderr


# Names and options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (["m.ckpt"], USAGE, "name MODEL and OUT"),
    ([], USAGE, "name MODEL and OUT"),
    (["m.ckpt", "a.pth"], REFUSED, "use dbnet convert for .pth"),
    (["m.ckpt", "a"], REFUSED, "dbnet export writes .onnx, .mindir, .xml"),
    (["m.ckpt", "a.onnx", "--target", "tensorrt"], USAGE, "is not one of"),
    (["m.ckpt", "a.onnx", "--target", "mindir"], REFUSED, "a file for mindir is called .mindir, not .onnx"),
    (["m.ckpt", "a.xml", "--target", "opencv"], REFUSED, "a file for opencv is called .onnx, not .xml"),
    (["m.ckpt", "a.onnx", "--keep-float32", "neck"], USAGE, "means nothing in float32"),
    (["m.ckpt", "a.onnx", "--precision", "fp16", "--keep-float32", "nek"], REFUSED, "has no layer 'nek'"),
    (["m.ckpt", "a.onnx", "--precision", "bf16"], USAGE, "is not one of"),
    (["m.ckpt", "a.onnx", "--deformable", "native"], REFUSED, "leave out --deformable"),
    (["m.ckpt", "a.onnx", "--opset", "10"], REFUSED, "choose one from 11 to 22"),
    (["m.ckpt", "a.onnx", "--batch", "0"], USAGE, "is not in the range"),
    (["m.ckpt", "a.onnx", "--data-shape", "736"], USAGE, "requires 2 arguments"),
    (["m.ckpt", "a.onnx", "--data-shape", "736", "1290"], REFUSED, "multiples of 32"),
    (["m.ckpt", "a.onnx", "--buckets", "736x1280"], USAGE, "--buckets means nothing for --target onnx"),
    (["m.ckpt", "a.om", "--buckets", "736"], USAGE, "write HEIGHTxWIDTH"),
    (["m.ckpt", "a.onnx", "--soc", "Ascend310P3"], USAGE, "--soc means nothing for --target onnx"),
    (["m.ckpt", "a.xml", "--prepare"], USAGE, "--prepare means nothing for --target openvino"),
    (["m.ckpt", "a.mindir", "--most-buckets", "4"], USAGE, "--most-buckets means nothing for --target mindir"),
    (["m.ckpt", "a.mindir", "--opset", "13"], USAGE, "--opset means nothing for --target mindir"),
    (["m.ckpt", "a.onnx", "--target", "rapidocr", "--data-shape", "736", "1280"], USAGE, "RapidOCR's images"),
    (["m.ckpt", "a.onnx", "--target", "rapidocr", "--output", "logits"], USAGE, "boxes of probabilities"),
    (["m.ckpt", "a.onnx", "--target", "opencv", "--output", "logits"], USAGE, "boxes of probabilities"),
    (["m.ckpt", "a.onnx", "--target", "opencv", "--batch", "2"], USAGE, "one image at once"),
    (["d.pth", "a.onnx", "--target", "opencv", "--deformable", "native"], USAGE, "no OpenCV reads DeformConv"),
    (["m.ckpt", "a.onnx", "--check-in", "nonsense"], USAGE, "unknown runner"),
    (["m.ckpt", "a.onnx", "--check-in", "onnxruntime@/nowhere"], REFUSED, "no such interpreter"),
    (["m.ckpt", "a.onnx", "--check-in", "torch"], REFUSED, "choose from onnxruntime, openvino, opencv"),
    (["m.ckpt", "a.onnx", "--check-in", "mindspore:O1"], REFUSED, "proves nothing of the file's own"),
    (["m.ckpt", "a.xml", "--check-in", "onnxruntime"], REFUSED, "choose from openvino"),
    (["m.ckpt", "a.mindir", "--check-in", "onnxruntime"], REFUSED, "choose from mindspore:mindir, mindspore_lite"),
    (["m.ckpt", "a.mindir", "--check-in", "mindspore"], REFUSED, "choose from mindspore:mindir"),
    (["m.ckpt", "a.xml", "--json", "a.xml"], USAGE, "is a file of the export itself"),
    (["m.ckpt", "a.xml", "--json", "a.bin"], USAGE, "is a file of the export itself"),
    (["m.ckpt", "q.mindir", "--target", "lite", "--prepare", "--json", "q.lite.json"], USAGE, "of the export itself"),
    (["m.ckpt", "a.onnx", "--images", "nowhere"], REFUSED, "no such file or folder"),
    (["nowhere.ckpt", "a.onnx"], REFUSED, "nowhere.ckpt"),
    (["m.ckpt", "no/such/a.onnx"], REFUSED, "no such folder"),
    (["m.ckpt", "m.ckpt"], REFUSED, ".ckpt"),
])
def test_what_is_typed_wrong(arguments, code, told, models, tmp_path):
    known = ("m.ckpt", "d.pth")
    paths = [str(models / a if a in known else tmp_path / a) if "." in a and "/nowhere" not in a else a
             for a in arguments]
    refused(command("export", *paths), code, told)
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_read_stops_it(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    refused(command("export", TRAINED, tmp_path / "a.onnx", "--images", tmp_path / "broken.jpg"), REFUSED, "broken.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.jpg"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.onnx").symlink_to(tmp_path / "real" / "b.onnx")
    dbnet("export", TRAINED, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").is_symlink()
    assert load_model(tmp_path / "real" / "b.onnx").unread is None


# MindOCR's options ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(models, tmp_path):
    shutil.copy(models / "m.ckpt", tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


@pytest.mark.parametrize(("name", "size"), [
    ("configs/db_mobilenetv3_icdar15.yaml", ["--data_shape", 64, 96]),
    pytest.param("dbnet_mobilenetv3", ["--data_shape", 64, 96], marks=pytest.mark.long),
    pytest.param("dbnet_mobilenetv3", ["--is_dynamic_shape", "True", "--model_type", "det"], marks=pytest.mark.long)])
def test_the_seeds_command_writes_the_seeds_file(name, size, checkpoint, tmp_path):
    pytest.importorskip("mindspore")
    folder = tmp_path / "new" / "folder"
    dbnet("export", "--model_name_or_config", ROOT / name if "/" in name else name, *size, "--local_ckpt_path",
          checkpoint, "--save_dir", folder)
    stem = "dbnet_mobilenetv3" if "/" not in name else "db_mobilenetv3_icdar15"
    assert [path.name for path in folder.iterdir()] == [f"{stem}.mindir"]
    assert load_model(folder / f"{stem}.mindir").record.spec.name == "dbnet_mobilenetv3"


def test_the_seeds_command_writes_for_other_targets(checkpoint, tmp_path):
    dbnet("export", "--model_name", "dbnet_mobilenetv3", "--data_shape", 64, 96, "--local_ckpt_path", checkpoint,
          tmp_path / "here.onnx")
    assert load_model(tmp_path / "here.onnx").subset == "inference"
    dbnet("export", "--model_name_or_config", ROOT / "configs/db_mobilenetv3_icdar15.yaml", "--data_shape", 64, 96,
          "--local_ckpt_path", checkpoint, "--target", "onnx", "--save_dir", tmp_path / "to")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["db_mobilenetv3_icdar15.onnx"]


def test_a_recipes_thresholds_go_into_the_file(checkpoint, tmp_path):
    text = (ROOT / "configs/db_mobilenetv3_icdar15.yaml").read_text(encoding="utf-8")
    (tmp_path / "r.yaml").write_text(f"{text}postprocess:\n  box_thresh: 0.45\n", encoding="utf-8")
    dbnet("export", "--model_name", tmp_path / "r.yaml", "--data_shape", 64, 96, "--local_ckpt_path", checkpoint,
          tmp_path / "r.onnx")
    assert load_model(checkpoint).record.spec.boxes.box_thresh != 0.45
    assert load_model(tmp_path / "r.onnx").record.spec.boxes.box_thresh == 0.45
    assert read_delivery(tmp_path / "r.onnx").boxes.box_thresh == 0.45  # a file of one size has a note


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (["--model_name_or_config", "dbnet_mobilenetv3", "--data_shape", 64, 96], USAGE,
     "--local_ckpt_path is missing; dbnet fetch dbnet_mobilenetv3"),
    (["--local_ckpt_path", "x.ckpt", "--data_shape", 64, 96], USAGE, "--model_name_or_config is missing"),
    (["--model_name_or_config", "dbnet_mobilenetv3", "--local_ckpt_path", "x.ckpt"], USAGE,
     "--data_shape H W is missing"),
    (["--model_name_or_config", "dbnet_mobilenetv3", "--local_ckpt_path", "x.ckpt", "--data_shape", 64, 96,
      "--is_dynamic_shape", "True"], USAGE, "exclude each other"),
    (["--model_name_or_config", "dbnet_mobilenetv3", "--local_ckpt_path", "x.ckpt", "--data_shape", 64, 96,
      "--model_type", "rec"], USAGE, "only text detectors"),
    (["--model_name_or_config", "crnn_resnet34", "--local_ckpt_path", "x.ckpt", "--data_shape", 64, 96], REFUSED,
     "crnn_resnet34"),
    (["--model_name_or_config", "nowhere.yaml", "--local_ckpt_path", "x.ckpt", "--data_shape", 64, 96], REFUSED,
     "nowhere.yaml"),
    (["--model_name_or_config", "dbnet_resnet50", "--local_ckpt_path", "x.ckpt", "--data_shape", 64, 96], REFUSED,
     "x.ckpt"),
    (["--model_name_or_config", "dbnet_mobilenetv3", "--local_ckpt_path", "gone.ckpt", "--data_shape", 64, 96], REFUSED,
     "gone.ckpt"),
    (["x.ckpt", "y.mindir", "--model_name_or_config", "dbnet_mobilenetv3", "--local_ckpt_path", "x.ckpt",
      "--data_shape", 64, 96], USAGE, "give one of them"),
    (["--model_name_or_config", "dbnet_mobilenetv3", "--local_ckpt_path", "x.ckpt", "--data_shape", 64, 96, "--spec",
      "dbnet_resnet18"], USAGE, "contradict each other"),
    (["--model_name_or_config", "dbnet_resnet18", "--local_ckpt_path", TRAINED, "--data_shape", 64, 96], REFUSED,
     "its record says dbnet_mobilenetv3, you say dbnet_resnet18; name that network to --model_name_or_config"),
    (["--model_name_or_config", "dbnet_mobilenetv3", "--local_ckpt_path", "x.ckpt", "--data_shape", 64, 96,
      "--save_dir", "new.mindir", "--opset", 13], USAGE, "--opset means nothing"),
])
def test_the_seeds_command_typed_wrong(arguments, code, told, checkpoint, tmp_path):
    paths = [tmp_path / a if str(a).endswith((".ckpt", ".mindir")) else a for a in arguments]
    refused(command("export", *paths, "--target", "mindir"), code, told)
    assert not list(tmp_path.glob("*.mindir"))
