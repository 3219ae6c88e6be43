"""A bundle is read back bit for bit, what is damaged in one is told in a line, and figures are what they are called."""

from __future__ import annotations

import dataclasses
import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.sample import Detection
from evaluation.benching.bundle import (
    Bundle,
    Model,
    Parity,
    Row,
    Scores,
    Seconds,
    detections_digest,
    digest_of,
    plain_detections,
    read_bundle,
    read_text,
    to_text,
    write_bundle,
)
from evaluation.benching.figures import figures, latency, ranks, rates

NAMES = ["a b.jpg", "\u00e9.jpg"]
FLOATS = st.floats(0, 1e6, allow_nan=False, exclude_min=True)
FOUND = plain_detections(NAMES, [[Detection(np.array([[0, 1.5], [3, 4], [5, 0.1]], np.float32), 0.7)], []])


def bundle(seconds: Seconds | None = None, **row) -> Bundle:
    seconds = seconds or Seconds()
    key = detections_digest(FOUND)
    rows = [Row("m1", "torch", "cpu", "float32", {"version": "2"}, [32, 64], 1, None, seconds=seconds, detections=key,
                scores={"rrc": Scores(0.1, 0.2, 0.3, [0.0, 1.0], [[[1.0, 2.0, 0.5, 3.0]], [[0.0, 0.0, 0.0, 0.0]]])}),
            Row("m1", "opencv", "cpu", "float32", {}, None, 2, 1, error="it crashed",
                parity=Parity(0, "different", None, 1e-4, 2, 3, 4), **row)]
    return Bundle(
        {"command": "dbnet bench x", "started": "2026-11-27T09:00:00+00:00", "seconds": 1.5, "dbnet-parity": "1"},
        {"cpu": "c", "cores": 2, "memory_bytes": 3, "system": "s", "accelerators": [{"name": "card"}], "label": None},
        {"rounds": 1, "warmup": 1, "threads": None, "seed": 0, "order": "o", "busy": [1.0, 2.0]},
        {"kind": "drawn", "seed": 0, "size": [720, 1280], "images": 2, "names": NAMES,
         "names_sha256": digest_of(NAMES), "images_sha256": "a", "labels_sha256": None, "protocol": "rrc"},
        [Model("m1", "f.onnx", "onnx", "dbnet_resnet18", "ab", {"k": 50}, {}, {})], rows, {key: FOUND})


@settings(max_examples=30)
@given(st.lists(st.lists(FLOATS, max_size=3), max_size=3), st.lists(FLOATS, max_size=2))
def test_reading_gives_the_same_bits(rounds, single):
    ours = bundle(Seconds(imported=single, load=single, network=rounds, whole=rounds, train_step=rounds))
    read = read_text(to_text(ours), "x")
    assert read == ours
    bits = [struct.pack("<d", value) for calls in read.rows[0].seconds.network for value in calls]
    assert bits == [struct.pack("<d", value) for calls in rounds for value in calls]


def test_a_file_holds_what_was_written(tmp_path):
    write_bundle(bundle(), tmp_path / "b.json")
    read = read_bundle(tmp_path / "b.json")
    assert read == bundle()
    assert "import" in json.loads((tmp_path / "b.json").read_text())["rows"][0]["seconds"]
    found = read.found(read.rows[0])
    assert list(found) == NAMES and found[NAMES[0]][0].polygon.dtype == np.float32
    assert found[NAMES[0]][0].polygon.tolist() == FOUND[0]["detections"][0]["polygon"]
    assert read.found(read.rows[1]) is None and read.model(read.rows[1]).file == "f.onnx"


def damaged(path: str, value: object) -> str:
    data = json.loads(to_text(bundle()))
    *before, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place = data
    for part in before:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(("path", "value", "told"), [
    ("dbnet", "trace", "no bundle of dbnet bench ('trace')"), ("version", 2, "version 2"), ("rows", {}, "rows is {}"),
    ("rows/0/batch", "1", "rows[0].batch"), ("rows/0/batch", True, "rows[0].batch"),
    ("rows/0/batch", 1.5, "rows[0].batch"), ("rows/0/runner", ..., "rows[0].runner is missing"),
    ("rows/0/fun", 1, "rows[0].'fun' is nothing"), ("rows/0/model", "m2", "'m2' that is not there"),
    ("rows/0/seconds/network", [[1.0, "x"]], "rows[0].seconds.network[0][1]"),
    ("rows/0/seconds/load", [1e400], "rows[0].seconds.load[0]"), ("rows/0/detections", "00", "are not there"),
    ("rows/0/scores/rrc/counts", [], "not of 2 images"), ("rows/0/scores/rrc/interval", [1.0], "not of 2 images"),
    ("rows/1/parity/verdict", "fine", "its parity"), ("rows/1/parity/reference", 7, "its parity"),
    ("data/names", ["a", "a"], "names"), ("data/names/0", "c.jpg", "names_sha256"), ("data/images", 3, "data.images"),
    ("data/protocol", ..., "data has no protocol"), ("machine/cores", None, "machine.cores"),
    ("models", [], "that is not there"), ("made", 1, "made is 1"),
    ("rows/0/seconds/whole", [[0.1], [-1]], "rows[0].seconds.whole is -1.0"), ("rows/0/batch", 0, "rows[0].batch is 0"),
    ("rows/0/seconds/network", [[0.0]], "rows[0].seconds.network: nothing takes 0"), ("rows/0/cards", 0, "cards is 0"),
    ("rows/0/seconds/import", [1e308], "rows[0].seconds.import is 1e+308"), ("rows/0/threads", 0, "threads is 0"),
    ("rows/0/peak_memory_bytes", -1, "peak_memory_bytes is -1"), ("rows/0/shape", [32], "rows[0].shape"),
    ("rows/0/peak_memory_bytes", 10**400, "peak_memory_bytes is 1000"), ("rows/0/shape/1", 0, "rows[0].shape is 0"),
    ("rows/0/training", {"size": "x"}, "training.size"), ("rows/0/training", {"size": [0, 1]}, "training.size is 0"),
    ("rows/0/training", {"first_step": "1"}, "training.first_step"), ("machine/memory_bytes", 10**400, "memory_bytes"),
    ("made/seconds", -1, "made.seconds is -1"), ("settings/groups", [1], "settings.groups[0]")])
def test_what_is_damaged_is_told(path, value, told):
    with pytest.raises(DbnetError, match=r"^some file: ") as error:
        read_text(damaged(path, value).replace("Infinity", "1e400"), "some file")
    assert told in str(error.value)


@pytest.mark.parametrize(("path", "value", "told"), [
    ("0/detections/0/score", 0.8, "somebody changed them"), ("0/detections/0/polygon/0/0", 9.0, "changed them"),
    ("0/detections/0/score", "1", "score is '1'"), ("0/detections/0/polygon/0", [1.0], "no list of points"),
    ("0/name", "z.jpg", "not of the images"), ("1", ..., "not of the images")])
def test_detections_that_somebody_changed_are_told(path, value, told):
    key = detections_digest(FOUND)
    text = damaged(f"detections/{key}/{path}", value)
    with pytest.raises(DbnetError, match=r"^f: is a damaged bundle") as error:
        read_text(text, "f")
    assert told in str(error.value)
    if "changed" in told:  # who rescores them says it better
        assert read_text(text, "f", digests=False).detections


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "NaN", '{"dbnet": NaN}', "[" * 100_000, "\0"])
def test_what_is_no_bundle_is_told(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DbnetError, match="no bundle of dbnet bench"):
        read_bundle(tmp_path / "x.json")


def test_files_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "x.json", tmp_path, tmp_path / "none.json"):
        with pytest.raises(DbnetError, match=f"^{path}: "):
            read_bundle(path)


def test_not_a_number_is_never_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_text(bundle(Seconds(load=[math.nan])))


def test_figures_are_what_they_are_called():
    calls = [[0.1, 0.3], [0.2, 0.2], [0.4, 0.6]]
    row = dataclasses.replace(
        bundle().rows[0], batch=4, cards=2, peak_memory_bytes=7,
        seconds=Seconds([2.0, 1.0, 4.0], [1.0], [], [3.0], [[0.1], [0.2]], [], [], calls, [9.0], [[0.5, 0.7, 9.0]]))
    found = figures(row)
    assert (found.imported, found.load, found.graph_compile, found.first_run) == (2.0, 1.0, None, 3.0)
    assert found.rounds == (20.0, 20.0, 8.0) and found.images_per_second == 20.0
    assert found.network_rounds == (40.0, 20.0) and found.network_images_per_second == 30.0
    assert found.whole.p50 == 0.25 and found.whole.calls == 6
    assert found.whole.p99 == pytest.approx(np.percentile(np.ravel(calls), 99))
    assert (found.step_ms, found.train_images_per_second, found.train_compile) == (700.0, 8000 / 700, 9.0)
    assert (found.pixels, found.boxes, found.peak_memory_bytes) == (None, None, 7)
    nothing = figures(bundle().rows[1])
    assert nothing.whole is nothing.images_per_second is nothing.step_ms is nothing.load is None


@given(st.lists(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5), min_size=1, max_size=5), st.integers(1, 64))
def test_figures_are_in_order_and_in_bounds(rounds, batch):
    found = latency(rounds)
    calls = [call for each in rounds for call in each]
    assert min(calls) <= found.p50 <= found.p95 <= found.p99 <= max(calls) and found.calls == len(calls)
    for rate, each in zip(rates(rounds, batch), rounds, strict=True):
        assert rate * sum(each) == pytest.approx(batch * len(each))


@pytest.mark.parametrize(("rounds", "wanted"), [
    ([[1] * 5, [2] * 5, [3] * 5], [1, 2, 3]), ([[3] * 5, [2] * 5, [1] * 5], [3, 2, 1]),
    ([[3], [2], [1]], [1, 1, 1]), ([[1] * 4, [2] * 4, [9] * 4], [1, 1, 1]),  # four of four are chance
    # Each a little slower than the one before, by chance; the last is slower than the first of the place in all rounds.
    ([[1] * 5, [1.1] * 4 + [0.9], [1.2] * 3 + [1.05] * 2], [1, 1, 3]),
    ([[1, 1, 1, 1, 1], [1.1, 1.1, 1.1, 1.1, 0.9]], [1, 1]),
    ([[1] * 8, [1.1] * 7 + [0.9], [2] * 8], [1, 2, 3]), ([[1] * 8, [1.1] * 6 + [0.9] * 2, [2] * 8], [1, 1, 3]),
    ([[], [1.0], []], [None, 1, None])])
def test_ranks_are_shared_where_a_second_run_may_turn_them_round(rounds, wanted):
    row = bundle().rows[0]
    rows = [dataclasses.replace(row, seconds=Seconds(whole=[[float(seconds)] for seconds in each])) for each in rounds]
    assert ranks(rows) == wanted
    other = dataclasses.replace(rows[-1], batch=2)
    assert ranks([*rows, other]) == [*wanted, 1 if rounds[-1] else None]


def test_rows_that_took_no_turns_are_not_ranked_together():
    row = bundle().rows[0]
    rows = [dataclasses.replace(row, seconds=Seconds(whole=[[seconds]] * 5)) for seconds in (1.0, 2.0, 9.0, 3.0)]
    assert ranks(rows) == [1, 2, 4, 3] and ranks(rows, {"groups": [[0, 1, 2, 3]]}) == [1, 2, 4, 3]
    assert ranks(rows, {"groups": [[0, 1], [2, 3]]}) == [1, 2, 2, 1]
