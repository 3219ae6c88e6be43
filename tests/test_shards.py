"""Parts of a list, and parts of an evaluation put together: byte for byte what one run writes, or one line."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.sample import Detection, Sample
from dbnet.shards import Shard, ShardError, parse_shard, whole_of
from dbnet.spec import PADDLE_BOXES
from evaluation.evaluate import evaluate, evaluate_results
from evaluation.protocols import Protocol, Result, exact_sums, intervals
from evaluation.protocols.table import PROTOCOLS
from evaluation.shard_files import of_document, of_file
from evaluation.shards import is_part, merge_evaluation_files, merge_evaluations, merged
from tests.test_evaluate import PIXELS, BrightnessRunner, draw

ALL = tuple(PROTOCOLS)
SWEEP = [replace(PADDLE_BOXES, box_thresh=0.95), replace(PADDLE_BOXES, unclip_ratio=2.0)]
IMAGES = 7


class Runner(BrightnessRunner):
    def environment(self):
        return {"device": "cuda:0", "threads": 2}


class OtherDevice(Runner):
    def environment(self):
        return {"device": "cuda:1", "threads": 2}


# Parts of a list ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_parts_are_the_list(length, count):
    items, shards = list(range(length)), [Shard(i, count) for i in range(1, count + 1)]
    if count > length:
        for shard in shards:
            with pytest.raises(DbnetError, match=f"--shard {shard}: .* take at most {length}$"):
                shard.of(items)
        return
    parts = [shard.of(items) for shard in shards]
    assert [item for part in parts for item in part] == items
    assert {len(part) for part in parts} <= {length // count, length // count + 1} - {0}
    assert whole_of([(str(shard), shard) for shard in shards[::-1]], length) == list(range(count))[::-1]


@pytest.mark.parametrize(("text", "told"), [
    ("0/5", "1/5 to 5/5"), ("6/5", "1/5 to 5/5"), ("1/0", "not 0"), ("1/1000001", "not 1000001"), ("2", "write I/N"),
    ("2-5", "write I/N"), ("", "write I/N"), ("1/2/3", "write I/N"), ("-1/5", "write I/N"), ("1.0/2", "write I/N"),
    ("٢/٥", "write I/N"), ("1" * 5000 + "/2", "write I/N")])
def test_what_is_no_part(text, told):
    with pytest.raises(ShardError, match=told) as caught:
        parse_shard(text)
    assert len(str(caught.value)) < 250


def test_a_part_as_it_is_typed():
    assert parse_shard(" 2/5 ") == Shard(2, 5) and str(Shard(2, 5)) == "2/5"


@pytest.mark.parametrize(("parts", "told"), [
    (("1/3", "3/3"), r"images 4 to 6 of 10 are in no part \(--shard 2/3\)"), (("2/2",), r"\(--shard 1/2\)"),
    (("1/10", "3/5", "4/5", "5/5", "3/10", "4/10"), r"^image 2 of 10 is in no part \(--shard 2/10\);"),
    (("1/3", "2/2"), "^images 4 to 5 of 10 are in no part; run"),
    (("1/10",), r"--shard 2/10, 3/10, 4/10, 5/10, 6/10 and 4 more"), (("1/2", "2/2", "1/2"), "both the part 1/2"),
    (("1/2", "1/3", "2/2"), r"hold the same images \(1/3 and 1/2\)"), (("1/2", "2/2", "1/1"), "hold the same images"),
    (("1/11", "2/11"), "take at most 10")])
def test_no_whole(parts, told):
    with pytest.raises(DbnetError, match=told):
        whole_of([(f"{i}.json", parse_shard(part)) for i, part in enumerate(parts)], 10)


def test_parts_of_several_sizes_are_a_whole():
    assert whole_of([(part, parse_shard(part)) for part in ("4/4", "1/2", "3/4")], 7) == [1, 2, 0]


# Sums -----------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 3))
def test_sums_of_parts_are_the_sum(seed, images, variants):
    """Of DetEval's marks too, in any order and partition."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 20, (images, variants, 4)) + 0.8 * rng.integers(0, 5, (images, variants, 4))
    cuts = np.sort(rng.integers(0, images + 1, 3))
    parts = [exact_sums(part) for part in np.split(counts[rng.permutation(images)], cuts)]
    high, low = (np.sum(side, axis=0) for side in zip(*parts, strict=True))
    assert (high + low).tolist() == Result(any_protocol(variants), counts).sums.tolist()
    assert np.allclose(high + low, counts.sum(axis=0), rtol=1e-14)


def any_protocol(variants):
    return Protocol("any", "", {}, lambda samples, detections: np.zeros((0, variants, 4)), ("",) * variants)


def test_intervals_of_several_are_those_of_each():
    rng = np.random.default_rng(1)
    counts = [rng.integers(0, 9, (30, variants, 4)).astype(float) for variants in (1, 3)]
    counts[1][:, :, 0] *= 0.8
    results = [Result(any_protocol(each.shape[1]), each) for each in counts]
    assert intervals(results) == [result.interval() for result in results]
    assert intervals([]) == []


# Parts of an evaluation -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return [draw(folder / f"img_{i}.png", [(15 + 3 * i, 20 + 30 * k, 50 + i, 12) for k in range(i % 4)],
                 size=(120, 160 + 7 * i), ignore=(2,)) for i in range(IMAGES)]


def run(samples, shard=None, runner=None, **more):
    return evaluate(runner or Runner(), samples, PIXELS, more.pop("boxes", PADDLE_BOXES), more.pop("protocols", ALL),
                    **{"sweep": SWEEP, **more}, shard=parse_shard(shard) if shard else None)


@pytest.fixture(scope="module")
def whole(samples):
    return run(samples).to_json()


@pytest.fixture(scope="module")
def parts(samples):
    return {f"{i}/3": run(samples, f"{i}/3").to_json() for i in (1, 2, 3)}


def files_of(folder, parts):
    files = []
    for i, text in enumerate(parts):
        files.append(folder / f"p{i}.json")
        files[-1].write_text(text)
    return files


@pytest.mark.parametrize("order", [("1/3", "2/3", "3/3"), ("3/3", "1/3", "2/3")])
def test_the_bytes_of_one_run(order, parts, whole, tmp_path):
    files = files_of(tmp_path, [parts[part] for part in order])
    assert merge_evaluation_files(files).to_json() == whole
    documents = [json.loads(parts[part]) for part in order]
    assert merge_evaluations(documents) == json.loads(whole)
    assert list(map(is_part, documents)) == [True] * 3 and not is_part(json.loads(whole))


@pytest.mark.parametrize("shards", [("1/1",), ("1/2", "3/4", "4/4"), tuple(f"{i}/7" for i in range(1, 8))])
def test_any_partition(shards, samples, whole):
    documents = [json.loads(run(samples, shard).to_json()) for shard in shards]
    assert json.dumps(merge_evaluations(documents)) == json.dumps(json.loads(whole))


def test_one_protocol_and_no_sweep(samples):
    parts = [run(samples, f"{i}/2", sweep=(), protocols=("rrc",)).to_dict() for i in (1, 2)]
    assert "variants" not in next(iter(parts[0]["images"].values()))
    assert merge_evaluations(parts) == run(samples, sweep=(), protocols=("rrc",)).to_dict()


def test_a_part_says_which_it_is(parts):
    told = json.loads(parts["2/3"])
    assert list(told["images"]) == ["img_2.png", "img_3.png"] and told["settings"]["images"] == 2
    assert {name: told["shard"][name] for name in ("version", "part", "first", "images")} == {
        "version": 1, "part": "2/3", "first": 2, "images": 7}


def test_a_report_that_was_formatted_anew(parts, whole, tmp_path):
    texts = [json.dumps(json.loads(text), indent=indent)
             for text, indent in zip(parts.values(), (None, 1, 4), strict=True)]
    assert merge_evaluation_files(files_of(tmp_path, texts)).to_json() == whole


def test_names_are_those_of_the_whole(samples, tmp_path):
    """Two images of one name are told apart by their folders, in a part that holds one of them too."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    twice = [draw(tmp_path / f"{name}.png", [(20, 20, 50, 12)]) for name in ("a/1", "a/2", "b/1")]
    parts = [run(twice, f"{i}/3").to_dict() for i in (1, 2, 3)]
    assert [list(part["images"]) for part in parts] == [["a/1.png"], ["a/2.png"], ["b/1.png"]]
    assert merge_evaluations(parts) == run(twice).to_dict()
    with pytest.raises(DbnetError, match="is there twice"):
        run([*twice, twice[0]], "2/4")


def test_devices_of_one_kind_may_differ(samples, parts, whole):
    other = run(samples, "3/3", OtherDevice()).to_dict()
    assert merge_evaluations([other, *(json.loads(parts[part]) for part in ("1/3", "2/3"))]) == json.loads(whole)


def test_clusters_are_left_out(parts, whole):
    documents = [json.loads(text) for text in parts.values()]
    for number, document in enumerate(documents[1:]):
        document["settings"] |= {"cluster": {"workers": number}, "notes": ["a worker was lost"]}
    expected = json.loads(whole)
    expected["settings"]["notes"] = ["a worker was lost"]
    for order in (documents, documents[::-1]):
        assert merge_evaluations(order) == expected


def found_in(samples, seed=3):
    """Detections near the labels, in float32, with scores: what somebody's result files hold."""
    rng = np.random.default_rng(seed)
    return [[Detection((polygon + rng.normal(0, 2, (4, 2))).astype(np.float32), float(rng.random()))
             for polygon in sample.polygons] for sample in samples]


def test_results_of_others(samples):
    labelled = [Sample(sample.image, [np.array([[5, 5 + 20 * k], [60, 5 + 20 * k], [60, 20 + 20 * k], [5, 20 + 20 * k]],
                                               np.float64) for k in range(1 + i % 4)], np.zeros(1 + i % 4, bool),
                       [""] * (1 + i % 4)) for i, sample in enumerate(samples)]
    found = found_in(labelled)
    one = evaluate_results(labelled, found, ALL, (0.3, 0.6))
    assert 0 < one.scores["totaltext"].fscore < 1
    parts = [evaluate_results(labelled, found, ALL, (0.3, 0.6), Shard(i, 2)) for i in (1, 2)]
    assert merge_evaluations([part.to_dict() for part in parts]) == one.to_dict()
    other = evaluate_results(labelled, found_in(labelled, 4), ALL, (0.3, 0.6), Shard(2, 2))
    with pytest.raises(DbnetError, match=r"different data: data\.results is"):
        merge_evaluations([parts[0].to_dict(), other.to_dict()])


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chosen", "told"), [
    (("1/3", "3/3"), r"images 3 to 4 of 7 are in no part \(--shard 2/3\)"), (("2/3",), "images 1 to 2 of 7"),
    (("1/3", "1/3", "2/3", "3/3"), "^part 1 and part 2 are both the part 1/3; give every part once$"), ((), "no part")])
def test_every_image_once(chosen, told, parts):
    with pytest.raises(DbnetError, match=told):
        merge_evaluations([json.loads(parts[part]) for part in chosen])


def test_overlaps(samples, parts):
    other = run(samples, "2/2").to_dict()
    with pytest.raises(DbnetError, match=r"part 2 and part 3 hold the same images \(2/3 and 2/2\)"):
        merge_evaluations([json.loads(parts["1/3"]), json.loads(parts["2/3"]), other])


class OtherModel(Runner):
    digest = "ab12"


class OtherThreads(Runner):
    def environment(self):
        return {"device": "cuda:0", "threads": 3}


@pytest.mark.parametrize(("change", "told"), [
    ({"runner": OtherModel()}, r"different models: settings\.model is null and \"ab12\""),
    ({"boxes": replace(PADDLE_BOXES, box_thresh=0.4)}, r"different box rules: settings\.boxes\.box_thresh is"),
    ({"protocols": ("rrc",)}, r"different protocols: protocols\."), ({"sweep": SWEEP[:1]}, "different sweeps"),
    ({"protocols": (*ALL[1:], ALL[0])}, "different protocols: protocols in order"),
    ({"runner": OtherThreads()}, r"versions\.runner\.threads is 2 and 3; give every part the same --threads"),
    ({"limit": 6}, r"different data: data\.images is 7 and 6"),
    ({"shift": 1}, r"different data: data\.labels is"), ({"rename": 1}, r"different data: data\.names is")])
def test_parts_of_different_runs(change, told, samples, parts, tmp_path):
    change = dict(change)
    chosen = samples[:change.pop("limit", None)]
    if shift := change.pop("shift", 0):
        chosen = [replace(sample, polygons=[polygon + shift for polygon in sample.polygons]) for sample in chosen]
    if change.pop("rename", 0):
        chosen = [*chosen[:-1], draw(tmp_path / "other.png", [])]
    with pytest.raises(DbnetError, match=told) as caught:
        merge_evaluations([json.loads(parts["1/3"]), run(chosen, "3/3", **change).to_dict()], ["a.json", "b.json"])
    assert str(caught.value).startswith("a.json and b.json are parts of ") and "\n" not in str(caught.value)


def other_version(part):
    part["versions"]["opencv"] = "4.10"


def test_versions(parts):
    part = json.loads(parts["2/3"])
    other_version(part)
    with pytest.raises(DbnetError, match=r"different environments: versions\.opencv is .* and \"4\.10\""):
        merge_evaluations([json.loads(parts["1/3"]), part])


EDITS = {
    "a count": lambda part: part["images"]["img_2.png"]["counts"]["rrc"].update(found_texts=9),
    "a count that is a text": lambda part: part["images"]["img_2.png"]["counts"]["rrc"].update(found_texts="1"),
    "no count": lambda part: part["images"]["img_2.png"]["counts"].pop("rrc"),
    "a negative count": lambda part: part["images"]["img_2.png"]["counts"]["rrc"].update(texts=-3),
    "a broken row": lambda part: part["images"]["img_2.png"]["variants"]["mmocr"].pop(),
    "no detections": lambda part: part["images"]["img_2.png"].pop("detections"),
    "a score": lambda part: part["scores"]["rrc"].update(fscore=0.9),
    "a sum of the sweep": lambda part: part["shard"]["sweep"][0]["rrc"][0][0].__setitem__(0, 99),
    "a shape of the sweep": lambda part: part["shard"]["sweep"][0]["rrc"].pop(),
    "no sweep": lambda part: part["shard"].pop("sweep"),
    "another place": lambda part: part["shard"].update(first=3),
    "another part": lambda part: part["shard"].update(part="3/3"),
    "no part": lambda part: part["shard"].update(part="9/3"),
    "a digest": lambda part: part["shard"].update(names_sha256=7),
    "an image more": lambda part: part["images"].update(extra=part["images"]["img_2.png"]),
    "another image": lambda part: part["images"].update(img_9=part["images"].pop("img_3.png")),
    "an image of another part": lambda part: part["images"].update({"img_1.png": part["images"].pop("img_3.png")}),
    "an odd image": lambda part: part["images"].update({"img_2.png": []}),
    "variants": lambda part: part["shard"].update(variants=[]),
    "protocols": lambda part: part.update(protocols={}),
    "thresholds": lambda part: part["protocols"]["rrc"].update(thresholds=3),
    "a version": lambda part: part["shard"].update(version="1"),
    "a newer version": lambda part: part["shard"].update(version=2),
    "parts of nothing": lambda part: part["shard"].update(images=-7),
    "notes": lambda part: part["settings"].update(notes=[{}]),
    "notes of a kind": lambda part: part["settings"].update(notes=3),
    "depth": lambda part: part["settings"].update(deep=functools.reduce(lambda inner, _: [inner], range(200), 0)),
    "no settings": lambda part: part.update(settings=3),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("form", ["document", "file"])
def test_a_part_that_was_edited(edit, form, parts, tmp_path):
    documents = [json.loads(text) for text in parts.values()]
    EDITS[edit](documents[1])
    files = files_of(tmp_path, map(json.dumps, documents))
    with pytest.raises(DbnetError) as caught:
        merge_evaluations(documents) if form == "document" else merge_evaluation_files(files)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_detection_that_was_edited(parts):
    documents = [json.loads(text) for text in parts.values()]
    documents[1]["images"]["img_2.png"]["detections"][0]["polygon"] = [[1, 2], [3, "x"]]
    with pytest.raises(DbnetError, match=r"part 2, img_2.png: a detection is damaged"):
        merge_evaluations(documents)


@pytest.mark.parametrize(("text", "told"), [
    ("", "damaged, or no report"), ("[]", "no report of an evaluation"), ("{}", "no report"), ("{" * 9, "damaged"),
    ("[" * 100_000, "damaged"), ('{"a": NaN}', "NaN is no number"), ('{"a": 1e999}', "1e999 is no number"),
    ('{"a": 1, "a": 2}', "a key is set twice"), ("\udc80", "no text")])
def test_what_is_no_part_of_an_evaluation(text, told, tmp_path):
    (tmp_path / "x.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DbnetError, match=told) as caught:
        of_file(tmp_path / "x.json")
    assert str(caught.value).startswith(str(tmp_path / "x.json"))


def test_a_whole_is_no_part(whole, tmp_path):
    with pytest.raises(DbnetError, match="whole evaluation, no part of one"):
        of_document(json.loads(whole), "whole.json")
    with pytest.raises(DbnetError, match="cannot be read"):
        of_file(tmp_path / "nothing.json")


def test_a_file_that_changes_meanwhile(parts, tmp_path):
    files = files_of(tmp_path, parts.values())
    evaluation = merged(list(map(of_file, files)))
    files[1].write_text(files[1].read_text().replace('"img_3.png"', '"img_4.png"'))
    with pytest.raises(DbnetError, match="was changed while it was read"):
        evaluation.to_json()


def test_a_line_cut_off(parts, tmp_path):
    files = files_of(tmp_path, parts.values())
    text = files[1].read_text()
    for cut in range(0, len(text) - 1, 311):
        files[1].write_text(text[:cut])
        with pytest.raises(DbnetError):
            merge_evaluation_files(files)


def test_a_merge_changes_nothing_that_it_is_given(parts):
    documents = [json.loads(text) for text in parts.values()]
    before = copy.deepcopy(documents)
    merge_evaluations(documents)
    assert documents == before


def test_a_file_of_detections_is_of_its_part(samples, tmp_path):
    """--save: a part goes on in its own file, and no other's."""
    save = tmp_path / "part.jsonl"
    first = run(samples, "2/3", save=save)
    lines = save.read_bytes().splitlines(keepends=True)
    save.write_bytes(b"".join(lines[:2]) + lines[2][:9])
    again = run(samples, "2/3", save=save)
    assert (again.resumed, again.to_json()) == (1, first.to_json()) and save.read_bytes() == b"".join(lines)
    for shard, told in (("1/3", '"2/3 of 7 images" there, "1/3 of 7 images" now'), (None, "nothing now")):
        with pytest.raises(DbnetError, match=told):
            run(samples, shard, save=save)
    with pytest.raises(DbnetError, match="images"):
        run(samples[:6], "2/3", save=save)
