"""What a hostile reader found: each was once a hang, a wrong verdict, a lost file or more than one line."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

import converters
from converters.check import weight_map
from converters.formats import codec, detect
from converters.load import SourceOptions, load_model
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from tests.running import command
from tests.test_bad_input import require_refused

SMALL = "db_mv3_paddle"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.pth"
    converters.save_weights(seeded_weights(SPECS[SMALL]), path, spec=SMALL)
    return path


@pytest.mark.parametrize("low", [0x80, 0x50, 0x08, 0x0a])
def test_any_header_length_is_safetensors(tmp_path, low):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header = header.ljust(0x200 + low if low > len(header) else 0x300 + low)
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert detect(path) == "safetensors"


@pytest.mark.parametrize("name", ["backbone." + "x" * 30, "y" * 93])
def test_a_checkpoint_may_begin_like_text(tmp_path, name):
    """The length of its first entry is then a "<" or a "{"."""
    path = tmp_path / "a.ckpt"
    with path.open("w+b") as stream:
        codec("ckpt").write(stream, {name: np.ones(1, np.float32)}, None)
    assert detect(path) == "ckpt"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_never_replaced(tmp_path, model):
    os.mkfifo(tmp_path / "p.ckpt")
    require_refused(command("inspect", tmp_path / "p.ckpt"), "not a regular file")


def test_reports_never_replace_weights(tmp_path, model):
    require_refused(command("inspect", model, "--json", model), "named like a weight file")
    require_refused(command("convert", model, tmp_path / "b.ckpt", "--json", tmp_path / "b.ckpt"), "weight file")
    require_refused(command("convert", model, tmp_path / "b.ckpt", "--json", tmp_path / "no/x.json"), "no such folder")
    assert list(tmp_path.iterdir()) == []
    assert load_model(model).weights
    assert command("inspect", model, "--json", os.devnull).returncode == 0
    assert not os.path.isfile(os.devnull)


def test_a_link_is_followed(tmp_path, model):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/b.ckpt").write_text("old")
    (tmp_path / "b.ckpt").symlink_to(tmp_path / "real/b.ckpt")
    assert command("convert", model, tmp_path / "b.ckpt", "--force").returncode == 0
    assert (tmp_path / "b.ckpt").is_symlink()
    assert load_model(tmp_path / "real/b.ckpt").weights


@pytest.mark.parametrize(("arguments", "word"), [
    (["--from", "nobody"], "choose one of"), (["--spec", "nothing"], "unknown spec"), (["--set", "bogus=1"], "bogus"),
    (["--take", "ema"], "no EMA")])
def test_inspect_refuses_what_it_cannot_follow(model, arguments, word):
    require_refused(command("inspect", model, *arguments), word)


def test_a_closed_pipe_is_no_verdict(model):
    with subprocess.Popen([sys.executable, "-m", "dbnet", "inspect", str(model), "--json", "-"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # long before anything is printed
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line(model):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "dbnet", "inspect", str(model)], stdout=full,
                              stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)


def test_a_damaged_image_is_one_line(tmp_path, model):
    pytest.importorskip("onnxruntime")
    (tmp_path / "images").mkdir()
    (tmp_path / "gt").mkdir()
    good = cv2.imencode(".jpg", draw(1)[0])[1].tobytes()
    for number, content in ((1, good), (2, b"\xff\xd8 not really")):
        (tmp_path / f"images/img_{number}.jpg").write_bytes(content)
        (tmp_path / f"gt/gt_img_{number}.txt").write_text("1,1,9,1,9,9,1,9,a\n")
    require_refused(command("evaluate", model, "--root", tmp_path, "--runner", "onnxruntime"), "img_2.jpg")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod."])
@pytest.mark.parametrize("dialect", ["torch", "mhliao"])
def test_wrappers_prefixes(tmp_path, prefix, dialect):
    spec = SPECS["dbnet_resnet18"]
    mapping = weight_map(dialect, spec)
    if prefix not in mapping.dialect.prefixes:
        prefix = mapping.dialect.prefixes[0]
    own = mapping.dialect.prefixes[0]
    named = {prefix + name[len(own):]: array for name, array in mapping.inverse(seeded_weights(spec)).items()}
    with (tmp_path / "a.pth").open("w+b") as stream:
        codec("pth").write(stream, named, None)
    assert load_model(tmp_path / "a.pth").record.spec.name == spec.name


def test_nearest_is_told_by_the_names(tmp_path):
    weights = dict(list(seeded_weights(SPECS["dbnet_mobilenetv3"]).items())[:120])
    with (tmp_path / "a.ckpt").open("w+b") as stream:
        codec("ckpt").write(stream, weights, None)
    with pytest.raises(DbnetError, match="nearest is dbnet_mobilenetv3"):
        load_model(tmp_path / "a.ckpt")


def test_ema_beside_a_record(tmp_path):
    weights = seeded_weights(SPECS[SMALL])
    converters.save_weights(weights, tmp_path / "a.ckpt", spec=SMALL)
    record = codec("ckpt").read(tmp_path / "a.ckpt").record
    both = {**weights, **{f"ema.{name}": array * np.float32(0.5) for name, array in weights.items()}}
    with (tmp_path / "b.ckpt").open("w+b") as stream:
        codec("ckpt").write(stream, both, record)
    ema = load_model(tmp_path / "b.ckpt", SourceOptions(take="ema"))
    assert np.array_equal(ema.weights["neck.out.0.weight"], weights["neck.out.0.weight"] * np.float32(0.5))
    assert ema.record.sha256 != load_model(tmp_path / "b.ckpt", SourceOptions(take="plain")).record.sha256


def test_names_for_another_project_must_be_computable_there(tmp_path, model):
    require_refused(command("convert", model, tmp_path / "b.safetensors", "--to", "paddle", "--set",
                          "depthwise_padding=same"), "PaddleOCR knows only symmetric")
    said = command("convert", model, tmp_path / "c.ckpt", "--to", "mindocr_enhance").stdout
    assert "BGR" in said.splitlines()[-1]
    assert "--to mindocr_enhance" in command("convert", model, tmp_path / "d.ckpt").stdout


def with_record(folder, **changes):
    """A small .pth whose record says something else."""
    model = weight_map("torch", SPECS[SMALL]).inverse(seeded_weights(SPECS[SMALL]))
    record = json.loads(Record(SPECS[SMALL], "paddle").to_json()) | changes
    with (folder / "a.pth").open("wb") as stream:
        codec("pth").write(stream, model, json.dumps(record))
    return folder / "a.pth"


@pytest.mark.parametrize("origin", ["xyz", ""])
def test_an_origin_that_nobody_knows_writes_nothing(tmp_path, origin):
    path = with_record(tmp_path, origin=origin)
    require_refused(command("convert", path, tmp_path / "b.ckpt"), "its origin", str(path))
    require_refused(command("inspect", path), "its origin", str(path))
    assert not (tmp_path / "b.ckpt").exists()


@pytest.mark.parametrize("width", [250, 1_000_000])
def test_a_neck_of_no_width_is_refused(tmp_path, width):
    path = with_record(tmp_path, semantics=SPECS[SMALL].semantics() | {"neck_channels": width})
    require_refused(command("inspect", path), "neck_channels cannot be", str(path))


def test_a_setting_without_a_place_is_refused(model, tmp_path):
    line = command("convert", model, tmp_path / "b.ckpt", "--set", "stem_pool=symmetric")
    require_refused(line, "--set stem_pool changes nothing", str(model))
    assert not (tmp_path / "b.ckpt").exists()


def test_what_is_chosen_in_one_file_need_not_be_in_the_other(model, tmp_path):
    weights = {"Student." + n: a for n, a in weight_map("paddle", SPECS[SMALL]).inverse(
        seeded_weights(SPECS[SMALL])).items()}
    weights |= {n.replace("Student.", "Teacher."): a for n, a in weights.items()}
    with (tmp_path / "two.pdparams").open("wb") as stream:
        codec("pdparams").write(stream, weights, None)
    for pair in ((tmp_path / "two.pdparams", model), (model, tmp_path / "two.pdparams")):
        assert "same: " in command("compare", *pair, "--weights", "--part", "Student").stdout
        require_refused(command("compare", *pair, "--weights"), "several networks", "two.pdparams")
    require_refused(command("compare", model, model, "--weights", "--part", "Student"), "leave out --part",
                    str(model))
