"""`dbnet interop`: what is written for msprobe and Polygraphy, read here by readers of their own.

The tools themselves run on such files in test_interop_tools.py.
"""

import base64
import errno
import io
import json
import os
import stat
from dataclasses import replace

import numpy as np
import pytest
import yaml

import converters
from converters.check import weight_map
from converters.dialects import DIALECTS
from converters.layer_mapping import Side, layer_mapping
from converters.module_names import CODES, module_paths
from dbnet.cli.interop import CODES as OFFERED
from dbnet.cli.interop import _allowed
from dbnet.preprocess import prepare, read_image
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation.runners import open_runner
from parity.tolerances import TOLERANCES
from tests.detecting import SPEC, write_image, write_model, write_photos
from tests.opaque_models import BRIGHT, detector, logits_of
from tests.running import dbnet


def found_by_msprobe(mapping, path):
    """Where msprobe looks for a module, from its documented rules alone: under the class of what holds it, the longest
    path first; here everything stands under the top."""
    assert set(mapping) == {"TopLayer"}
    for rule, there in sorted(mapping["TopLayer"].items(), key=lambda row: -len(row[0].split("."))):
        if (path + ".").startswith(rule + "."):
            return there + path[len(rule):]
    return path


def mappings(target):
    """(golden, spec, the mapping) for every project and network that share one with `target`."""
    for golden, other in CODES.items():
        for name in DIALECTS[CODES[target].dialect].specs:
            if name in DIALECTS[other.dialect].specs:
                text = layer_mapping(Side(target, SPECS[name]), Side(golden, SPECS[name])).text("x")
                yield golden, SPECS[name], yaml.load(text, yaml.CSafeLoader)


@pytest.mark.parametrize("target", CODES)
def test_every_layer_with_weights_is_led_to_that_with_the_same_weights(target):
    for golden, spec, mapping in mappings(target):
        ours, theirs = (DIALECTS[CODES[code].dialect] for code in (target, golden))
        for entry, other in zip(weight_map(ours.name, spec).entries, weight_map(theirs.name, spec).entries,
                                strict=True):
            path, there = (dialect.prefixes[0] + e.foreign.rpartition(".")[0]
                           for dialect, e in ((ours, entry), (theirs, other)))
            assert found_by_msprobe(mapping, path) == there


@pytest.mark.parametrize("target", CODES)
def test_no_layer_is_led_to_one_of_another_meaning(target):
    """MindOCR's `head.segm` ends with the sigmoid, that of the halves does not: equal names are not enough here too."""
    for golden, spec, mapping in mappings(target):
        ours, theirs = module_paths(target, spec), module_paths(golden, spec)
        assert len(set(ours.values())) == len(ours)
        meanings = {path: meaning for meaning, path in theirs.items()}
        for meaning, path in ours.items():
            assert meanings.get(found_by_msprobe(mapping, path)) == (meaning if meaning in theirs else None), path


@pytest.mark.parametrize("name", SPECS)
def test_the_halves_have_the_modules_that_are_named(name):
    """Of torch_reference, to which ms_models is alike (test_mirror.py): all that hold something are listed."""
    torch = pytest.importorskip("torch")
    from torch_reference.dbnet import DBNet
    with torch.device("meta"):
        there = dict(DBNet(SPECS[name]).named_modules())
    named = module_paths("torch_reference", SPECS[name])
    assert set(named.values()) <= set(there)
    lists = {path for path, module in there.items() if isinstance(module, torch.nn.ModuleList)}
    holding = {path for path, module in there.items()
               if path and path not in lists and list(module.parameters())}
    assert holding <= set(named.values())


def write_r18(path, spec="dbnet_resnet18"):
    converters.save_weights(seeded_weights(SPECS[spec]), path, spec=spec)
    return path


def test_the_codes_offered_are_those_there_are():
    assert tuple(CODES) == OFFERED


def test_a_ckpt_of_mindocr_and_a_pth_of_mhliao(tmp_path):
    ckpt, pth, to = write_r18(tmp_path / "r18.ckpt"), tmp_path / "r18.pth", tmp_path / "map.yaml"
    dbnet("convert", ckpt, pth, "--to", "mhliao", "--set", "stem_pool=symmetric")
    done = dbnet("interop", "msprobe", ckpt, pth, "-o", to)
    assert "mindocr -> mhliao; 92 of 94 modules have a counterpart" in done.stdout
    assert f"-lm {to}" in done.stdout
    rows = yaml.safe_load(to.read_text())["TopLayer"]
    assert rows["neck.unify_channels.3"] == "model.module.decoder.in5"
    assert rows["backbone.max_pool"] == "model.module.backbone.maxpool"
    assert rows["head.segm"] == "model.module.decoder.binarize"
    assert to.read_text().startswith("# dbnet_resnet18: mindocr -> mhliao")


def test_the_same_by_a_name(tmp_path):
    ckpt = write_r18(tmp_path / "r18.ckpt")
    dbnet("interop", "msprobe", ckpt, "-o", tmp_path / "a.yaml", "--golden", "mhliao", "--golden-prefix", "module",
          "--target-prefix", "_net")
    rows = yaml.safe_load((tmp_path / "a.yaml").read_text())["TopLayer"]
    assert rows["_net.backbone"] == "module.backbone" and rows["_net.neck.out.2"] == "module.decoder.out4.0"
    dbnet("interop", "msprobe", ckpt, "-o", tmp_path / "b.yaml", "--target", "ms_models")
    assert yaml.safe_load((tmp_path / "b.yaml").read_text()) == {"TopLayer": {p: p for p in ("backbone", "neck",
                                                                                             "head")}}
    assert (tmp_path / "b.yaml").read_bytes() == _again(ckpt, tmp_path / "c.yaml")


def _again(ckpt, to):
    dbnet("interop", "msprobe", ckpt, "-o", to, "--target", "ms_models")
    return to.read_bytes()


def test_what_cannot_be_mapped_is_one_line(tmp_path):
    ckpt = write_r18(tmp_path / "r18.ckpt")
    r50, paddle = write_r18(tmp_path / "r50.pth", "dbnet_resnet50"), tmp_path / "mv3.pdparams"
    write_r18(tmp_path / "mv3.ckpt", "dbnet_mobilenetv3")
    to = tmp_path / "map.yaml"
    for arguments, code, told in (
            ((ckpt, r50), 3, "networks of different layers, dbnet_resnet18 and dbnet_resnet50"),
            ((tmp_path / "mv3.ckpt", "--golden", "mhliao"), 3, "mhliao has no dbnet_mobilenetv3; it has dbnet_resnet"),
            ((ckpt, "--golden", "paddle"), 2, "'paddle' is not one of"),
            ((tmp_path / "none.ckpt",), 3, "none.ckpt")):
        done = dbnet("interop", "msprobe", *arguments, "-o", to, code=code)
        assert told in done.stderr, done.stderr
        assert not to.exists()
    dbnet("convert", write_r18(tmp_path / "p.ckpt", "db_mv3_paddle"), paddle)
    assert "neither MindSpore's nor PyTorch's" in dbnet("interop", "msprobe", paddle, "-o", to, code=3).stderr
    dbnet("interop", "msprobe", paddle, "-o", to, "--target", "mindocr_enhance")
    assert "add --force" in dbnet("interop", "msprobe", ckpt, "-o", to, code=3).stderr
    dbnet("interop", "msprobe", ckpt, "-o", to, "--force")
    assert "dbnet_resnet18" in to.read_text()
    assert "no such folder" in dbnet("interop", "msprobe", ckpt, "-o", tmp_path / "no" / "m.yaml", code=3).stderr
    before = ckpt.read_bytes()
    for to in (ckpt, tmp_path / "other.pth"):
        dbnet("interop", "msprobe", ckpt, "-o", to, "--force", code=3)
    assert ckpt.read_bytes() == before and not (tmp_path / "other.pth").exists()


# Polygraphy -----------------------------------------------------------------------------------------------------------


def array_of(value):
    assert set(value) == {"array", "polygraphy_class"} and value["polygraphy_class"] == "ndarray"
    return np.load(io.BytesIO(base64.b64decode(value["array"], validate=True)), allow_pickle=False)


def read_inputs(path):
    return [{name: array_of(value) for name, value in feed.items()} for feed in json.loads(path.read_text())]


def read_outputs(path):
    """The runner and its iterations."""
    results = json.loads(path.read_text())
    assert results["polygraphy_class"] == "RunResults" and len(results["lst"]) == 1
    [[runner, iterations]] = results["lst"]
    found = []
    for iteration in iterations:
        assert iteration["polygraphy_class"] == "IterationResult" and iteration["runner_name"] == runner
        assert all(lazy["polygraphy_class"] == "LazyArray" for lazy in iteration["outputs"].values())
        found.append({name: array_of(lazy["values"]) for name, lazy in iteration["outputs"].items()})
    return runner, found


@pytest.fixture
def files(tmp_path):
    return tmp_path / "in.json", tmp_path / "out.json"


def wanted(files):
    return "--inputs", files[0], "--outputs", files[1]


def test_what_goes_in_and_comes_out_bit_for_bit(tmp_path, files):
    model, photos = write_model(tmp_path / "m.onnx"), write_photos(tmp_path / "photos", 3)
    done = dbnet("interop", "polygraphy", model, "--images", tmp_path / "photos", *wanted(files))
    runner, outputs = read_outputs(files[1])
    assert runner == "dbnet-onnxruntime"
    opened = open_runner(model)
    for photo, fed, given in zip(photos, read_inputs(files[0]), outputs, strict=True):
        tensor = prepare(read_image(photo), SPEC.pixels).tensor
        assert list(fed) == ["image"] and fed["image"].dtype == np.float32 and np.array_equal(fed["image"], tensor)
        assert list(given) == ["probability"]
        assert np.array_equal(given["probability"], opened.run(tensor)["probability"])
    assert f"{files[0]}: 3 images as image" in done.stdout
    assert "--load-outputs" in done.stdout and "--atol probability:" in done.stdout
    before = [path.read_bytes() for path in files]
    dbnet("interop", "polygraphy", model, "--images", tmp_path / "photos", *wanted(files), "--force")
    assert before == [path.read_bytes() for path in files]


def test_stages_names_and_another_runner(tmp_path, files):
    pytest.importorskip("torch")
    model, photo = write_model(tmp_path / "m.pth"), write_image(tmp_path / "a.png")
    dbnet("interop", "polygraphy", model, "--images", photo, "--stages", "c2,probability", "--rename", "image=x",
          "--rename", "probability=sigmoid_0.tmp_0", *wanted(files))
    runner, [given] = read_outputs(files[1])
    assert runner == "dbnet-torch" and list(given) == ["c2", "sigmoid_0.tmp_0"]
    [fed] = read_inputs(files[0])
    maps = open_runner(model, "torch", stages=("c2", "probability")).run(fed["x"])
    assert np.array_equal(given["c2"], maps["c2"])
    assert np.array_equal(given["sigmoid_0.tmp_0"], maps["probability"])


@pytest.mark.parametrize(("form", "dtype"), [
    ({"end": "logits"}, np.float32), ({"shape": ("n", "h", "w", 3), "end": "logits"}, np.float32),
    ({"element": "FLOAT16", "end": "logits"}, np.float16)])
def test_an_onnx_of_somebody_else_has_its_own_names_layout_and_values(tmp_path, files, form, dtype):
    """Logits stay logits: it is compared with what the file itself gives."""
    model, photo = detector(tmp_path / "d.onnx", output="scores", **form), write_image(tmp_path / "a.png")
    dbnet("interop", "polygraphy", model, "--images", photo, "--pixels", BRIGHT, *wanted(files))
    [fed], (_, [given]) = read_inputs(files[0]), read_outputs(files[1])
    image = fed["image"]
    assert image.dtype == dtype
    image = image.transpose(0, 3, 1, 2) if image.shape[-1] == 3 else image
    assert list(given) == ["scores"]
    assert given["scores"].shape == (1, 1, *image.shape[2:])
    assert np.abs(given["scores"] - logits_of(image.astype(np.float64))).max() < (0.1 if dtype == np.float16 else 1e-5)


def test_both_files_or_neither(tmp_path, files):
    model, photos = write_model(tmp_path / "m.onnx"), write_photos(tmp_path / "photos", 2)
    photos[1].write_bytes(photos[1].read_bytes()[:300])
    done = dbnet("interop", "polygraphy", model, "--images", tmp_path / "photos", *wanted(files), code=3)
    assert str(photos[1]) in done.stderr
    files[0].write_text("mine")
    assert "add --force" in dbnet("interop", "polygraphy", model, "--images", photos[0], *wanted(files), code=3).stderr
    assert files[0].read_text() == "mine" and not files[1].exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "m.onnx", "photos"]


def test_neither_is_replaced_when_the_disk_is_full_at_the_end(tmp_path, files, monkeypatch):
    """New inputs beside old outputs would fail an innocent model."""
    model, photo = write_model(tmp_path / "m.onnx"), write_image(tmp_path / "a.png")
    for path in files:
        path.write_text("old")
    fsync = os.fsync

    def full(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode) and os.pread(handle, 6, 0) == b'{"lst"':
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    done = dbnet("interop", "polygraphy", model, "--images", photo, *wanted(files), "--force", code=3)
    assert "the disk is full" in done.stderr
    assert [path.read_text() for path in files] == ["old", "old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "in.json", "m.onnx", "out.json"]


@pytest.mark.parametrize(("device", "more", "key"), [
    ("cpu", {}, ("cpu", "float32", False)), ("cuda:0", {"tf32": False}, ("cuda", "float32", False)),
    ("cuda:0", {"tf32": True}, ("cuda", "float32", True)), ("cpu", {"precision": "fp16"}, ("cpu", "fp16", False)),
    ("Ascend", {"precision_mode": "force_fp16"}, ("ascend", "fp16", False)), ("tpu", {}, ("cpu", "float32", False))])
def test_the_tolerances_are_those_of_the_stage_and_of_who_ran_it(device, more, key):
    """Absolute, so times the largest value, of a probability at least 0.1: a map without text is all errors."""
    largest = {"c2": 2.0, "logits": 3.0, "scores": 0.5, "binary": 1.0, "threshold": 0.01, "seen": 1e-4}
    told = _allowed(largest, {"probability": "seen"}, {"device": device, **more})
    row = TOLERANCES[key].on_whole_images()
    assert row.features > TOLERANCES[key].features
    assert told == [f"{name}:{value:.1e}" for name, value in (
        ("c2", 2 * row.features), ("logits", 3 * row.logits), ("scores", 0.5 * row.probability), ("binary", row.binary),
        ("threshold", 0.1 * row.probability), ("seen", 0.1 * row.probability))]


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "y.json", "--rename", "image=probability"), 2,
     "would be called probability"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "y.json", "--rename", "image=x", "--rename",
      "probability=x"), 2, "would be called x"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "x.json"), 3, "named for the inputs and for the outputs"),
    (("--images", "a.png", "--inputs", "x", "--outputs", "y.json"), 3, "takes such a path for a folder"),
    (("--inputs", "x.json", "--outputs", "y.json"), 2, "give --images"),
    (("--images", "none.png", "--inputs", "x.json", "--outputs", "y.json"), 3, "no such file"),
    (("--images", "a.png", "--inputs", "x.json"), 2, "--outputs"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "y.json", "--rename", "image"), 2, "OLD=NEW"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "y.json", "--rename", "imgae=x"), 3, "no imgae"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "y.json", "--stages", "c9"), 2, "c9"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "y.json", "--stages", ","), 2, "unknown stage ','"),
    (("--images", "a.png", "--inputs", "a.png", "--outputs", "y.json", "--force"), 3, "a.png: is a source"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "m.onnx", "--force"), 3, "named like a weight file"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "."), 3, "is a folder"),
    (("--images", "a.png", "--inputs", "x.json", "--outputs", "y.json", "--runner", "tensorflow"), 2, "tensorflow")])
def test_what_is_typed_wrong_is_one_line_and_writes_nothing(tmp_path, monkeypatch, arguments, code, told):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m.onnx")
    write_image(tmp_path / "a.png")
    from tests.running import command
    done = command("interop", "polygraphy", "m.onnx", *arguments)
    assert done.returncode == code and told in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "m.onnx"]


def test_of_a_trace_that_keeps_everything(tmp_path, files):
    """No model is needed for it, and the same files come out as of the model itself."""
    from functools import partial

    from parity.staged import open_staged
    from parity.trace_file import write_traces
    from parity.trace_record import record
    model, photo = write_model(tmp_path / "m.onnx"), write_image(tmp_path / "a.png")
    side = open_staged(model)
    traced = partial(record, side, SPEC.boxes, [("a.png", str(photo))], stages=("probability",))
    write_traces(tmp_path / "a.trace", {"model": traced("full")})
    dbnet("interop", "polygraphy", tmp_path / "a.trace", *wanted(files))
    of_trace = [path.read_bytes() for path in files]
    dbnet("interop", "polygraphy", model, "--images", photo, *wanted(files), "--force")
    assert of_trace == [path.read_bytes() for path in files]
    whole = (tmp_path / "a.trace").read_bytes()
    for target in (("--inputs", tmp_path / "a.trace", "--outputs", files[1]),
                   ("--inputs", files[0], "--outputs", tmp_path / "a.trace")):
        for source in ("a.trace", "a.trace:model"):
            done = dbnet("interop", "polygraphy", tmp_path / source, *target, "--force", code=3)
            assert "a.trace: is a source" in done.stderr and (tmp_path / "a.trace").read_bytes() == whole
    done = dbnet("interop", "polygraphy", tmp_path / "a.trace", *wanted(files), "--force", "--images", photo, code=2)
    assert "--images means nothing with a trace" in done.stderr
    done = dbnet("interop", "polygraphy", tmp_path / "a.trace", *wanted(files), "--force", "--stages", "c2", code=3)
    assert "has no stage c2" in done.stderr
    write_traces(tmp_path / "s.trace", {"model": traced("statistics")})
    done = dbnet("interop", "polygraphy", tmp_path / "s.trace", *wanted(files), "--force", code=3)
    assert "does not keep pixels in full" in done.stderr and "--level full" in done.stderr
    write_traces(tmp_path / "k.trace", {"model": traced("statistics", keep=("pixels", "probability"))})
    dbnet("interop", "polygraphy", tmp_path / "k.trace", *wanted(files), "--force")
    assert of_trace == [path.read_bytes() for path in files]


def test_networks_that_differ_in_a_layer_without_weights_are_still_the_same_layers():
    spec = SPECS["dbnet_resnet18"]
    layer_mapping(Side("mindocr", spec), Side("mhliao", replace(spec, stem_pool="symmetric")))
