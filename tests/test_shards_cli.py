"""`--shard` of dbnet evaluate and dbnet trace as users type it, and what a merge of the files makes."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

import converters
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.sample import Detection
from dbnet.seeded import seeded_weights
from dbnet.shards import Shard
from dbnet.spec import SPECS
from evaluation.shards import merge_evaluation_files
from parity.trace import ORDER, Recorder, Trace, TracedImage
from parity.trace_file import ONLY, read_trace, write_traces
from parity.trace_merge import merge_traces, merged_trace
from parity.trace_part import SHARD, told_part
from tests.running import dbnet
from tests.test_trace import EMBEDDED, SMALL

pytest.importorskip("onnxruntime")
COUNT = 5
EVALUATE = ("--runner", "onnxruntime", "--threads", 1, *SMALL)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small drawn pictures and their labels, as ICDAR 2015 is laid out, and result files of a detector."""
    folder = tmp_path_factory.mktemp("data")
    for part in ("images", "gt", "results"):
        (folder / part).mkdir()
    for i in range(1, COUNT + 1):
        image, polygons = draw(i, 96, 128)
        cv2.imwrite(str(folder / f"images/img_{i}.png"), image)
        lines = [",".join(str(round(v)) for v in polygon.flat) for polygon in polygons]
        (folder / f"gt/gt_img_{i}.txt").write_text("\n".join(f"{line},word" for line in lines))
        if i != 2:
            (folder / f"results/res_img_{i}.txt").write_text("\n".join(f"{line},0.{9 - k % 9}"
                                                                       for k, line in enumerate(lines[i % 2:])))
    return folder


def evaluated(folder, count, *arguments):
    """The files of all parts, and that of one run; the parts are made last first."""
    files = [folder / f"{i}.json" for i in range(count, 0, -1)]
    for i, file in zip(range(count, 0, -1), files, strict=True):
        dbnet("evaluate", *arguments, "--shard", f"{i}/{count}", "--json", file)
    dbnet("evaluate", *arguments, "--json", folder / "whole.json")
    return files, (folder / "whole.json").read_text()


def test_a_model(data, tmp_path):
    arguments = (EMBEDDED, "--root", data, *EVALUATE, "-p", "all", "--sweep", "box_thresh=0.3,0.6")
    files, whole = evaluated(tmp_path, 3, *arguments)
    assert merge_evaluation_files(files).to_json() == whole
    assert json.loads(whole)["scores"]["rrc"]["fscore"] > 0.2
    again = dbnet("evaluate", "--results", files[0], "--gt", data / "gt", "--limit", 5)
    assert "images have no result" not in again.stderr and "5 images" in again.stdout


def test_a_limit_and_the_table(data, tmp_path):
    arguments = (EMBEDDED, "--root", data, *EVALUATE, "--limit", 3)
    files, whole = evaluated(tmp_path, 2, *arguments)
    assert merge_evaluation_files(files).to_json() == whole
    told = dbnet("evaluate", *arguments, "--shard", "2/2").stdout
    assert "2 images (2 to 3 of 3, --shard 2/2) of icdar2015" in told
    other = dbnet("evaluate", EMBEDDED, "--root", data, *EVALUATE, "--shard", "1/2", "--json", tmp_path / "other.json")
    assert "2 images (1 to 2 of 5, --shard 1/2)" in other.stdout
    with pytest.raises(DbnetError, match=r"different data: data\.images is 3 and 5"):
        merge_evaluation_files([files[0], tmp_path / "other.json"])


def test_a_recipe(data, tmp_path):
    """The same images in MindOCR's way, its data below another folder on each machine."""
    (tmp_path / "labels.txt").write_text("".join(
        f"img_{i}.png\t{json.dumps([{'transcription': 'a', 'points': [[2, 2], [60, 2], [60, 30], [2, 30]]}])}\n"
        for i in range(1, 4)))
    recipe = tmp_path / "recipe.yaml"
    from dbnet.recipe_configs import CONFIGS
    shutil.copy(CONFIGS / "db_mobilenetv3_icdar15.yaml", recipe)
    overrides = ("-o", f"eval.dataset.data_dir={data / 'images'}", "-o",
                 f"eval.dataset.label_file={tmp_path / 'labels.txt'}")
    common = (EMBEDDED, *overrides, *EVALUATE, "-p", "mindocr")
    files, whole = evaluated(tmp_path, 3, "-c", recipe, *common)
    assert merge_evaluation_files(files).to_json() == whole
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(recipe, tmp_path / "elsewhere/recipe.yaml")
    dbnet("evaluate", "-c", tmp_path / "elsewhere/recipe.yaml", *common, "--shard", "3/3", "--json", files[0])
    assert merge_evaluation_files(files).to_json() == whole


def test_results(data, tmp_path):
    """Notes are of all images in every part, and the paths are the first part's."""
    arguments = ("--results", data / "results", "--gt", data / "gt", "-p", "all", "--sweep", "score=0.5,0.8")
    files, whole = evaluated(tmp_path, 4, *arguments)
    assert merge_evaluation_files(files).to_json() == whole
    assert "1 of 5 images have no result" in whole
    shutil.copytree(data / "results", tmp_path / "copied")
    moved = ("--results", tmp_path / "copied", *arguments[2:])
    dbnet("evaluate", *moved, "--shard", "4/4", "--json", files[0])
    assert merge_evaluation_files(files).to_json() == whole
    (tmp_path / "copied/res_img_1.txt").write_text("1,2,30,2,30,20,1,20,0.5")
    dbnet("evaluate", *moved, "--shard", "4/4", "--json", files[0])
    with pytest.raises(DbnetError, match=r"different data: data\.results"):
        merge_evaluation_files(files)


def test_a_part_goes_on_in_its_own_file(data, tmp_path):
    common = ("evaluate", EMBEDDED, "--root", data, *EVALUATE, "--save", tmp_path / "part.jsonl")
    dbnet(*common, "--shard", "2/2")
    lines = (tmp_path / "part.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 4
    (tmp_path / "part.jsonl").write_text("".join(lines[:3]))
    assert "3 images (3 to 5 of 5, --shard 2/2) of icdar2015, 2 of them from" in dbnet(*common, "--shard", "2/2").stdout
    for shard in (("--shard", "1/2"), ()):
        told = dbnet(*common, *shard, code=3).stderr
        assert told.count("\n") == 1 and "its detections were made otherwise" in told and "2/2 of 5 images" in told


@pytest.mark.parametrize(("shard", "code", "told"), [
    ("0/5", 2, "the parts are 1/5 to 5/5"), ("6/5", 2, "1/5 to 5/5"), ("2", 2, "write I/N"), ("", 2, "write I/N"),
    ("1/6", 3, "--shard 1/6: there are 5 images for 6 parts; take at most 5"),
    ("6/6", 3, "--shard 6/6: there are 5 images for 6 parts; take at most 5")])
@pytest.mark.parametrize("what", ["model", "results", "trace"])
def test_bad_parts(what, shard, code, told, data, tmp_path):
    arguments = {"model": ("evaluate", EMBEDDED, "--root", data, *EVALUATE),
                 "results": ("evaluate", "--results", data / "results", "--gt", data / "gt"),
                 "trace": ("trace", EMBEDDED, "-i", data / "images", "-o", tmp_path / "x.trace", *EVALUATE)}[what]
    done = dbnet(*arguments, "--shard", shard, code=code)
    assert told in done.stderr.replace("\n", " ") and done.stdout == "" and list(tmp_path.iterdir()) == []


# Traces ---------------------------------------------------------------------------------------------------------------


def traced(data, out, *more):
    dbnet("trace", EMBEDDED, "-i", data / "images", "-o", out, *EVALUATE, *more)
    return out


@pytest.mark.parametrize("more", [
    ("--level", "statistics", "--keep", "probability", "--stages", "c3"), ("--level", "sampled", "--stages", "p4"),
    ("--level", "full", "--stages", "p5")], ids=lambda more: more[1])
def test_the_bytes_of_one_trace(more, data, tmp_path):
    parts = [traced(data, tmp_path / f"{i}.trace", *more, "--shard", f"{i}/3") for i in (3, 1, 2)]
    whole = traced(data, tmp_path / "whole.trace", *more)
    merged = merge_traces(parts, tmp_path / "merged.trace")
    assert (tmp_path / "merged.trace").read_bytes() == whole.read_bytes()
    assert [image.name for image in merged.images] == [f"img_{i}.png" for i in range(1, 6)]
    assert sum(len(merged.boxes(i)) for i in range(5)) > 5


def test_a_part_of_a_trace_is_a_trace(data, tmp_path):
    part = traced(data, tmp_path / "part.trace", "--shard", "2/2", "--limit", 4, "--level", "full", "--stages", "p5")
    assert read_trace(part).about[SHARD] == told_part(Shard(2, 2), [f"img_{i}.png" for i in range(1, 5)])
    assert "part        2/2 of 4 images" in dbnet("inspect", part).stdout
    assert "the same" in dbnet("compare", part, EMBEDDED, "--runner-b", "onnxruntime", *SMALL).stdout


def small(of=None, images=4, level="statistics", **about):
    """A run, or a part of it, whose maps are of no model."""
    converted = {"runner": "torch", "device": "cuda:0", "environment": {"device": "cuda:0"}, "file": "m.pth",
                 "machine": {"processor": "A"}, "notes": []}
    names = [f"{i}.png" for i in range(images)]
    part = {} if of is None else {SHARD: told_part(of, names)}
    recorder = Recorder(converted | part | about, ORDER[:1], level)
    for i in range(images) if of is None else of.places(images):
        tensor = np.full((1, 3, 8, 8), i, np.float32)
        boxes = [[], None, [Detection(np.arange(8.0).reshape(4, 2) + i, 0.5)] * 2][i % 3]
        recorder.add(TracedImage(f"{i}.png", "0" * 64, (8, 8), (8, 8), tensor.shape), {ORDER[0]: tensor}, boxes)
    return recorder.trace()


def same(a: Trace, b: Trace) -> bool:
    return (a.about, a.level, a.stages, a.images) == (b.about, b.level, b.stages, b.images) and {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in a.arrays.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in b.arrays.items()}


@pytest.mark.parametrize("level", ["statistics", "sampled", "full"])
@pytest.mark.parametrize("images", [1, 2, 3, 7])
def test_every_partition_of_a_trace(images, level, tmp_path):
    for count in range(1, images + 1):
        parts = [(str(i), small(Shard(i, count), images, level)) for i in range(count, 0, -1)]
        assert same(merged_trace(parts, tmp_path), small(None, images, level))
    assert list(tmp_path.iterdir()) == []


def test_places_of_a_machine(tmp_path):
    """The file's name and which of the devices may differ; a processor may not."""
    first = ("1", small(Shard(1, 2)))
    second = small(Shard(2, 2), file="other.pth", device="cuda:3", environment={"device": "cuda:3"}, notes=["a note"])
    assert same(merged_trace([("2", second), first], tmp_path), small())
    other = small(Shard(2, 2), machine={"processor": "B"})
    with pytest.raises(DbnetError, match=r'different runs: machine\.processor is "A" and "B"; put'):
        merged_trace([first, ("2", other)], tmp_path)


@pytest.mark.parametrize(("parts", "told"), [
    ([small(Shard(1, 2))], r"images 3 to 4 of 4 are in no part \(--shard 2/2\)"),
    ([small(Shard(1, 2)), small(Shard(1, 2))], "0 and 1 are both the part 1/2"),
    ([small(Shard(1, 2)), small(Shard(2, 2), 5)], "images is 4 and 5"),
    ([small(Shard(1, 2)), small(Shard(2, 2), level="full")], 'level is "statistics" and "full"'),
    ([small(Shard(1, 2)), small(Shard(2, 2), device="cpu")], 'device is "cuda" and "cpu"'),
    ([small()], "0: is a trace of a whole"), ([small(Shard(1, 2), **{SHARD: {"part": "1/2"}})], "which part it is"),
    ([small(Shard(1, 2), **{SHARD: told_part(Shard(1, 2), list("abcdef"))})], "holds 2 images, and 1/2 of 6 are 3"),
    ([small(Shard(1, 1), **{SHARD: told_part(Shard(1, 1), list("abcd"))})], "images are not those of the whole"),
    ([], "no part to put together")])
def test_no_whole_trace(parts, told, tmp_path):
    with pytest.raises(DbnetError, match=told):
        merged_trace([(str(i), part) for i, part in enumerate(parts)], tmp_path)


def test_files_that_are_no_parts(tmp_path):
    write_traces(tmp_path / "kit.trace", {"exact": small(Shard(1, 1)), "other": small()})
    write_traces(tmp_path / "odd.trace", {ONLY: small(Shard(1, 1))})  # says nothing of a model
    for name, told in (("kit.trace", "holds runs of a kit"), ("odd.trace", "does not say who recorded it"),
                       ("nothing.trace", "cannot be read")):
        with pytest.raises(DbnetError, match=told):
            merge_traces([tmp_path / name], tmp_path / "out.trace")
    with pytest.raises(DbnetError, match="exists already; add --force"):
        merge_traces([tmp_path / "odd.trace"], tmp_path / "kit.trace")
    with pytest.raises(DbnetError, match="is one of the parts"):
        merge_traces([tmp_path / "odd.trace"], tmp_path / "odd.trace", force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kit.trace", "odd.trace"]


def test_two_models_are_no_run(data, tmp_path):
    """Of one network, and in files of one name."""
    for seed in (1, 2):
        model = tmp_path / str(seed) / "m.safetensors"
        model.parent.mkdir()
        converters.save_weights(seeded_weights(SPECS["db_mv3_paddle"], seed), model, spec="db_mv3_paddle")
        dbnet("trace", model, "-i", data / "images", "-o", tmp_path / f"{seed}.trace", *EVALUATE, "--shard",
              f"{seed}/2", "--level", "statistics", "--stages", "p5")
    with pytest.raises(DbnetError, match=r"parts of different runs: record\.sha256 is"):
        merge_traces([tmp_path / "1.trace", tmp_path / "2.trace"], tmp_path / "out.trace")
