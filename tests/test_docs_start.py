"""The quick start and the pages of those who come with a file: their sessions are run, and print what the pages say.

The files are seeded ones in the names and forms of the published ones, small images in place of photographs; PP-OCRv4
is RapidOCR's own file where `make test-runtimes` has it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import converters
from converters.load import default_record
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from tests.detecting import write_image, write_labels, write_photos
from tests.doc_pages import ROOT, blocks, run, run_session, session
from tests.opaque_models import detector
from tests.running import command
from tests.runtimes import runtime
from tests.test_synth_fonts import embedded_font
from tests.train_scenes import write_set

RECIPE_SIZE = "eval.dataset.transform_pipeline.DetResize.target_size=[96,160]"
EMBEDDED = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
#: Small images, so that seeded networks are quick.
SMALL = ("--pixels", "mindocr,size=96x160")
FEW_STEPS = ("--device", "cpu", "--workers", "0", "--max-steps", "1", "-o",
             "train.dataset.transform_pipeline.RandomCropWithBBox.crop_size=[64,96]", "train.loader.batch_size=2",
             "scheduler.num_epochs=1", "scheduler.warmup_epochs=0")
LONG = [pytest.param(False, id="quick"), pytest.param(True, id="whole", marks=pytest.mark.long)]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory: photos/ and icdar2015/ as the pages have them."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 2)
    for i in (1, 2):
        write_image(tmp_path / f"icdar2015/test/images/img_{i}.jpg", i, 200 + 20 * i)
    write_labels(tmp_path / "icdar2015/test/gt", 2)
    return tmp_path


def typed(page: str) -> list:
    return [one for block in blocks(page, "console") for one in session(block.text)]


@pytest.mark.parametrize("whole", LONG)
def test_quickstart(whole, here):
    for runtime_name in ("onnxruntime", "torch"):
        pytest.importorskip(runtime_name)
    place = here / "dbnet/embedded" / EMBEDDED.name
    place.parent.mkdir(parents=True)
    if whole:
        shutil.copy(EMBEDDED, place)
    else:
        assert command("convert", EMBEDDED, place, "--pixels", "size=192").returncode == 0
    (here / "fonts").mkdir()
    (here / "fonts/one.ttf").write_bytes(embedded_font())
    assert run_session(typed("docs/quickstart.md"), more={} if whole else {"data synth": ("--fonts", "fonts")}) == 9
    assert Path("report.html").stat().st_size > 10_000


@pytest.mark.parametrize("whole", LONG)
def test_a_mindocr_ckpt(whole, here):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    if whole:
        pytest.importorskip("mindspore")
    converters.save_weights(seeded_weights(SPECS["dbnet_mobilenetv3"]), "dbnet_mobilenetv3-62c44539.ckpt",
                            spec="dbnet_mobilenetv3")
    write_set(here / "ic15")
    ran = run_session(
        typed("docs/start_mindocr.md"), codes={"fetch": 1},  # its digest is not that of the published file
        more={"detect": SMALL, "--images photos": SMALL, "--protocol rrc,mindocr": SMALL, "train -c": FEW_STEPS,
              "deploy.onnx": ("--data-shape", "96", "160"),
              "evaluate -c": ("--runner", "onnxruntime", "-o", RECIPE_SIZE)},
        without=() if whole else ("model.pth --images", "deploy.mindir", "evaluate dbnet"))
    assert ran == (14 if whole else 11)


@pytest.fixture
def published(here) -> None:
    """totaltext_resnet18 as MhLiao/DB publishes it: its names, no record, no suffix."""
    torch = pytest.importorskip("torch")
    spec = default_record("mhliao", SPECS["dbnet_resnet18_deformable"]).spec
    converters.save_weights(seeded_weights(spec), "own.pth", spec=spec)
    assert command("convert", "own.pth", "theirs.pth", "--to", "mhliao").returncode == 0
    state = torch.load("theirs.pth", weights_only=True)
    torch.save(dict(state.items()), "totaltext_resnet18")  # without the metadata that is our record
    (here / "totaltext/Images/Test").mkdir(parents=True)
    shutil.copy("photos/img_1.png", "totaltext/Images/Test/img1.png")
    (here / "totaltext/txt_format/Test").mkdir(parents=True)
    Path("totaltext/txt_format/Test/poly_gt_img1.txt").write_text(
        "x: [[10 60 60 10]], y: [[10 10 40 40]], ornt: [u'h'], transcriptions: [u'word']\n")


@pytest.mark.parametrize("whole", LONG)
def test_a_db_pth(whole, here, published):
    if whole:
        pytest.importorskip("mindspore")
    small = ("--pixels", "mhliao,size=96")
    ran = run_session(typed("docs/start_db.md"),
                      more={"detect": small, "--images photos": small, "evaluate": small, "deploy.onnx": small},
                      without=() if whole else ("--images photos", "deploy.onnx", "--runner torch"))
    assert ran == (12 if whole else 9)


def pp_ocr_v4(path: Path) -> None:
    """RapidOCR's file, or one of another network in the same form."""
    try:
        python = runtime("rapidocr")
    except pytest.skip.Exception:
        detector(path, graph="Model from PaddlePaddle.")
        return
    [found] = python.parents[1].glob("lib/*/site-packages/rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")
    shutil.copy(found, path)


@pytest.mark.parametrize("whole", LONG)
def test_a_pp_ocr_onnx(whole, here):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    if whole:
        pytest.importorskip("mindspore")
    from tests.foreign_onnx import exported, saved, scrambled
    v3 = scrambled(exported(SPECS["db_mv3_ppocrv3"]))
    v3.graph.name = "Model from PaddlePaddle."
    saved(v3, here / "ch_PP-OCRv3_det_infer.onnx")
    pp_ocr_v4(here / "ch_PP-OCRv4_det_infer.onnx")
    ran = run_session(typed("docs/start_ppocr.md"),
                      codes={"inspect ch_PP-OCRv4": 1, "--html": 1},
                      without=() if whole else ("ch_PP-OCRv3_det_infer.onnx v3.ckpt --images", ))
    assert ran == (9 if whole else 8)


def test_a_page_that_is_wrong_is_noticed(here):
    wrong = session("$ dbnet specs\nnothing\n")
    with pytest.raises(AssertionError, match="the page says"):
        run_session(wrong)
    with pytest.raises(AssertionError, match="exit code 3"):
        run_session(session("$ dbnet inspect nowhere.pth\n...\n"))
    with pytest.raises(AssertionError, match="no command has"):
        run_session(wrong, without=("absent",))
    assert run("exit 4").returncode == 4
