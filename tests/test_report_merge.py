"""Bundles of several machines in one table: what belongs together, what does not, and parts made whole."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dbnet.cli.report_merge import SORTS, SUFFIXES
from dbnet.errors import DbnetError
from evaluation.bench_report import table
from evaluation.bench_report.formats import FORMATS
from evaluation.bench_report.merge import merge
from evaluation.benching.bundle import digest_of, read_bundle, write_bundle
from tests.report_bundles import Run, bundle, data, model, row, samples_of

DIGEST = "f" * 64


@pytest.fixture
def kept(tmp_path):
    """`kept(name, bundle)` -> the path of its file."""
    def write(name, made):
        write_bundle(made, tmp_path / name)
        return tmp_path / name
    return write


def lines(found, **settings):
    return [line for line in table.lines_of(found, **settings) if not line.is_seed]


def test_machines_are_lines_of_one_table():
    npu = bundle(Run(2), label=None)
    npu = replace(npu, machine={**npu.machine, "accelerators": [{"name": "Ascend 910B", "count": 8}]})
    found = merge([("cpu.json", bundle(Run(1))), ("npu.json", npu)])
    assert [(line.machine, line.runner) for line in lines(found)] == [
        ("lab", "onnxruntime"), ("lab", "torch"), ("8 x Ascend 910B", "onnxruntime"), ("8 x Ascend 910B", "torch")]
    first = lines(found)[0]
    assert (first.model, first.backbone, first.protocol) == ("DBNet", "ResNet-18", "rrc")
    assert first.data == "drawn, 6 images" and first.parity == "reference"
    assert lines(found)[1].parity.startswith("within tolerance, 3.1e-06, ")


def test_two_machines_of_one_name_are_told_apart():
    other = bundle(Run(2))
    other = replace(other, machine={**other.machine, "cpu": "EPYC"})
    found = merge([("a.json", bundle(Run(1))), ("b.json", other)])
    assert [source.machine for source in found.sources] == ["lab (a.json)", "lab (b.json)"]
    again = merge([("a.json", bundle(Run(1))), ("b.json", bundle(Run(2)))])
    assert [source.machine for source in again.sources] == ["lab", "lab"]


def changed_model(**changes):
    made = bundle(Run(2))
    return replace(made, models=[replace(made.models[0], **changes)])


@pytest.mark.parametrize(("other", "message"), [
    (changed_model(weights_sha256=DIGEST), "the weights: aaaaaaaaaaaa and ffffffffffff"),
    (changed_model(semantics={"stem_pool": "symmetric"}), "the semantics's stem_pool: same and symmetric"),
    (changed_model(pixels={"colour": "BGR", "size": [736, 1280]}), "the pixel format's colour: RGB and BGR"),
    (changed_model(boxes={"rule": "paddle", "box_thresh": 0.5}), "the box rule's rule: mindocr and paddle"),
    (changed_model(spec="dbnet_resnet50", weights_sha256=DIGEST),
     "r18.onnx (dbnet_resnet18) there, r18.onnx (dbnet_resnet50) here"),
    (bundle(Run(2), data(seed=4)), "different data: the seed: 3 and 4"),
    (bundle(Run(2), data(7)), "different data: the number of images: 6 and 7"),
    (bundle(Run(2), {**data(), "kind": "icdar2015"}), "different data: the data set: drawn and icdar2015"),
    (bundle(Run(2), {**data(), "images_sha256": DIGEST}), "different data: the images: "),
    (bundle(Run(2), {**data(), "labels_sha256": DIGEST}), "different data: the labels: "),
    (bundle(Run(2), {**data(), "protocol": "mindocr"}), "different data: the protocol: rrc and mindocr"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_belong_together(other, message):
    read = [("a.json", bundle(Run(1))), ("b.json", other)]
    with pytest.raises(DbnetError) as error:
        merge(read)
    assert message in str(error.value) and "a.json and b.json are of different" in str(error.value)
    assert "--mixed" in str(error.value) and len(merge(read, mixed=True).sources) == 2


def test_a_bundle_may_have_some_of_the_models():
    both = bundle(Run(1), models=[model(), model(2, "dbnet_resnet50", DIGEST, "r50.onnx")])
    only = replace(bundle(Run(2)), models=[replace(both.models[1], id="m1")])
    assert len(merge([("a", bundle(Run(3))), ("b", only), ("c", both)]).sources) == 3
    with pytest.raises(DbnetError, match="of different models"):
        merge([("a", bundle(Run(3))), ("b", only)])


def test_the_same_run_counts_once():
    one = bundle(Run(1))
    renamed = replace(one, machine={**one.machine, "label": "another name"})
    for twin in (one, renamed):
        with pytest.raises(DbnetError, match=r"a\.json and b\.json are the same run"):
            merge([("a.json", one), ("b.json", twin)], mixed=True)


def test_unlabelled_images_go_with_labelled_ones():
    bare = bundle(Run(2), {**data(), "labels_sha256": None, "protocol": None})
    bare = replace(bare, rows=[replace(each, scores={}) for each in bare.rows])
    found = lines(merge([("a", bundle(Run(1))), ("b", bare)]))
    assert [line.fscore is None for line in found] == [False, False, True, True]


def parts(count=3, **changes):
    return [(f"{i}.json", bundle(Run(i, **changes), data(shard=(i, count)), label=f"node {i}"))
            for i in range(1, count + 1)]


def test_parts_have_the_scores_and_detections_of_the_whole():
    whole = bundle(Run(9))
    found = merge([*reversed(parts()), ("whole.json", whole)])
    for source in found.sources[:3]:
        assert source.bundle.data == whole.data
        assert source.bundle.detections == whole.detections
        for ours, theirs in zip(source.bundle.rows, whole.rows, strict=True):
            assert (ours.scores, ours.detections) == (theirs.scores, theirs.detections)
            assert ours.parity == theirs.parity and ours.seconds != theirs.seconds
    assert [line.machine for line in lines(found)][::2] == ["node 3", "node 2", "node 1", "lab"]
    assert "parts of the same images" in found.notes[0]


def test_a_row_that_a_part_lacks_has_no_score():
    some = parts()
    name, broken = some[1]
    some[1] = (name, replace(broken, rows=broken.rows[:1]))
    found = lines(merge(some))
    scored = {(line.machine, line.runner): line.fscore is not None for line in found}
    assert all(scored[f"node {i}", "onnxruntime"] for i in (1, 2, 3))
    assert not scored["node 1", "torch"] and ("node 2", "torch") not in scored
    assert "not measured on every part" in next(line.note for line in found if line.runner == "torch")


@pytest.mark.parametrize(("read", "message"), [
    (parts()[:2], r"images 5 to 6 of 6 are in no part \(--shard 3/3\)"),
    (parts()[1:2], r"images 1 to 2 of 6 are in no part \(--shard 1/3\)"),
    ([*parts(), ("more.json", bundle(Run(8), data(shard=(2, 3)), label="x"))],
     r"2\.json and more\.json .*2/3"),
    ([(name, replace(each, data={**each.data, "shard": {"index": 5, "count": 3, "images": 6}})) for name, each in
      parts()[:1]], "damaged bundle: data.shard"),
    ([(name, replace(each, data={**each.data, "shard": "1/3"})) for name, each in parts()[:1]], "damaged bundle"),
    ([(name, replace(each, data={**each.data, "shard": {**each.data["shard"], "images": 7}})) for name, each in
      parts()], "have 6 images together, not the 7"),
    ([("1", bundle(Run(1), {**data(shard=(1, 2)), "shard": {"index": 1, "count": 2, "images": 6}})),
      ("2", bundle(Run(2), {**data(shard=(1, 2)), "shard": {"index": 2, "count": 2, "images": 6}}))], "overlap"),
], ids=range(7))
def test_parts_that_are_no_whole(read, message):
    with pytest.raises(DbnetError, match=message):
        merge(read)


def test_sorting():
    assert tuple(table.SORTS) == SORTS and tuple(FORMATS) == SUFFIXES
    fast, slow = bundle(Run(1), label="fast"), bundle(Run(2, slower=3), label="slow")
    every = table.lines_of(merge([("s", slow), ("f", fast)]))
    by_rate = table.sorted_lines(every, "img/s")
    assert [float(line.img_s) for line in by_rate] == sorted((float(line.img_s) for line in every), reverse=True)
    by_step = table.sorted_lines([line for line in every if not line.is_seed], "ms/step")
    assert [line.machine for line in by_step] == ["fast", "fast", "slow", "slow"]
    by_compile = table.sorted_lines(every, "compile")
    assert by_compile[0].graph_compile is not None and by_compile[-1].graph_compile is None
    by_model = table.sorted_lines(every)
    ours = [line for line in by_model if (line.model, line.backbone) == ("DBNet", "ResNet-18")]
    assert ours[0].is_seed and not ours[-1].is_seed  # beside each other


def test_training_has_a_line_of_its_own():
    made = bundle(Run(1))
    first = replace(made.rows[0], seconds=replace(made.rows[0].seconds, train_step=[[0.5, 0.5]] * 3), batch=4, cards=2)
    found = lines(merge([("a", replace(made, rows=[first, made.rows[1]]))]))
    assert [(line.task, line.runner) for line in found] == [
        ("inference", "onnxruntime"), ("training", "onnxruntime"), ("inference", "torch")]
    assert (found[1].ms_step, found[1].img_s, found[1].fscore) == (500.0, 16.0, None)


def test_parts_of_different_software_are_noted():
    some = parts(2)
    assert len(merge(some).notes) == 1
    name, other = some[1]
    rows = [replace(other.rows[0], environment={**other.rows[0].environment, "onnxruntime": "1.33.0"}), *other.rows[1:]]
    some[1] = name, replace(other, rows=rows, made={**other.made, "dbnet-parity": "9.0"})
    [_, note] = merge(some).notes
    assert "1.json, 2.json: were measured with different software" in note and "9.0" in note
    assert note.endswith("onnxruntime 1.32.0 and 1.33.0 in onnxruntime")


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes(dbnet, kept, tmp_path):
    a, b = kept("a.json", bundle(Run(1))), kept("b.json", bundle(Run(2), label="other"))
    out = dbnet("report", "merge", a, b).out
    for text in ("ResNet-50", "Ascend 910*", "lab", "other", "1230.76", "where the time goes"):
        assert text in out
    targets = [tmp_path / f"r{suffix}" for suffix in SUFFIXES]
    told = dbnet("report", "merge", a, b, *(word for target in targets for word in ("-o", target)), "--no-seed-rows")
    assert "r.html: 4 lines of 2 bundles" in told.out
    dbnet("report", "merge", a, b, *(word for target in targets for word in ("-o", target)))  # ours: replaced
    assert "1230.76" in targets[0].read_text()


def test_a_merged_report_is_read_again(dbnet, kept, tmp_path):
    a, b, c = (kept(f"{i}.json", bundle(Run(i), label=str(i))) for i in (1, 2, 3))
    merged, again = tmp_path / "merged.json", tmp_path / "again.json"
    dbnet("report", "merge", a, b, "-o", merged)
    dbnet("report", "merge", merged, c, "-o", again, "--no-seed-rows")
    document = json.loads(again.read_text())
    assert [each["machine"] for each in document["lines"]] == ["1", "1", "2", "2", "3", "3"]
    assert "are the same run" in dbnet("report", "merge", merged, b, code=3).err
    assert "the same digits" in dbnet("report", "check", again).out
    assert "no regression in 6 figures" in dbnet("report", "merge", c, "--compare", c, "--no-seed-rows").out


def test_regressions_are_an_exit_code(dbnet, kept, tmp_path):
    old, new = kept("old.json", bundle(Run(1))), kept("new.json", bundle(Run(2, slower=1.3)))
    out = dbnet("report", "merge", new, "--compare", old, "-o", tmp_path / "r.html", code=1).out
    assert "REGRESSION: lab, DBNet ResNet-18, onnxruntime" in out and "4 regressions in 6 figures" in out
    assert "Regressions" in (tmp_path / "r.html").read_text()
    assert "no regression" in dbnet("report", "merge", old, "--compare", new).out
    dbnet("report", "merge", new, "--compare", old, "--slower-by", "60")


@pytest.mark.parametrize(("words", "code", "message"), [
    (["nowhere.json"], 3, "nowhere.json: cannot be read (No such file or directory)"),
    (["."], 3, "is no file"),
    (["text.json"], 3, "is no JSON, or cut off"),
    (["list.json"], 3, "is JSON, but no report"),
    (["other.json"], 3, "is neither a bundle of dbnet bench nor a part"),
    (["figures.json"], 3, "holds figures only"),
    (["cut.json"], 3, "cut off"),
    (["deep.json"], 3, "deep.json"),
    (["a.json", "evaluation.json"], 3, "a.json is a bundle of dbnet bench and evaluation.json an evaluation"),
    (["a.json", "empty.json"], 3, "empty.json"),
    (["newer.json"], 3, "newer.json: is a report of version 2"),
    (["hollow.json"], 3, "its bundles are missing"),
    (["a.json", "a.json"], 3, "are the same run"),
    (["a.json", "-o", "a.json"], 3, "is read by this command"),
    (["a.json", "-o", "x.md", "-o", "./x.md"], 2, "names a file twice"),
    (["a.json", "-o", "x.pdf"], 2, "the suffix says what to write"),
    (["a.json", "-o", "nowhere/x.md"], 3, "no such folder"),
    (["a.json", "-o", "text.json"], 3, "exists and is no report of this command"),
    (["a.json", "-o", "mine.md"], 3, "exists and is no report of this command"),
    (["a.json", "--compare", "text.json"], 3, "text.json: is no JSON"),
    (["a.json", "--compare", "evaluation.json"], 3, "put files of one kind together"),
    (["a.json", "--slower-by", "3"], 2, "--slower-by means nothing with no --compare"),
    (["a.json", "--force"], 2, "--force is for traces"),
    (["a.json", "--sort", "speed"], 2, "--sort"),
    (["a.json", "--protocol", "hmean"], 2, "unknown protocol 'hmean'"),
    (["a.json", "--protocol", ""], 2, "unknown protocol ''"),
    (["a.json", ""], 2, "the path is empty"),
    ([], 2, "Missing argument"),
])
def test_what_is_typed_wrong(dbnet, kept, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    text = kept("a.json", bundle(Run(1))).read_text()
    for name, content in {
        "text.json": "no json", "list.json": "[1]", "other.json": '{"a": 1}', "hollow.json":
        '{"dbnet": "report", "version": 1, "bundles": [1]}', "figures.json": '{"rows": [], "machine": 1}',
        "cut.json": text[:len(text) // 2], "deep.json": "[" * 100_000, "empty.json": "", "mine.md": "# mine",
        "evaluation.json": '{\n "scores": {}, "images": {}}', "newer.json": '{"dbnet": "report", "version": 2}',
    }.items():
        (tmp_path / name).write_text(content)
    told = dbnet("report", "merge", *words, code=code)
    assert message in told.err, told.err
    assert told.err.count("\n") == 1 or code == 2


def test_another_protocol_can_be_shown(dbnet, kept):
    made = bundle(Run(1))
    scored = [replace(each, scores={**each.scores, "mindocr": replace(each.scores["rrc"], fscore=0.5)})
              for each in made.rows]
    path = kept("a.json", replace(made, rows=scored))
    assert "50.00%" in dbnet("report", "merge", path, "--protocol", "mindocr", "--no-seed-rows").out
    assert "50.00%" not in dbnet("report", "merge", path, "--no-seed-rows").out


def test_a_protocol_that_bundles_lack_is_told(dbnet, kept):
    made = bundle(Run(1))
    both = [replace(each, scores={**each.scores, "mindocr": each.scores["rrc"]}) for each in made.rows]
    a, b = kept("a.json", replace(made, rows=both)), kept("b.json", bundle(Run(2), label="other"))
    note = "note: no scores by mindocr are shown of some bundles"
    assert note in dbnet("report", "merge", a, b, "--protocol", "mindocr").out
    assert note not in dbnet("report", "merge", a, "--protocol", "mindocr").out
    told = dbnet("report", "merge", b, "--protocol", "mindocr", code=3).err
    assert "no bundle has scores by it" in told and "b.json has rrc; measure with dbnet bench" in told


def test_a_row_that_failed_is_told(dbnet, kept):
    made = bundle(Run(1))
    made = replace(made, rows=[*made.rows, replace(row(samples_of(data()))[0], runner="openvino", scores={},
                                                   detections=None, error="openvino cannot\nread it")])
    out = dbnet("report", "merge", kept("a.json", made)).out
    assert "failed: lab: r18.onnx in openvino: openvino cannot read it" in out


def test_the_bundle_is_read_as_it_was_written(kept):
    made = bundle(Run(1))
    assert read_bundle(kept("a.json", made)) == made
    assert digest_of(made.data["names"]) == made.data["names_sha256"]
