"""Traces from strangers: whatever is in them, one line or a trace, and nothing that costs more than the file's size.

`tests/fuzz_traces.py` makes thousands of these; here stand those that must be refused, each with what is said.
"""

import json
import os
import time
import tracemalloc

import numpy as np
import pytest

from dbnet.errors import DbnetError
from parity.trace_compare import compare_traced
from parity.trace_file import is_trace, read_trace, read_traces, write_traces
from parity.traced import open_trace, side_of
from tests.fuzz_traces import content, sealed, sound, traces
from tests.running import command

SAMPLED = 1


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(DbnetError) as error:
        read_traces(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and text.isprintable() and len(text) < 500 + len(str(path))
    return text


def field(*path, value):
    """Sets or, for None at the end, removes what stands at `path` of the JSON."""
    def change(told, _arrays):
        for key in path[:-1]:
            told = told[key]
        told[path[-1]] = value
    return change


def array(name, change):
    def changed(_told, arrays):
        arrays[f"model/{name}"] = change(arrays[f"model/{name}"].copy())
    return changed


def gone(name):
    return lambda _told, arrays: arrays.pop(f"model/{name}")


def put(index, value):
    def change(values):
        values.reshape(-1)[index] = value
        return values
    return change


RUN = ("runs", "model")
ROWS = {
    "no version": (field("version", value=None), "its version is None"),
    "a version that is true": (field("version", value=True), "its version is True"),
    "no runs": (field("runs", value={}), "it holds no run"),
    "runs as a list": (field("runs", value=[]), "'runs' is no table"),
    "a run called by a path": (lambda told, arrays: told["runs"].update({"../x": told["runs"]["model"]}),
                               "'../x' is no name of a run"),
    "a level that is none": (field(*RUN, "level", value="everything"), "its level is 'everything'"),
    "full, and is not": (lambda told, arrays: (field(*RUN, "level", value="full")(told, arrays), *(
        arrays.pop(f"model/sample/{stage}") for stage in ("pixels", "logits", "probability"))),
                         "has not every stage in full"),
    "sampled, and is not": (gone("sample/pixels"), "sample/pixels is missing"),
    "stages in another order": (field(*RUN, "stages", value=["logits", "pixels", "probability"]), "its stages are"),
    "a stage twice": (field(*RUN, "stages", value=["pixels", "pixels"]), "its stages are"),
    "stages that are tables": (field(*RUN, "stages", value=[{}]), "its stages are"),
    "no images": (field(*RUN, "images", value=[]), "it has no list of images"),
    "an image too many": (lambda told, arrays: told["runs"]["model"]["images"].append(
        ["c.png", *told["runs"]["model"]["images"][0][1:]]), "not int64 (3, 4)"),
    "a negative size": (field(*RUN, "images", 0, 2, value=[-40, 70]), "an image is"),
    "a size of 2**31": (field(*RUN, "images", 0, 4, value=[1, 3, 2**31, 64]), "an image is"),
    "sizes that are true": (field(*RUN, "images", 0, 2, value=[True, True]), "an image is"),
    "an image's digest of another length": (field(*RUN, "images", 0, 1, value="ab"), "an image is"),
    "another shape than the image's": (field(*RUN, "images", 0, 4, value=[1, 3, 64, 64]), "its shapes of pixels"),
    "about as a text": (field(*RUN, "about", value="x"), "'about' is no table"),
    "no statistics": (gone("statistics/logits"), "statistics/logits is missing"),
    "statistics in float32": (array("statistics/logits", lambda a: a.astype(np.float32)), "not float64"),
    "statistics that are NaN": (array("statistics/logits", put(9, np.nan)), "its statistics of logits"),
    "statistics beyond all floats": (array("statistics/logits", put(9, 1e300)), "its statistics of logits"),
    "of a negative number of values": (array("statistics/logits", put(0, -1)), "its statistics of logits"),
    "of more values than the map": (array("statistics/logits", put(0, 7)), "its statistics of logits"),
    "least above the largest": (array("statistics/logits", put(2, 1e9)), "its statistics of logits"),
    "a shape of zeros": (array("shape/logits", put(0, 0)), "its shapes of logits"),
    "a shape of 2**62": (array("shape/logits", put(2, 2**62)), "its shapes of logits"),
    "digests of 31 bytes": (array("sha256/logits", lambda a: np.ascontiguousarray(a[:, :31])), "not uint8 (2, 32)"),
    "2**62 boxes": (array("boxes/counts", put(0, 2**62)), "its counts of boxes"),
    "-2 boxes": (array("boxes/counts", put(0, -2)), "its counts of boxes"),
    "a box more": (array("boxes/counts", put(0, 3)), "its boxes are not as many"),
    "lengths whose sum is 0 in 64 bits": (array("boxes/lengths", lambda a: np.full_like(a, 2**62)), "not as many"),
    "a box of two points": (array("boxes/lengths", put(0, 2)), "its boxes are not as many"),
    "a point that is NaN": (array("boxes/points", put(3, np.nan)), "or no outlines"),
    "a point that is Inf": (array("boxes/points", put(3, np.inf)), "or no outlines"),
    "a point at 1e300": (array("boxes/points", put(3, 1e300)), "or no outlines"),
    "a score that is NaN": (array("boxes/scores", put(0, np.nan)), "or no outlines"),
    "scores without points": (gone("boxes/points"), "or no outlines"),
    "an array of no run": (lambda _told, arrays: arrays.update({"x/y": np.ones(1)}), "which belongs to no run"),
    "boxes of no kind": (lambda _told, arrays: arrays.update({"model/boxes/x": np.ones(1)}), "it holds 'boxes/x'"),
    "a map of no image": (lambda _told, arrays: arrays.update({"model/full/9/logits": np.ones(1, np.float32)}),
                          "belongs to no image or stage"),
    "a map of another shape": (lambda _told, arrays: arrays.update({"model/full/0/logits": np.ones(1, np.float32)}),
                               "of the shape that it tells"),
    "nested": (field(*RUN, "about", "x", value=json.loads("[" * 400 + "]" * 400)), "nested more than 20 levels deep"),
}


@pytest.mark.parametrize("what", ROWS)
def test_sealed_and_still_refused(tmp_path, what):
    """The digest is right: who can write a trace can write that too."""
    change, says = ROWS[what]
    told, arrays = content(traces()[SAMPLED])
    assert sealed(told, arrays) != b"" and read_back(tmp_path, told, arrays)
    change(told, arrays)
    assert says in refused(tmp_path / "x.trace", sealed(told, arrays))


def tried(work):
    """What it gives and None, or None and what a DbnetError says."""
    try:
        return work(), None
    except DbnetError as error:
        return None, str(error)


def read_back(tmp_path, told, arrays):
    path = tmp_path / "sound.trace"
    path.write_bytes(sealed(told, arrays))
    return read_trace(path).level == "sampled"


def test_a_newer_version_says_what_to_do(tmp_path):
    """Whatever else it holds that is not known here."""
    told, arrays = content(traces()[0])
    told |= {"version": 2, "more": {"a": 1}}
    arrays["model/new/kind"] = np.ones((2, 2))
    assert "is a trace of version 2" in (text := refused(tmp_path / "x.trace", sealed(told, arrays)))
    assert "install a newer one" in text


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 5000, 30000, -1])
def test_cut_off_anywhere(tmp_path, kept):
    refused(tmp_path / "x.trace", traces()[0][:kept])


@pytest.mark.parametrize("place", [0.002, 0.1, 0.3, 0.5, 0.7, 0.9, 0.9999])
def test_a_bit_anywhere(tmp_path, place):
    data = bytearray(traces()[0])
    data[int(place * len(data))] ^= 4
    refused(tmp_path / "x.trace", bytes(data))


def test_another_digest(tmp_path):
    data = traces()[0]
    at = data.index(b'sha256\\": \\"') + 13
    assert "its digest is not that of its content" in refused(
        tmp_path / "x.trace", data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])


def test_bombs_cost_no_more_than_their_size(tmp_path):
    """A header of 9 MB of nothing, 10 MB of nesting, and tensors that claim 2**62 bytes."""
    head = b'{"__metadata__":{"dbnet_trace":"'
    claims = b'{}"},"a":{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,36893488147419103232]}}'
    for text in (head + b"[" * 9_000_000, b"[" * 9_900_000, head + claims, head + b"1" * 9_000_000 + b'"}}'):
        tracemalloc.start()
        begin = time.process_time()
        refused(tmp_path / "x.trace", len(text).to_bytes(8, "little") + text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * len(text) + (1 << 20) and time.process_time() - begin < 5


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none.trace", tmp_path / "pipe"):
        assert not is_trace(path)
        with pytest.raises(DbnetError):
            read_traces(path)


def test_nothing_that_moves_a_terminal_comes_through(tmp_path):
    """Names of images, of the machine and notes are printed."""
    told, arrays = content(traces()[SAMPLED])
    run = told["runs"]["model"]
    run["images"][0][0] = "\x1b[2J\ud800\u202e.png"
    run["about"] |= {"notes": ["\x07beep"], "device": "cpu\n", "file": "\x1b]0;title"}
    path = tmp_path / "x.trace"
    path.write_bytes(sealed(told, arrays))
    side = open_trace(path)
    assert side.recorded.images[0].name == "?[2J??.png"
    assert side.notes == ["?beep"] and side.runner.device == "cpu?"
    assert json.dumps(side.told(), ensure_ascii=False).isprintable()


@pytest.mark.parametrize(("key", "value"), [
    ("record", None), ("record", "{}"), ("record", 7), ("boxes", {}), ("boxes", {"box_thresh": "a"}), ("boxes", None),
    ("environment", 7), ("environment", [1]), ("notes", 7), ("runner", None), ("opaque", 1), ("opaque", {}),
    ("opaque", {"output": "a", "sigmoid": True}), ("machine", 7), ("machine", ["x"]), ("versions", "2.13"),
    ("environment", [])])
def test_who_recorded_it_is_not_told_right(tmp_path, key, value):
    """One line, or a side of a comparison."""
    told, arrays = content(traces()[SAMPLED])
    about = told["runs"]["model"]["about"]
    about[key] = value
    if value is None:
        del about[key]
    path = tmp_path / "x.trace"
    path.write_bytes(sealed(told, arrays))
    side, said = tried(lambda: open_trace(path))
    if side is None:
        assert said.startswith(f"{path}: ")
    else:
        json.dumps(side.told(), allow_nan=False)
        assert side.rule is not None


@pytest.mark.parametrize(("key", "value"), [("machine", 7), ("machine", [1]), ("versions", "2"), ("environment", [])])
def test_what_is_no_table_is_one_line_of_inspect(tmp_path, key, value):
    told, arrays = content(traces()[SAMPLED])
    told["runs"]["model"]["about"][key] = value
    (tmp_path / "x.trace").write_bytes(sealed(told, arrays))
    for what in ("x.trace", "x.trace:model"):
        done = command("inspect", tmp_path / what)
        assert done.returncode == 3 and done.stderr.count("\n") == 1 and f"{key} is no table" in done.stderr


def test_the_command_says_one_line(tmp_path):
    told, arrays = content(traces()[SAMPLED])
    arrays["model/statistics/logits"] = np.full_like(arrays["model/statistics/logits"], np.nan)
    (tmp_path / "x.trace").write_bytes(sealed(told, arrays))
    write_traces(tmp_path / "y.trace", {"model": sound("sampled", 2)})
    for pair in (("x.trace", "y.trace"), ("y.trace", "x.trace")):
        done = command("compare", *(tmp_path / name for name in pair))
        assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
        assert f"{tmp_path / 'x.trace'}: is damaged or no trace" in done.stderr


def test_samples_that_are_nan_are_never_the_same(tmp_path):
    """A digest that differs, and a sample of NaN: whoever takes the largest difference of those would find none."""
    told, arrays = content(traces()[SAMPLED])
    arrays["model/sample/logits"] = np.full_like(arrays["model/sample/logits"], np.nan)
    arrays["model/sha256/logits"] = arrays["model/sha256/logits"] ^ 1
    path = tmp_path / "x.trace"
    path.write_bytes(sealed(told, arrays))
    a, b = side_of(sound("sampled", 2), tmp_path / "s.trace"), open_trace(path)
    for pair in ((a, b), (b, a)):
        found, said = tried(lambda pair=pair: compare_traced(*pair, (a.rule, b.rule), {}))
        assert "NaN" in said if found is None else found.stages.verdict == "different"
