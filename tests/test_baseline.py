"""The upgrade alarm's engine: one bit is seen, the first stage is named, and what is no alarm is none."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.runner_names import RunnerName
from parity.baseline import BEYOND, UNCHANGED, WITHIN, changes_between, compare_runs, same_subject
from parity.baseline_picture import SIZE, picture, write_picture
from parity.baseline_runs import KEY, WantedBaseline, networks, variables
from parity.baseline_told import boxes_told, headline, told
from parity.trace_file import read_traces, write_traces
from tests.baseline_scenes import ORDER, SPEC, boxes, maps, plain, run

OLD = run()
WANTED = WantedBaseline(path=None, runners=(RunnerName("torch"),))  # type: ignore[arg-type]


def flipped(array, place, bit):
    """One bit of one value is another."""
    changed = array.copy()
    changed.reshape(-1).view(np.uint32)[place % array.size] ^= np.uint32(1 << bit)
    return changed


def test_the_same_numbers_are_silent():
    change = compare_runs(OLD, run())
    assert (change.verdict, change.rows, change.first, change.since) == (UNCHANGED, [], None, [])
    assert not compare_runs(OLD, run(level="statistics")).rows, "a level is no number"


@given(stages=st.sets(st.sampled_from(ORDER), min_size=1), place=st.integers(0, 10**6), bit=st.integers(0, 3))
@settings(max_examples=20)
def test_one_bit_of_one_value_is_seen_and_the_first_stage_named(stages, place, bit):
    """Wherever it is."""
    new = maps()
    for stage in stages:
        new[stage] = flipped(new[stage], place, bit)
    change = compare_runs(OLD, run({"a.png": new}))
    assert change.verdict == WITHIN
    assert [row.stage for row in change.rows] == [stage for stage in ORDER if stage in stages]
    assert headline(change).startswith(f"{WITHIN}: first at {min(stages, key=ORDER.index)}, ")


def test_what_no_statistic_shows_the_digest_does():
    """A zero that has lost its sign, say: the next layer divides, or takes its root."""
    old, new = maps(), maps()
    old["p4"].reshape(-1)[5], new["p4"].reshape(-1)[5] = 0.0, -0.0
    was, now = run({"a.png": old}), run({"a.png": new})
    assert np.array_equal(was.statistics(0, "p4"), now.statistics(0, "p4"))
    assert headline(compare_runs(was, now)).startswith(f"{WITHIN}: first at p4, >=0.0e+00 of the largest value; ")


@pytest.mark.parametrize("level", ["statistics", "sampled"])
def test_an_error_is_measured(level):
    """3.1e-6 of the largest value everywhere, and 0.5 at one place that no sample holds but which is the largest."""
    old, new = maps(), maps()
    largest = np.abs(old["p2"]).max()
    new["p2"] = old["p2"] + np.float32(3.1e-6 * largest)
    change = compare_runs(run({"a.png": old}, level=level), run({"a.png": new}, level=level))
    [row] = change.rows
    assert change.verdict == WITHIN and row.comparison.max_rel == pytest.approx(3.1e-6, rel=0.2)
    new["c3"] = old["c3"].copy()
    new["c3"].reshape(-1)[np.abs(old["c3"]).argmax()] *= 1.5
    change = compare_runs(run({"a.png": old}, level=level), run({"a.png": new}, level=level))
    assert change.verdict == BEYOND and change.first == "c3" and change.rows[0].comparison.max_rel > 0.4
    assert headline(change).startswith(f"{BEYOND}: first at c3, >=5.0e-01 of the largest value, 1e-05 at most; ")


def test_the_first_that_changed_and_the_first_beyond_the_tolerance_are_both_told():
    new = maps()
    new["c2"] = flipped(new["c2"], 7, 3)
    new["p5"] = new["p5"] * np.float32(1.01)
    line = headline(compare_runs(OLD, run({"a.png": new})))
    assert line.startswith(f"{BEYOND}: first at p5, >=1.0e-02 of the largest value, 1e-05 at most; "
                           f"changed first at c2, >=")


@pytest.mark.parametrize(("spoil", "why"), [
    (lambda array: np.where(np.arange(array.size).reshape(array.shape) == 5, np.nan, array), "NaN or Inf"),
    (lambda array: array[:, :, :-1], "shapes differ"),
])
def test_what_cannot_be_measured_is_beyond(spoil, why):
    new = maps()
    new["fused"] = spoil(new["fused"]).astype(np.float32)
    change = compare_runs(OLD, run({"a.png": new}))
    assert change.verdict == BEYOND and why in headline(change) and why in told(change, WANTED)
    assert change.to_dict()["stages"][0]["max_rel"] is None


def test_the_worst_of_several_images_is_told():
    old = {name: maps(i) for i, name in enumerate(("a.png", "b.png", "c.png"))}
    new = {name: dict(each) for name, each in old.items()}
    for name, factor in (("b.png", 1.000001), ("c.png", 1.000004)):
        new[name]["logits"] = old[name]["logits"] * np.float32(factor)
    change = compare_runs(run(old), run(new))
    assert [(row.stage, row.image) for row in change.rows] == [("logits", "c.png")]
    assert "worst on c.png" in told(change, replace(WANTED, images=("photos",)))


def test_boxes():
    moved = compare_runs(OLD, run(found=boxes(shift=3)))
    assert (moved.verdict, moved.first) == (WITHIN, "boxes")
    assert "no map changed, 1 of 2 boxes are the same, 1 moved (by 4.2 px at most), 0 lost, 0 new" in headline(moved)
    scored = compare_runs(OLD, run(found=boxes(score=0.8999)))
    assert scored.verdict == WITHIN and "all 2 boxes have their corners, and other scores" in headline(scored)
    assert compare_runs(run(found=[]), run(found=[])).verdict == UNCHANGED
    new = maps()
    new["probability"] = flipped(new["probability"], 3, 2)
    assert boxes_told(moved.boxes) in headline(compare_runs(OLD, run({"a.png": new}, found=boxes(shift=3))))


@pytest.mark.parametrize(("changed", "since", "machine"), [
    ({"environment": {"version": "2.9.0"}}, ["MindSpore 2.8.0 -> 2.9.0"], False),
    ({"environment": {"numpy": "2.4.0"}, "versions": {"numpy": "2.4.0"}}, ["NumPy 1.26.4 -> 2.4.0"], False),
    ({"versions": {"numpy": "2.4.0"}}, ["NumPy of this suite 1.26.4 -> 2.4.0"], False),
    ({"versions": {"opencv": "5.0.0"}}, ["OpenCV 4.11.0 -> 5.0.0"], False),
    ({"environment": {"threads": 1}, "machine": {"cores": 1}}, ["threads 2 -> 1", "the cores it may use 2 -> 1"],
     False),
    ({"machine": {"processor": "Q"}}, ["the processor P -> Q"], True),
    ({KEY: {"instructions": "avx2 avx512f"}}, ["its instructions +avx512f"], True),
    ({"environment": {"onednn_max_isa": None}}, ["oneDNN's limit AVX2 -> unset"], False),
    ({"device": "cuda", "environment": {"driver": "550"}}, ["the device cpu -> cuda", "driver unset -> 550"], False),
    ({KEY: {"variables": {"OMP_NUM_THREADS": "1"}}}, ["OMP_NUM_THREADS unset -> 1"], False),
    ({"environment": {"python": "3.12", "process": "its own"}}, ["Python 3.11.7 -> 3.12", "process unset -> its own"],
     False),
    ({KEY: {"code": "d"}}, ["this suite's own code"], False),
])
def test_what_else_changed_is_told(changed, since, machine):
    new = maps()
    new["c2"] = flipped(new["c2"], 7, 3)
    change = compare_runs(OLD, run({"a.png": new}, **changed))
    assert change.since == since and change.machine == machine
    text = told(change, WANTED)
    assert all(each in headline(change) and f"not as it was recorded: {each}" in text for each in since)
    assert ("another machine" in headline(change)) == ("numbers differ by that alone" in text) == machine
    assert ("ONNX Runtime does not" in text) == ("threads" in changed.get("environment", {}) or "OMP" in str(changed))
    assert compare_runs(OLD, run(**changed)).verdict == UNCHANGED, "what moves no number is no alarm"


def test_where_nothing_else_changed_that_is_told():
    new = maps()
    new["c2"] = flipped(new["c2"], 7, 3)
    change = compare_runs(OLD, run({"a.png": new}))
    assert headline(change).endswith("; nothing else is known to have changed")
    assert "does the run give the same numbers twice?" in told(change, WANTED)


@pytest.mark.parametrize(("new", "why"), [
    (run(record=Record(SPEC, "", "cd" * 32).to_json(), digest="cd" * 32),
     "another model (sha256 abababababab, not cdcdcdcdcdcd) with other weights"),
    (run(digest="cd" * 32), "another model (sha256 abababababab, not cdcdcdcdcdcd)"),
    (run(record=Record(replace(SPEC, norm_eps=0.1), "", "ab" * 32).to_json()), "computes otherwise: norm_eps 1e-05"),
    (run(record=Record(replace(SPEC, name="db_mv3_paddle"), "", "ab" * 32).to_json()), "another network, 'dbnet_m"),
    (run(pixels=plain(replace(SPEC.pixels, colour="BGR" if SPEC.pixels.colour == "RGB" else "RGB"))), "other pixels"),
    (run(boxes=asdict(replace(SPEC.boxes, box_thresh=0.5))), "other boxes: box_thresh"),
    (run(environment={"precision": "fp16"}), "computed in 'float32'"),
    (run({"b.png": maps()}), "other images: 1 missing here (a.png); 1 not in it (b.png)"),
    (run({"a.png": maps(), "b.png": maps(1)}), "other images: 1 not in it (b.png)"),
    (run(stages=ORDER[:-1]), "other stages: probability"),
    (run(opaque={"output": "x"}), "another network, 'dbnet_mobilenetv3', not 'opaque'"),
])
def test_what_is_something_else_is_no_alarm(new, why):
    with pytest.raises(DbnetError, match="the baseline") as caught:
        compare_runs(OLD, new)
    assert why in str(caught.value)


def test_images_with_other_contents_or_in_another_order():
    both = {"a.png": maps(), "b.png": maps(1)}
    old = run(both)
    with pytest.raises(DbnetError, match="other images: in another order"):
        compare_runs(old, run(dict(reversed(both.items()))))
    new = run(both)
    new.images[1] = replace(new.images[1], sha256="f" * 64)
    with pytest.raises(DbnetError, match=r"1 with other contents \(b.png\) \(MindSpore 2.8.0 -> 2.9.0\)"):
        compare_runs(old, replace(new, about=run(environment={"version": "2.9.0"}).about))


def test_a_baseline_survives_its_file(tmp_path):
    write_traces(tmp_path / "b.trace", {"x-torch": OLD})
    old = read_traces(tmp_path / "b.trace")["x-torch"]
    assert compare_runs(old, run()).verdict == UNCHANGED and not list(changes_between(old, run()))
    with pytest.raises(DbnetError, match="does not say whose numbers"):
        compare_runs(replace(old, about={**old.about, "record": "{}"}), run())


@pytest.mark.parametrize(("sides", "within"), [((320, 480), False), ((352, 480), True)])
def test_more_is_allowed_on_whole_images(sides, within):
    """The largest error of many values is larger: see `parity.tolerances.WHOLE_IMAGES`."""
    was, now = run(), run(environment={"version": "2.9.0"}, images={"a.png": maps() | {
        "c3": maps()["c3"] * np.float32(1 + 3e-5)}})
    for trace in (was, now):
        trace.images[0] = replace(trace.images[0], shape=(1, 3, *sides))
    assert compare_runs(was, now).verdict == (WITHIN if within else BEYOND)


def test_a_shorter_format_allows_more():
    shorter = {"precision_mode": "allow_fp32_to_fp16"}
    new = maps() | {"c3": maps()["c3"] * np.float32(1.003)}
    assert compare_runs(run(environment=shorter), run({"a.png": new}, environment=shorter)).verdict == WITHIN
    assert compare_runs(OLD, run({"a.png": new})).verdict == BEYOND


def test_an_error_that_may_be_larger_is_told_so():
    """Of c2 a sample is all that is kept, of the logits everything."""
    for stage, factor in (("c2", 1.000002), ("p2", 1.01)):
        new = maps() | {stage: maps()[stage] * np.float32(factor)}
        for level in ("sampled", "statistics"):
            change = compare_runs(run(level=level), run({"a.png": new}, level=level))
            least = change.rows[0].comparison.basis in ("sample", "statistics")
            assert least and f"first at {stage}, >=" in headline(change), headline(change)


def test_same_subject():
    assert same_subject(OLD, run(runner="torch", environment={"framework": "torch"}, digest="of the graph"))
    assert not same_subject(OLD, run({"b.png": maps()}))
    assert not same_subject(OLD, run(record=Record(SPEC, "", "cd" * 32).to_json()))


def test_the_picture_is_always_the_same(tmp_path):
    """In integers: a digest that depends on no version of anything."""
    import hashlib

    import cv2
    assert hashlib.sha256(picture().tobytes()).hexdigest()[:12] == "4fa068bcbde1"
    assert np.array_equal(cv2.imread(str(write_picture(tmp_path))), picture()) and picture().shape == (*SIZE, 3)


def test_the_networks():
    assert {"dbnetpp_resnet50", "trained"} <= set(networks()) and all(
        spec.pixels.resize == "grid" for spec in networks().values())


def test_variables(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert variables()["ONEDNN_MAX_CPU_ISA"] == "AVX2"
