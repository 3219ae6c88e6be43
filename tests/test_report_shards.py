"""dbnet report merge of parts: evaluations and traces become what one run writes."""

from __future__ import annotations

import json

import pytest

EMBEDDED = "dbnet/embedded/dbnet_mobilenetv3.safetensors"


@pytest.fixture
def results(tmp_path):
    """Results and labels of five images."""
    for i in range(1, 6):
        for folder, name, shift in (("gt", f"gt_img_{i}.txt", 0), ("results", f"res_img_{i}.txt", i)):
            (tmp_path / folder).mkdir(exist_ok=True)
            box = f"{10 + shift},10,90,10,90,50,{10 + shift},50"
            (tmp_path / folder / name).write_text(f"{box},word\n" if folder == "gt" else f"{box}\n")
    return "--results", tmp_path / "results", "--gt", tmp_path / "gt", "--format", "icdar2015"


@pytest.fixture
def parts(dbnet, results, tmp_path):
    for i in (1, 2, 3):
        dbnet("evaluate", *results, "--shard", f"{i}/3", "--json", tmp_path / f"{i}.json")
    return [tmp_path / f"{i}.json" for i in (1, 2, 3)]


def test_parts_of_an_evaluation_are_one_run(dbnet, results, parts, tmp_path):
    whole, merged = tmp_path / "whole.json", tmp_path / "merged.json"
    dbnet("evaluate", *results, "--json", whole)
    told = dbnet("report", "merge", *reversed(parts), "-o", merged)
    assert merged.read_bytes() == whole.read_bytes()
    assert "3 parts: 5 images" in told.out and "rrc" in told.out
    assert "3 parts: 5 images" in dbnet("report", "merge", *parts).out
    assert json.loads(merged.read_text())["scores"]["rrc"]["fscore"] == 1.0


@pytest.mark.parametrize(("words", "code", "message"), [
    (["1.json", "2.json"], 3, "3/3"),
    (["1.json", "2.json", "3.json", "1.json"], 3, "1.json"),
    (["1.json", "2.json", "3.json", "-o", "x.md"], 2, "an evaluation is written as .json"),
    (["1.json", "2.json", "3.json", "-o", "2.json"], 3, "is read by this command"),
    (["1.json", "2.json", "3.json", "--compare", "1.json"], 2, "--compare means nothing with an evaluation"),
    (["1.json", "2.json", "3.json", "--no-seed-rows"], 2, "means nothing with an evaluation"),
    (["1.json", "2.json", "3.json", "-o", "mine.json"], 3, "exists and is no JSON report"),
    (["1.json", "2.json", "3.json", "-o", "x.safetensors"], 2, "an evaluation is written as .json"),
    (["1.json", "2.json", "3.json", "--force"], 2, "--force is for traces"),
])
def test_what_is_typed_wrong(dbnet, parts, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("mine")
    told = dbnet("report", "merge", *words, code=code)
    assert message in told.err, told.err
    assert len(parts) == 3


def test_parts_of_a_trace_are_one_run(dbnet, photos, root, tmp_path):
    """Of small images, in the lightest network."""
    pytest.importorskip("onnxruntime")
    dbnet("convert", root / EMBEDDED, tmp_path / "m.onnx")
    model = ["trace", tmp_path / "m.onnx", "--images", photos, "--pixels", "resize=stretch,size=64x96"]
    dbnet(*model, "-o", tmp_path / "whole.trace")
    for i in (1, 2):
        dbnet(*model, "--shard", f"{i}/2", "-o", tmp_path / f"{i}.trace")
    merged = tmp_path / "merged.trace"
    told = dbnet("report", "merge", tmp_path / "2.trace", tmp_path / "1.trace", "-o", merged)
    assert "3 images of 2 parts" in told.out
    assert merged.read_bytes() == (tmp_path / "whole.trace").read_bytes()
    assert "exists already" in dbnet("report", "merge", tmp_path / "2.trace", tmp_path / "1.trace", "-o", merged,
                                     code=3).err
    dbnet("report", "merge", tmp_path / "2.trace", tmp_path / "1.trace", "-o", merged, "--force")
    assert "name it with -o, once" in dbnet("report", "merge", tmp_path / "1.trace", code=2).err
    assert "2/2" in dbnet("report", "merge", tmp_path / "1.trace", "-o", tmp_path / "x.trace", code=3).err


@pytest.mark.long
def test_real_benchmarks_of_parts_and_of_the_whole(dbnet, root, tmp_path, monkeypatch):
    """Three runs of dbnet bench: parts have the digits of the whole, and all of them score again."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    dbnet("convert", root / EMBEDDED, "m.onnx")
    model = ["bench", "m.onnx", "--runner", "onnxruntime,opencv", "--shape", "320x320", "--threads", "1", "--limit",
             "5", "--rounds", "3", "--calls", "2"]
    for i in (1, 2):
        dbnet(*model, "--shard", f"{i}/2", "--label", f"node {i}", "-o", f"{i}.json")
    dbnet(*model, "--label", "one", "-o", "whole.json")
    dbnet("report", "merge", "1.json", "whole.json", "2.json", "-o", "merged.json", "-o", "merged.html")
    assert dbnet("report", "check", "merged.json", "whole.json", "1.json").out.count("the same digits") == 5
    bundles = [each["bundle"] for each in json.loads((tmp_path / "merged.json").read_text())["bundles"]]
    for bundle in bundles:
        assert bundle["data"] == bundles[1]["data"]
        assert [(row["scores"], row["detections"], row["parity"]) for row in bundle["rows"]] == [
            (row["scores"], row["detections"], row["parity"]) for row in bundles[1]["rows"]]
    told = dbnet("report", "merge", "1.json", "2.json", "whole.json", "--compare", "whole.json", "--no-seed-rows").out
    assert "no regression in 6 figures" in told
