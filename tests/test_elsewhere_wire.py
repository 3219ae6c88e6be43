"""What two processes say to each other: it comes as it was sent, or not at all."""

from __future__ import annotations

import json
import os
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from evaluation import elsewhere_wire
from evaluation.elsewhere_wire import Wire, WireError

KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", ">i8")
PLAIN = st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False) | st.text(),
                     lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
ARRAYS = st.dictionaries(st.text(max_size=9), st.sampled_from(KINDS).flatmap(lambda kind: arrays_of.arrays(
    kind, arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))), max_size=4)


class Pair:
    """Both ends in this process."""

    def __enter__(self):
        (here, there), (back, forth) = os.pipe(), os.pipe()
        self.one, self.other = Wire(here, forth), Wire(back, there)
        return self

    def __exit__(self, *_):
        self.one.close()
        self.other.close()

    def passed(self, header, arrays=None):
        sender = threading.Thread(target=self.one.send, args=(header, arrays))
        sender.start()
        found = self.other.receive(20)
        sender.join()
        return found

    def raw(self, data):
        os.write(self.one.write, data)
        self.one.close()
        return self.other.receive(20)


@settings(max_examples=50)
@given(st.dictionaries(st.text().filter(lambda name: name != "arrays"), PLAIN, max_size=4), ARRAYS)
def test_comes_as_it_was_sent(header, arrays):
    with Pair() as pair:
        told, found = pair.passed(header, arrays)
    assert told == header and list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("<") and found[name].shape == array.shape
        assert found[name].tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
        assert found[name].flags.writeable


def test_large_and_strided_arrays():
    sent = np.arange(2**21, dtype=np.float32).reshape(2, 1024, 1024).transpose(2, 0, 1)[::2]
    with Pair() as pair:
        for _ in range(2):
            assert np.array_equal(pair.passed({}, {"a": sent})[1]["a"], sent)


@pytest.mark.parametrize("array", [np.array([None]), np.array(["a"]), np.zeros(2, complex), np.zeros(1, "M8[s]")])
def test_no_other_types(array):
    with Pair() as pair, pytest.raises(WireError, match="is not passed on"):
        pair.one.send({}, {"a": array})


def message(outline, magic=b"DBNW", length=None, text=None):
    text = json.dumps({"arrays": outline}).encode() if text is None else text
    return magic + struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize("data", [
    message([], magic=b"Trac"), message([], length=1 << 40), message([], text=b"{"), message([], text=b"[]"),
    message([], text=b"{}"), message([], text=b"[" * 5000), message([["a", "<f4"]]), message([["a", "<f4", "x"]]),
    message([["a", "|O", [1]]]), message([["a", "<f4", [-1]]]), message([["a", "<f4", [1] * 17]]),
    message([["a", "<f4", [1 << 40]]]), message([["a", "<f4", [0]], ["a", "<f4", [0]]]), message(3),
    message([["a", "V8", [1]]]), message([["a", "<f4", [1]]] * 2)])
def test_what_is_no_message(data):
    with Pair() as pair, pytest.raises(WireError):
        pair.raw(data)


def test_no_room(monkeypatch):
    monkeypatch.setattr(elsewhere_wire, "MOST_BYTES", 1 << 62)
    with Pair() as pair, pytest.raises(WireError, match="no memory"):
        pair.raw(message([["a", "<f4", [1 << 58]]]))


@pytest.mark.parametrize("data", [b"", b"DB", message([])[:-1], message([["a", "<f4", [2]]]) + b"1234567"])
def test_the_end(data):
    with Pair() as pair, pytest.raises(EOFError):
        pair.raw(data)


def test_waits_no_longer():
    with Pair() as pair:
        os.write(pair.one.write, message([["a", "<f4", [2]]]))
        with pytest.raises(TimeoutError):
            pair.other.receive(0.05)


def test_nobody_reads():
    with Pair() as pair:
        pair.other.close()
        pair.other.close()
        with pytest.raises(BrokenPipeError):
            pair.one.send({}, {"a": np.zeros(1 << 20)})


def test_other_programs_do_not_inherit_it():
    with Pair() as pair:
        assert not any(os.get_inheritable(end) for end in (pair.one.read, pair.one.write))
