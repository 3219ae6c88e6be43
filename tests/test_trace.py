"""`dbnet trace`, and `dbnet compare` with what it has written, as users type them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import converters
from converters.load import TRACE_KEY
from dbnet.datasets.drawn import draw
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from parity.trace import ORDER
from parity.trace_file import KEY, read_trace
from tests import detecting
from tests.running import command

pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

EMBEDDED = Path(__file__).resolve().parents[1] / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
#: Pictures as they are, so that the proofs are quick.
SMALL = ("--pixels", "resize=grid")
LEVELS = ("statistics", "sampled", "full")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three drawn pictures, their labels, and a trace of every level of the embedded model in ONNX Runtime."""
    folder = tmp_path_factory.mktemp("trace")
    (folder / "images").mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"images/img_{seed + 1}.png"), draw(seed + 40, 160, 224 + 32 * seed)[0])
    detecting.write_labels(folder / "gt", 3)
    for level in LEVELS:
        done = traced(folder, level)
        assert done.returncode == 0, done.stderr
    return folder


def traced(folder, level, *more, out=None):
    return command("trace", EMBEDDED, "--images", folder / "images", "-o", out or folder / f"{level}.trace", "--level",
                   level, "--runner", "onnxruntime", *SMALL, *more)


def compared(*arguments, code=0):
    done = command("compare", *arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def report(*arguments, code=0):
    done = compared(*arguments, "--json", "-", code=code)
    return json.loads(done.stdout)


def test_what_is_recorded(folder):
    run = read_trace(folder / "full.trace")
    assert run.stages == ORDER[:12] and [image.name for image in run.images] == ["img_1.png", "img_2.png", "img_3.png"]
    about = run.about
    assert (about["file"], about["runner"], about["device"]) == (EMBEDDED.name, "onnxruntime", "cpu")
    assert about["environment"]["framework"] == "onnxruntime" and about["machine"]["cores"]
    assert run.images[0].size == (160, 224) and run.images[0].shape == (1, 3, 160, 224)
    assert run.full(2, "p5").shape == (1, 64, 5, 9)
    assert sum(len(run.boxes(i)) for i in range(3)) > 3
    from evaluation.runners import open_runner
    runner = open_runner(EMBEDDED, "onnxruntime", stages=("c3",))
    assert np.array_equal(run.full(1, "c3"), runner.run(np.array(run.full(1, "pixels")))["c3"])


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_run_gives_the_same_bytes(level, folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "images")
    assert traced(tmp_path, level).returncode == 0
    assert (tmp_path / f"{level}.trace").read_bytes() == (folder / f"{level}.trace").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / f"{level}.trace").read_bytes()


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_model(level, folder, tmp_path):
    images = () if level == "full" else ("--images", folder / "images")
    data = report(folder / f"{level}.trace", EMBEDDED, "--runner-b", "onnxruntime", *SMALL, *images)
    assert data["verdict"] == "same" and {row["basis"] for row in data["stages"]} == {"digest"}
    assert data["boxes"]["identical"] == data["boxes"]["a"] > 3 and len(data["images"]) == 3
    page = tmp_path / "page.html"
    done = compared(folder / f"{level}.trace", EMBEDDED, *SMALL, *images, "--html", page, "--junit", tmp_path / "j.xml")
    assert "within tolerance: no stage differs" in done.stdout and f"recorded ({level}, 3 images)" in done.stdout
    assert page.stat().st_size > 1000 and "img_2.png" in page.read_text()


CHANGES = {"depthwise_padding=symmetric": "c2", "se_gate=hard_sigmoid": "c3", "norm_eps=1e-3": "c2"}


@pytest.mark.parametrize(("level", "setting", "stage"), [
    pytest.param(level, setting, stage, marks=[pytest.mark.long] if i != j else [])
    for i, level in enumerate(LEVELS) for j, (setting, stage) in enumerate(CHANGES.items())])
def test_what_was_changed_is_named(level, setting, stage, folder):
    data = report(folder / f"{level}.trace", EMBEDDED, "--set", setting, *SMALL, "--images", folder / "images", code=1)
    assert (data["verdict"], data["first_divergence"]) == ("different", stage)
    name, _, value = setting.partition("=")
    assert data["cause"] == {"norm_eps": "bn_eps"}.get(name, name)
    assert value.replace("1e-3", "0.001") in data["causes"][0]["what"] and data["causes"][0]["explained"]
    assert data["causes"][0]["residual"] < 2e-5 < data["causes"][0]["before"]


def test_the_trace_as_candidate(folder):
    data = report(EMBEDDED, folder / "sampled.trace", "--set", "se_gate=hard_sigmoid", *SMALL, "--images",
                  folder / "images", code=1)
    assert (data["first_divergence"], data["cause"]) == ("c3", "se_gate")


def test_other_weights_are_told_by_their_digest(folder, tmp_path):
    other = tmp_path / "other.safetensors"
    weights = converters.load_weights(EMBEDDED)
    weights["neck.out.0.weight"] = weights["neck.out.0.weight"][::-1].copy()
    converters.save_weights(weights, other, spec=SPECS["dbnet_mobilenetv3"])
    done = compared(folder / "sampled.trace", other, *SMALL, "--images", folder / "images", code=1)
    assert "different: first at p2; cause: unknown" in done.stdout and "compare the two weight files" in done.stdout
    assert "the weights are not the same (sha256 " in done.stdout


def test_two_traces(folder, tmp_path):
    assert traced(folder, "sampled", "--runner", "torch", out=tmp_path / "torch.trace").returncode == 0
    data = report(folder / "sampled.trace", tmp_path / "torch.trace")
    assert data["verdict"] == "within tolerance" and data["stages"][1]["basis"] == "sample"
    assert data["a"]["runner"] == "onnxruntime" and data["b"]["environment"]["framework"] == "torch"
    assert report(folder / "full.trace", folder / "full.trace")["verdict"] == "same"
    exact = {row["stage"]: row["max_rel"] for row in report(folder / "full.trace", EMBEDDED, *SMALL)["stages"]}
    assert all(row["max_rel"] <= exact[row["stage"]] for row in data["stages"])
    for more in (("--runner-a", "torch"), ("--device", "cpu"), ("--set", "k=3"), ("--weights",), ("--swap",)):
        assert compared(folder / "full.trace", folder / "full.trace", *more, code=2).stdout == ""


def test_images_that_are_not_the_recorded_ones(folder, tmp_path):
    assert "--level full" in compared(folder / "sampled.trace", EMBEDDED, *SMALL, code=3).stderr
    images = tmp_path / "images"
    shutil.copytree(folder / "images", images)
    cv2.imwrite(str(images / "img_2.png"), draw(99, 160, 256)[0])
    done = compared(folder / "sampled.trace", EMBEDDED, *SMALL, "--images", images, code=3)
    assert done.stderr.count("img_2.png: none of the --images is the file that was recorded (sha256 ") == 1
    assert "no verdict: the same on 2 of 3 images" in done.stdout
    (images / "img_1.png").rename(images / "renamed.png")
    data = report(folder / "sampled.trace", EMBEDDED, *SMALL, "--images", images, "--limit", 1)
    assert data["verdict"] == "within tolerance"
    shutil.rmtree(images)
    images.mkdir()
    cv2.imwrite(str(images / "img_2.png"), draw(99, 160, 256)[0])
    said = compared(folder / "sampled.trace", EMBEDDED, *SMALL, "--images", images, code=3).stderr
    assert "(and 2 images more)" in said and said.count("failed: ") == 0


def test_other_pixels_are_a_difference(folder):
    data = report(folder / "full.trace", EMBEDDED, "--pixels", "resize=grid,colour=BGR", "--images", folder / "images",
                  code=1)
    assert (data["first_divergence"], data["cause"]) == ("pixels", "color_order")
    data = report(folder / "full.trace", EMBEDDED, "--pixels", "resize=grid,colour=BGR", code=1)
    assert (data["first_divergence"], data["cause"]) == ("pixels", "color_order")


def test_box_rules(folder):
    assert "keeps" not in compared(folder / "full.trace", EMBEDDED, *SMALL, "--box-thresh", "0.2").stderr
    said = compared(folder / "sampled.trace", EMBEDDED, *SMALL, "--images", folder / "images", "--box-thresh", "0.2",
                    code=3).stderr
    assert "does not keep the probability map of img_1.png" in said


def test_scores(folder):
    data = report(folder / "sampled.trace", EMBEDDED, *SMALL, "--images", folder / "images", "--gt", folder / "gt",
                  "--same-f", "0.5", code=1)  # three images show nothing
    assert data["scores"]["protocols"]["rrc"]["difference"]["fscore"] == 0


def test_a_trace_with_what_is_kept(folder, tmp_path):
    out = tmp_path / "kept.trace"
    assert traced(folder, "statistics", "--keep", "pixels,probability", "--stages", "c5", out=out).returncode == 0
    run = read_trace(out)
    assert run.stages == ("pixels", "c5", "probability") and run.full(0, "c5") is None
    data = report(out, EMBEDDED, *SMALL, "--box-thresh", "0.3")
    assert [row["stage"] for row in data["stages"]] == ["pixels", "c5", "probability"]
    assert data["verdict"] == "within tolerance" and [row["basis"] for row in data["stages"]][::2] == ["digest", "all"]


@pytest.mark.parametrize(("more", "code", "said"), [
    (("--stages", "c9"), 2, "unknown stage 'c9'"), (("--stages", ","), 2, "no stage in it"),
    (("--keep", "nothing"), 2, "unknown stage 'nothing'"), (("--level", "half"), 2, "'half' is not one of"),
    (("--limit", "0"), 2, "not in the range"), (("--runner", "caffe"), 2, "unknown runner"),
    (("--stages", "binary", "--force"), 3, "gives no stage binary in onnxruntime"),
    ((), 3, "exists already; add --force")])
def test_bad_requests(more, code, said, folder):
    before = (folder / "full.trace").read_bytes()
    done = traced(folder, "full", *more)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr
    assert (folder / "full.trace").read_bytes() == before


@pytest.mark.parametrize(("out", "said"), [
    ("x.onnx", "is named like a weight file"), ("no/x.trace", "no such folder"), ("images", "is a folder"),
    ("images/img_1.png", "exists already")])
def test_bad_targets(out, said, folder):
    done = traced(folder, "full", out=folder / out)
    assert done.returncode == 3 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_broken_image_stops_it(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "images")
    (tmp_path / "images/img_2.png").write_bytes(b"no image")
    done = traced(tmp_path, "full")
    assert done.returncode == 3 and "img_2.png" in done.stderr and not (tmp_path / "full.trace").exists()


def test_with_a_limit_the_broken_among_the_first_are_told(folder, tmp_path):
    """img_10 is behind what is taken: nobody asked for it."""
    images = tmp_path / "images"
    shutil.copytree(folder / "images", images)
    (images / "img_10.png").symlink_to(tmp_path / "nowhere")
    done = traced(tmp_path, "statistics", "--limit", "2")
    assert done.returncode == 0 and "left out" not in done.stderr, done.stderr
    for number in range(5):
        (images / f"img_0{number}.png").symlink_to(tmp_path / "nowhere")
    done = traced(tmp_path, "statistics", "--limit", "2", "--force")
    notes = [line for line in done.stderr.splitlines() if "left out" in line]
    assert done.returncode == 0 and len(notes) == 3, done.stderr  # 00, 01 and 02
    done = traced(tmp_path, "statistics", "--limit", "9", "--force")
    notes = [line for line in done.stderr.splitlines() if "left out" in line]
    assert done.returncode == 0 and len(notes) == 4 and "3 more left out" in notes[3], done.stderr
    assert "img_00.png: cannot be read (No such file or directory); left out" in notes[0]
    for number in (1, 2, 3):
        (images / f"img_{number}.png").unlink()
    done = traced(tmp_path, "statistics", "--limit", "9", "--force")
    assert done.returncode == 3 and "img_00.png: cannot be read" in done.stderr
    assert traced(tmp_path, "statistics", "--force").returncode == 3


def test_a_trace_is_no_model(folder, tmp_path):
    assert TRACE_KEY == KEY
    trace, images = folder / "sampled.trace", folder / "images"
    for arguments in (("convert", trace, tmp_path / "x.onnx"), ("detect", images, "-m", trace),
                      ("detect", images, "-m", trace, "--pixels", "mindocr"),
                      ("evaluate", trace, "--root", folder),
                      ("trace", trace, "--images", images, "-o", tmp_path / "x.trace"),
                      ("precision", trace, "--images", images),
                      ("kit", trace, "--images", images, "-o", tmp_path / "k"),
                      ("interop", "msprobe", trace, "-o", tmp_path / "x.yaml")):
        done = command(*arguments)
        assert done.returncode == 3 and done.stderr.splitlines()[-1].endswith(
            f"{trace}: is a trace, which holds no weights; compare it with a model: dbnet compare sampled.trace MODEL"
        ), (arguments, done.stderr)
    assert list(tmp_path.iterdir()) == []
    assert "(trace, 1 run)" in command("inspect", trace).stdout


def test_models_of_others(folder, tmp_path):
    """A model whose network is not known has a probability, and a trace of that."""
    from tests.opaque_models import BRIGHT, detector
    model = detector(tmp_path / "m.onnx")
    done = command("trace", model, "--images", folder / "images", "-o", tmp_path / "m.trace", "--pixels", BRIGHT)
    assert done.returncode == 0, done.stderr
    assert read_trace(tmp_path / "m.trace").stages == ("pixels", "probability")
    data = report(tmp_path / "m.trace", model, "--pixels", BRIGHT, "--images", folder / "images")
    assert data["verdict"] == "same" and data["a"]["spec"] == "opaque"


@pytest.mark.long
def test_a_seeded_resnet_in_mindspore(tmp_path):
    pytest.importorskip("mindspore")
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), draw(5, 96, 96)[0])
    model = tmp_path / "r18.ckpt"
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18"], 3), model, spec=SPECS["dbnet_resnet18"])
    common = ("--images", tmp_path / "images", *SMALL)
    assert command("trace", model, *common, "-o", tmp_path / "ms.trace", "--level", "full").returncode == 0
    data = report(tmp_path / "ms.trace", model, *common, "--runner-b", "torch")
    assert data["verdict"] == "within tolerance" and data["a"]["environment"]["framework"] == "mindspore"
    assert [row["stage"] for row in data["stages"]][-2:] == ["threshold", "binary"]


def test_errors_of_their_own_are_told_from_inherited_ones(folder):
    """A full trace feeds every stage what was recorded before it."""
    done = compared(folder / "full.trace", EMBEDDED, "--set", "se_gate=hard_sigmoid", *SMALL, code=1)
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0] in ORDER}
    assert "DIFFERS" in rows["c3"] and "inherited" in rows["p2"] and "inherited" in rows["probability"]
    data = report(EMBEDDED, folder / "full.trace", "--set", "se_gate=hard_sigmoid", *SMALL, code=1)
    assert data["own_errors"] == ["c3", "c4", "c5"]  # the one that is here is fed what the other recorded


def test_distances_to_float64(folder):
    """With the weights that were recorded, of the first image."""
    data = report(folder / "full.trace", EMBEDDED, *SMALL)
    rows = {row["stage"]: row for row in data["stages"]}
    assert all(0 < rows[stage][f"float64_{side}"] < 2e-5 for stage in ("c3", "p4", "probability")
               for side in ("reference", "candidate"))
    assert "the distances to float64 are those of img_1.png" in data["notes"]
    changed = report(folder / "full.trace", EMBEDDED, "--set", "se_gate=hard_sigmoid", *SMALL, code=1)["stages"]
    rows = {row["stage"]: row for row in changed}
    assert rows["c3"]["float64_reference"] < 2e-5 < 1e-2 < rows["c3"]["float64_candidate"]
    rows = report(folder / "sampled.trace", EMBEDDED, *SMALL, "--images", folder / "images")["stages"]
    assert {row["float64_reference"] for row in rows} == {None}
