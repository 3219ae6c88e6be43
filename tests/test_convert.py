"""Conversion: every chain of formats ends with the same bytes and the same record, and says what it assumed."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import converters
from converters.check import weight_map
from converters.convert import convert, describe, load_model, save_model
from converters.dialects_torch import MHLIAO
from converters.formats import codec, read_file
from converters.load import LoadedModel, SourceOptions
from converters.weights import digest, same_bits
from dbnet.errors import DbnetError
from dbnet.postprocess import RULES, default_boxes
from dbnet.record import Record
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS

SUFFIXES = (".ckpt", ".pth", ".onnx", ".safetensors")
SMALL = "db_mv3_paddle"


def chain(start: Path, suffixes, folder: Path) -> Path:
    path = start
    for i, suffix in enumerate(suffixes):
        path = convert(path, folder / f"hop{i}{suffix}").target
    return path


def require_equal(a: LoadedModel, b: LoadedModel) -> None:
    assert list(a.weights) == list(b.weights)
    assert all(same_bits(a.weights[name], b.weights[name]) for name in a.weights)
    assert a.record == b.record
    assert a.record.to_json() == b.record.to_json()


@pytest.mark.parametrize("order", [  # every second one has each format right before each other one
    pytest.param(order, marks=pytest.mark.long if i % 2 else ())
    for i, order in enumerate(itertools.permutations(SUFFIXES))], ids="".join)
def test_any_order_of_formats_keeps_bytes_and_record(tmp_path, order):
    start = tmp_path / f"start{order[-1]}"
    converters.save_weights(seeded_weights(SPECS[SMALL], 5), start, spec=SMALL)
    require_equal(load_model(start), load_model(chain(start, order, tmp_path)))


#: Like others here, and they take long; parity/test_weights.py takes most of them through four hops each time.
LARGE = ("dbnet_resnet50", "dbnet_resnet50_deformable", "dbnetpp_resnet50_deformable", "dbpp_resnet50_paddle")


@pytest.mark.parametrize("spec", [pytest.param(name, marks=[pytest.mark.long] * (name in LARGE)) for name in SPECS])
def test_every_spec_makes_the_round(tmp_path, spec):
    weights = seeded_weights(SPECS[spec], 7)
    start = tmp_path / "start.ckpt"
    converters.save_weights(weights, start, spec=spec)
    end = chain(start, (".pth", ".onnx", ".safetensors", ".ckpt"), tmp_path)
    assert start.read_bytes() == end.read_bytes()
    loaded = converters.load_weights(end)
    assert all(np.array_equal(loaded[name], weights[name]) for name in weights)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_survive(tmp_path, dtype):
    weights = seeded_weights(SPECS[SMALL], 2, dtype)
    start = tmp_path / "start.pth"
    converters.save_weights(weights, start, spec=SMALL)
    end = load_model(chain(start, (".onnx", ".ckpt", ".safetensors", ".pth"), tmp_path))
    assert {a.dtype.name for a in end.weights.values()} == {dtype}
    assert end.record.sha256 == digest(weights)


def test_mixed_precision_and_special_values_survive(tmp_path):
    weights = seeded_weights(SPECS[SMALL], 2)
    names = list(weights)
    weights[names[0]] = weights[names[0]].astype(ml_dtypes.bfloat16)
    weights[names[1]] = weights[names[1]].astype(np.float16)
    tiny = weights[names[5]]
    tiny.flat[0], tiny.flat[1] = -0.0, np.float32(1e-44)  # a negative zero and a denormal
    weights[names[6]] = np.asfortranarray(weights[names[6]])
    start = tmp_path / "start.safetensors"
    converters.save_weights(weights, start, spec=SMALL)
    end = load_model(chain(start, (".ckpt", ".onnx", ".pth"), tmp_path))
    assert all(same_bits(end.weights[name], np.ascontiguousarray(weights[name])) for name in weights)


def test_inference_subset_travels_and_is_named(tmp_path):
    weights = {n: a for n, a in seeded_weights(SPECS[SMALL]).items() if not n.startswith("head.thresh.")}
    start = tmp_path / "start.onnx"
    converters.save_weights(weights, start, spec=SMALL)
    end = load_model(chain(start, (".ckpt", ".pth", ".safetensors"), tmp_path))
    assert end.subset == "inference"
    assert end.record.sha256 == digest(weights)
    assert any("inference subset" in note for note in end.notes)


def mhliao_file(path: Path, spec: str = "dbnet_resnet18") -> Path:
    foreign = weight_map("mhliao", SPECS[spec]).inverse(seeded_weights(SPECS[spec], 4))
    foreign["model.module.backbone.fc.weight"] = np.ones((10, 512), np.float32)
    with path.open("wb") as stream:
        codec("pth").write(stream, foreign, None)
    return path


def test_mhliao_semantics_reach_every_format(tmp_path):
    start = mhliao_file(tmp_path / "start.pth")
    model = load_model(start)
    assert (model.dialect, model.record.spec.stem_pool, model.record.origin) == ("mhliao", "symmetric", "mhliao")
    assert model.bare
    for i, order in enumerate(itertools.permutations(SUFFIXES, 2)):
        folder = tmp_path / str(i)
        folder.mkdir()
        end = load_model(chain(start, order, folder))
        assert end.record == model.record
        assert not end.bare


def test_a_bare_file_says_what_was_assumed(tmp_path):
    start = mhliao_file(tmp_path / "start.pth")
    lines = describe(convert(start, tmp_path / "b.ckpt"))
    assert any("carries no record" in line and "stem_pool=symmetric" in line for line in lines)
    assert "exact in ms_models, not in MindOCR: stem_pool" in lines
    assert any("dropped" in line and "fc" in line for line in lines)


def test_ckpt_carries_a_record_only_where_it_says_something(tmp_path):
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18"]), tmp_path / "a.ckpt", spec="dbnet_resnet18")
    assert read_file(tmp_path / "a.ckpt").record is None
    changed = replace(SPECS["dbnet_resnet18"], stem_pool="symmetric")
    converters.save_weights(seeded_weights(changed), tmp_path / "b.ckpt", spec=changed)
    assert read_file(tmp_path / "b.ckpt").record is not None
    assert load_model(tmp_path / "b.ckpt").record.spec == changed


def test_ckpt_of_paddles_network_says_whose_pixels_it_wants(tmp_path):
    converters.save_weights(seeded_weights(SPECS[SMALL]), tmp_path / "a.ckpt", spec=SMALL)
    assert json.loads(read_file(tmp_path / "a.ckpt").record)["pixels"]["colour"] == "BGR"


def test_a_spec_with_other_shapes_travels(tmp_path):
    narrow = replace(SPECS["dbnet_resnet18"], neck_channels=64, norm_eps=1e-3)
    converters.save_weights(seeded_weights(narrow), tmp_path / "a.pth", spec=narrow)
    end = load_model(chain(tmp_path / "a.pth", (".onnx", ".ckpt", ".safetensors"), tmp_path))
    assert end.record.spec == narrow


def test_set_changes_the_semantics_of_a_bare_file(tmp_path):
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18"]), tmp_path / "a.ckpt", spec="dbnet_resnet18")
    options = SourceOptions(semantics={"stem_pool": "symmetric"})
    convert(tmp_path / "a.ckpt", tmp_path / "b.pth", options)
    assert load_model(tmp_path / "b.pth").record.spec.stem_pool == "symmetric"
    with pytest.raises(DbnetError, match="other tensors"):
        load_model(tmp_path / "a.ckpt", SourceOptions(semantics={"neck_channels": 96}))
    with pytest.raises(DbnetError, match="choose from same, symmetric"):
        load_model(tmp_path / "a.ckpt", SourceOptions(semantics={"stem_pool": "round"}))


def test_mindocr_enhance_names_there_and_back(tmp_path):
    converters.save_weights(seeded_weights(SPECS[SMALL]), tmp_path / "a.pth", spec=SMALL)
    done = convert(tmp_path / "a.pth", tmp_path / "b.ckpt", to="mindocr_enhance")
    assert "backbone.stages.2.0.expand_conv.bn.gamma" in read_file(done.target).tensors
    require_equal(load_model(done.target), load_model(tmp_path / "a.pth"))


def test_what_the_other_project_cannot_compute_is_refused(tmp_path):
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18"]), tmp_path / "a.ckpt", spec="dbnet_resnet18")
    with pytest.raises(DbnetError, match="stem_pool is same, MhLiao/DB knows only symmetric"):
        convert(tmp_path / "a.ckpt", tmp_path / "b.pth", to="mhliao")
    assert not (tmp_path / "b.pth").exists()


def test_mhliao_names_come_back(tmp_path):
    start = mhliao_file(tmp_path / "start.pth")
    end = chain(start, (".ckpt", ".onnx"), tmp_path)
    back = convert(end, tmp_path / "back.pth", to="mhliao")
    ours, theirs = read_file(back.target).tensors, read_file(start).tensors
    unused = {f"model.module.{name}" for name in MHLIAO.unused}
    assert set(ours) == set(theirs)
    assert all(same_bits(ours[name], theirs[name]) for name in set(ours) - unused)
    assert not any(ours[name].any() for name in unused)  # whose values have no home elsewhere


def test_edited_weights_are_noticed(tmp_path):
    converters.save_weights(seeded_weights(SPECS[SMALL]), tmp_path / "a.safetensors", spec=SMALL)
    raw = bytearray((tmp_path / "a.safetensors").read_bytes())
    raw[-3] ^= 1
    (tmp_path / "b.safetensors").write_bytes(raw)
    with pytest.raises(DbnetError, match="digest"):
        load_model(tmp_path / "b.safetensors")
    assert load_model(tmp_path / "b.safetensors", SourceOptions(allow_edited=True)).weights


def test_targets_are_byte_for_byte_reproducible(tmp_path):
    for suffix in SUFFIXES:
        for name in "ab":
            converters.save_weights(seeded_weights(SPECS[SMALL]), tmp_path / f"{name}{suffix}", spec=SMALL)
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes(), suffix


def test_a_record_of_another_network_is_refused(tmp_path):
    foreign = weight_map("torch", SPECS[SMALL]).inverse(seeded_weights(SPECS[SMALL]))
    record = Record(SPECS["dbnet_resnet18"], "mindocr").to_json()
    with (tmp_path / "a.pth").open("wb") as stream:
        codec("pth").write(stream, foreign, record)
    with pytest.raises(DbnetError, match="nearest is dbnet_resnet18"):
        load_model(tmp_path / "a.pth")


@pytest.mark.parametrize("damage", ["not json", "[]", '{"version": 1}', '{"version": 99}', '"x"', "null", "[" * 100000])
def test_a_damaged_record_is_one_line(tmp_path, damage):
    with pytest.raises(DbnetError, match="record"):
        Record.from_json(damage, "x.pth")


@pytest.mark.parametrize("change", [("spec", "nope"), ("spec", 3), ("origin", None), ("sha256", 4), ("pixels", {}),
                                    ("boxes", []), ("semantics", {"stem_pool": ["same"]}), ("semantics", {"k": "1e9"}),
                                    ("semantics", {"eval": 1}), ("semantics", 7), ("pixels", None)])
def test_a_record_with_a_wrong_value_is_one_line(change):
    data = json.loads(Record(SPECS[SMALL], "paddle").to_json())
    data[change[0]] = change[1]
    with pytest.raises(DbnetError, match="record"):
        Record.from_json(json.dumps(data), "x.pth")


@pytest.mark.parametrize("rule", RULES)
def test_a_record_has_any_rules_defaults(rule):
    """OpenCV's looks at all contours, however many."""
    record = Record(replace(SPECS[SMALL], boxes=default_boxes(rule)), "paddle")
    assert Record.from_json(record.to_json(), "x.pth") == record


@pytest.mark.parametrize(("group", "name"), [("pixels", "size"), ("boxes", "unclip_ratio")])
def test_no_other_number_is_that_large(group, name):
    data = json.loads(Record(SPECS[SMALL], "paddle").to_json())
    data[group][name] = [2 ** 31 - 1] * 2 if name == "size" else 2 ** 31 - 1
    with pytest.raises(DbnetError, match="2147483647 is out of range"):
        Record.from_json(json.dumps(data), "x.pth")


def test_the_trained_checkpoint_is_identified(need, tmp_path):
    source = need("weights/db_mv3_icdar15.pdparams")
    model = load_model(source)
    assert (model.dialect, model.record.spec.name, model.record.origin) == ("paddle", SMALL, "paddle")
    assert model.record.spec.pixels.colour == "BGR"
    require_equal(load_model(chain(source, (".ckpt", ".pth", ".onnx"), tmp_path)), model)


def test_save_model_refuses_before_it_writes(tmp_path):
    converters.save_weights(seeded_weights(SPECS[SMALL]), tmp_path / "a.pth", spec=SMALL)
    model = load_model(tmp_path / "a.pth")
    for target, message in ((tmp_path / "b.bin", "choose .ckpt"), (tmp_path / "no" / "b.pth", "no such folder"),
                            (tmp_path / "a.pth", "source itself")):
        with pytest.raises(DbnetError, match=message):
            save_model(model, target)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
