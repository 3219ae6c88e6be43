"""Files made to harm or damaged on the way, .pth and .pdparams: one line, soon, little memory, nothing executed.

No framework is needed here. Pickles are written by hand, instruction by instruction.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import pdparams_file, pth_file, restricted_pickle
from converters.pth_legacy import MAGIC
from converters.tensor_file import TensorFile
from converters.weights import same_bits
from dbnet.errors import DbnetError

ROOT = Path(__file__).resolve().parents[1]
MAX_SECONDS, MAX_BYTES = 2.0, 300 << 20
#: Reads every file of a folder and prints what came of it; in a process of its own, since a peak of memory is its own.
CHILD = """
import json, pathlib, sys, time
from converters import pdparams_file, pth_file
from dbnet.errors import DbnetError
status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")  # Linux; not ru_maxrss,
def peak():                                                                   # which begins with the parent's peak
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    reader = pdparams_file if path.suffix == ".pdparams" else pth_file
    if reset.exists():
        reset.write_text("5")
    start, before = time.process_time(), peak()
    try:
        message = f"read: {len(reader.read(path).tensors)}"
    except DbnetError as error:
        message = str(error)
    print(json.dumps([path.name, time.process_time() - start, peak() - before, message]))
"""


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def pushed_tensor(shape, stride, offset=0, key="0", count=4):
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + number(offset) + numbers(*shape) + numbers(*stride)
            + b"\x89ccollections\nOrderedDict\n)RtR")


def state_dict(*pairs, before=b""):
    return b"\x80\x02" + before + b"}(" + b"".join(text(name) + pushed for name, pushed in pairs) + b"u."


def archive(pickled, extra=(), compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as target:
        target.writestr("archive/data.pkl", pickled)
        target.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
        for name, data in extra:
            target.writestr(name, data)
    return stream.getvalue()


SOUND = state_dict(("a.w", pushed_tensor([4], [1])))
LAUGHS = b")" + b"2\x86" * 200  # a tuple of two tuples of two tuples of ...
ORDERED = b"ccollections\nOrderedDict\n"

#: name -> a pickle whose memory, time or structure is out of all proportion.
PICKLES = {
    "marks": b"\x80\x02" + b"(" * 700_000, "tuples": b"\x80\x02)" + b"\x85" * 700_000 + b".",
    "nested lists": b"\x80\x02" + b"]" * 400_000 + b"a" * 399_999 + b".",
    "many lists": b"\x80\x02" + b"]" * 700_000 + b".", "many dicts": b"\x80\x04" + b"}\x94" * 700_000 + b".",
    "many sets": b"\x80\x04" + b"\x8f" * 700_000 + b".",
    "many ordered": b"\x80\x02" + ORDERED + b"q\x00" + b"h\x00)R" * 700_000 + b".",
    "memo 2**28": b"\x80\x02]r" + struct.pack("<I", 2**28) + b".",
    "memo 2**32": b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b".",
    "bytes 2**40": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "bytearray 2**40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "text 2**62": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".",
    "frame 2**62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "long line": b"\x80\x02c" + b"x" * 5_000_000 + b"\ny\n.",
    "laughs": b"\x80\x02" + LAUGHS + b".", "laughs as key": b"\x80\x02}" + LAUGHS + b"Ns.",
    "laughs as value": state_dict(("a.w", LAUGHS), ("optimizer", LAUGHS), ("meta", b"}" + text("x") + LAUGHS + b"s")),
    "laughs in lists": state_dict(("a.w", pushed_tensor([5], [1])), ("optimizer", b"h\xc8"),
                                  before=b"]q\x000" + b"".join(b"]q%c(h%ch%ce0" % (i + 1, i, i) for i in range(200))),
    "colliding keys": b"\x80\x02}(" + b"".join(
        b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"N" for i in range(60_000)) + b"u.",
    "copied over and over": b"\x80\x02](" + b"N" * 100_000 + b"e\x85q\x000c__builtin__\nset\nq\x01"
                            + b"h\x00R0h\x01" * 50_000 + b".",
    "holds itself": b"\x80\x02}q\x00(" + b"".join(text(key) + b"h\x00" for key in (
        "state_dict", "model", "net", "network", "weights", "params", "module", "ema", "optimizer")) + b"u.",
    "one dict, many names": b"\x80\x02}q\x00(" + b"".join(number(i) + b"N" for i in range(100_000)) + b"u0}("
                            + b"".join(text(f"optim{i}") + b"h\x00" for i in range(50_000)) + b"u.",
    "giant": state_dict(("a.w", pushed_tensor([2**40, 2**40], [1, 1]))),
    "giant empty": state_dict(("a.w", pushed_tensor([0, 2**60], [1, 1]))),
    "expanded": state_dict(("a.w", pushed_tensor([2**20, 2**20], [0, 0]))),
    "expanded often": state_dict(*((f"a.{i}", b"h\x01") for i in range(2000)),
                                 before=pushed_tensor([2**23], [0]) + b"q\x010"),
    "negative stride": state_dict(("a.w", pushed_tensor([4], [-1], 3))),
    "negative offset": state_dict(("a.w", pushed_tensor([1], [1], -1))),
    "negative size": state_dict(("a.w", pushed_tensor([-4], [1]))),
    "beyond its storage": state_dict(("a.w", pushed_tensor([4], [1], 1))),
    "overflowing stride": state_dict(("a.w", pushed_tensor([2, 2], [2**62, 2**62]))),
    "storage too long": state_dict(("a.w", pushed_tensor([8], [1], count=8))),
    "storage missing": state_dict(("a.w", pushed_tensor([4], [1], key="../../1"))),
    "too many dimensions": state_dict(("a.w", pushed_tensor([1] * 30_000, [1] * 30_000))),
    "too many tensors": state_dict(*((f"a.{i}", b"h\x01") for i in range(110_000)),
                                   before=pushed_tensor([4], [1]) + b"q\x010"),
    "name twice": state_dict(*[("a.w", pushed_tensor([4], [1]))] * 2),
    "long name": state_dict(("module." * 500_000, pushed_tensor([4], [1]))),
    "unprintable name": state_dict(("a\x1b[31m\nb", pushed_tensor([4], [1]))),
    "attributes of a function": b"\x80\x02" + ORDERED + b"}" + text("__call__") + b"Nsb.",
    "calls a text": b"\x80\x02" + text("eval") + b")R.", "extension code": b"\x80\x02\x82\x01.",
    "out of band": b"\x80\x05\x97.", "no such instruction": b"\x80\x02\xff.", "empty stack": b"\x80\x02.",
    "nothing": b"", "only a stop": b".",
}

#: For Paddle's reader: those that do not need torch's names, and of the long ones one.
OF_PADDLE = [name for name, pickled in PICKLES.items()
             if b"ctorch" not in pickled and (len(pickled) < 600_000 or name == "many dicts")]

ZIPS = {
    "zip bomb": archive(b"\x80\x02" + b"N0" * 20_000_000 + b"N.", compression=zipfile.ZIP_DEFLATED),
    "compressed storage": archive(SOUND, compression=zipfile.ZIP_DEFLATED),
    "two roots": archive(SOUND, [("other/data.pkl", SOUND)]),
    "parent folder": archive(SOUND, [("archive/../../evil", b"x")]),
    "absolute": archive(SOUND, [("/etc/evil", b"x")]), "drive": archive(SOUND, [("C:evil", b"x")]),
    "no root": archive(SOUND).replace(b"archive/data.pkl", b"archive-data.pkl"),
    "unknown byte order": archive(SOUND, [("archive/byteorder", b"middle")]),
    "long byte order": archive(SOUND, [("archive/byteorder", b"little" * 10_000)]),
    "many entries": archive(SOUND, [(f"archive/data/{i}", b"") for i in range(1, 100_100)]),
    "huge pickle": archive(b"\x80\x02" + b" " * (70 << 20)),
    "something behind the pickle": archive(SOUND + b"N."),
    "another zip": archive(SOUND).replace(b"data.pkl", b"word.xml"),
}


def twice(data):
    """The archive with two entries of one name, which zipfile would not write silently."""
    return data.replace(b"archive/data/1", b"archive/data/0")


def overlapping(data):
    """All of the entries say that they are as long as the file."""
    place, size = data.rfind(b"PK\x05\x06"), struct.pack("<I", len(data) // 2)
    start = struct.unpack_from("<I", data, place + 16)[0]
    out = bytearray(data)
    while out[start:start + 4] == b"PK\x01\x02":
        out[start + 20:start + 28] = size * 2
        start += 46 + sum(struct.unpack_from("<3H", out, start + 28))
    return bytes(out)


ZIPS["entry twice"] = twice(archive(SOUND, [("archive/data/1", b"x")]))
ZIPS["overlapping entries"] = overlapping(archive(SOUND, [(f"archive/data/{i}", b"x") for i in range(1, 9)]))
ZIPS["end record twice"] = archive(SOUND) + b"PK\x05\x06" + bytes(18)
ZIPS["far away directory"] = archive(SOUND)[:-6] + struct.pack("<IH", 2**32 - 2, 0)
ZIPS["zip64 without its record"] = archive(SOUND)[:-6] + struct.pack("<IH", 2**32 - 1, 0)


STORAGE = struct.pack("<q", 4) + bytes(16)


def legacy(pickled, keys=("0",), storages=STORAGE):
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps(list(keys), 2) + storages


LEGACY_SOUND = SOUND.replace(b"tQ", b"NtQ")
LEGACIES = {
    "storage cut": legacy(LEGACY_SOUND, storages=struct.pack("<q", 4) + bytes(15)),
    "storage longer": legacy(LEGACY_SOUND, storages=struct.pack("<q", 2**40) + bytes(16)),
    "storage negative": legacy(LEGACY_SOUND, storages=struct.pack("<q", -1) + bytes(16)),
    "bytes behind": legacy(LEGACY_SOUND, storages=struct.pack("<q", 4) + bytes(17)),
    "no keys": legacy(LEGACY_SOUND, keys=()), "keys twice": legacy(LEGACY_SOUND, keys="00"),
    "keys not text": legacy(LEGACY_SOUND, keys=(0,)), "no such key": legacy(LEGACY_SOUND, keys="1"),
    "huge storage": legacy(LEGACY_SOUND.replace(number(4) + b"NtQ", number(2**60) + b"NtQ")),
    "protocol 1002": legacy(LEGACY_SOUND).replace(struct.pack("<H", 1001), struct.pack("<H", 1002), 1),
    "big-endian": legacy(LEGACY_SOUND).replace(b"\x88s", b"\x89s", 1).replace(b"\x88u", b"\x89u", 1),
    "plain pickle": pickle.dumps({"a.w": [1.0, 2.0]}, 2),
}


#: Not only refused, but for the right reason.
SAYS = {
    "entry twice": "holds archive/data/0 twice", "overlapping entries": "entries overlap", "name twice": "set twice",
    "zip bomb": "compressed", "compressed storage": "compressed", "parent folder": "evil", "absolute": "evil",
    "drive": "evil", "two roots": "not one of torch.save", "many entries": "more entries",
    "huge pickle": "73400322 bytes", "something behind the pickle": "behind its pickle", "marks": "too deeply",
    "tuples": "thousands of instructions", "many dicts": "thousands of instructions",
    "expanded": "larger than the file", "expanded often": "larger than the file",
    "giant": "too large", "giant empty": "out of range",
    "negative stride": "impossible", "negative offset": "impossible", "negative size": "out of range",
    "beyond its storage": "beyond its storage", "overflowing stride": "beyond its storage",
    "laughs as key": "neither a text nor a number", "colliding keys": "neither a text nor a number",
    "copied over and over": "over and over", "long name": "holds a tensor named", "unprintable name": "tensor named",
    "too many tensors": "110000 tensors", "too many dimensions": "shape", "bytes behind": "1 bytes after",
    "big-endian": "big-endian", "extension code": "unknown instruction 0x82", "plain pickle": "no file of torch.save",
    "bytes 2**40": "ends in the middle", "attributes of a function": "attributes", "calls a text": "no function",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    for name, pickled in PICKLES.items():
        (folder / f"{name}.pth").write_bytes(archive(pickled))
    for name in OF_PADDLE:
        (folder / f"{name}.pdparams").write_bytes(PICKLES[name])
    for name, data in {**ZIPS, **LEGACIES}.items():
        (folder / f"{name}.pth").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", CHILD, folder], cwd=ROOT, capture_output=True, text=True, check=False,
                          timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", [*(f"{n}.pth" for n in (*PICKLES, *ZIPS, *LEGACIES)),
                                  *(f"{n}.pdparams" for n in OF_PADDLE)])
def test_hostile_file(outcomes, name):
    seconds, peak, message = outcomes[name]
    assert f"{name}: " in message
    assert SAYS.get(Path(name).stem, "") in message and len(message) < 500 and message.isprintable()
    assert seconds < MAX_SECONDS and peak < MAX_BYTES


def test_without_the_harm_these_files_are_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(archive(SOUND))
    assert pth_file.read(tmp_path / "a.pth").tensors["a.w"].tolist() == [0, 1, 2, 3]
    (tmp_path / "b.pth").write_bytes(legacy(LEGACY_SOUND))
    assert pth_file.read(tmp_path / "b.pth").tensors["a.w"].tolist() == [0, 0, 0, 0]


# Nothing is executed --------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CALLS = [(os.system, "posix.system"), (builtins.eval, "builtins.eval"), (builtins.exec, "builtins.exec"),
         (builtins.__import__, "builtins.__import__"), (builtins.getattr, "builtins.getattr"),
         (subprocess.check_output, "subprocess.check_output"), (os.open, "posix.open"), (np.load, "numpy.load"),
         (zlib.decompress, "zlib.decompress"), (io.open, f"{io.open.__module__}.open")]  # _io from Python 3.12 on


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pdparams"])
@pytest.mark.parametrize(("function", "name"), CALLS, ids=[name for _, name in CALLS])
def test_a_pickle_that_would_run_code(tmp_path, monkeypatch, function, name, kind, protocol):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({"a.w": np.ones(3, np.float32), "x": Call(function, "touch executed")}, protocol)
    path = tmp_path / ("x.pdparams" if kind == "pdparams" else "x.pth")
    path.write_bytes({"zip": archive, "legacy": legacy, "pdparams": bytes}[kind](pickled))
    with pytest.raises(DbnetError, match=rf"(?s)asks for {name},.*nothing was executed"):
        (pdparams_file if kind == "pdparams" else pth_file).read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


# Damage ---------------------------------------------------------------------------------------------------------------

TENSORS = {"conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), "bn.bias": np.ones(3, np.float16),
           "bn.num_batches_tracked": np.array(0)}


def sound_zip():
    stream = io.BytesIO()
    pth_file.write(stream, TENSORS, '{"record": 1}')
    return stream.getvalue()


def numpy_pickle(protocol):
    return pickle.dumps({"StructuredToParameterName@@": {"bn.bias": "b_0"}, **TENSORS}, protocol)


def unchanged(read: TensorFile) -> bool:
    return list(read.tensors) == list(TENSORS) and all(same_bits(read.tensors[name], TENSORS[name]) for name in TENSORS)


SOUND_FILES = {
    "zip.pth": sound_zip(), "legacy.pth": legacy(LEGACY_SOUND), "4.pdparams": numpy_pickle(4),
    "2.pdparams": numpy_pickle(2),
}


def outcome(path, data):
    """What reading gives: a TensorFile, or None for a DbnetError. Any other exception fails the test."""
    path.write_bytes(data)
    with contextlib.suppress(DbnetError):
        return (pdparams_file if path.suffix == ".pdparams" else pth_file).read(path)
    return None


@pytest.mark.parametrize("name", SOUND_FILES)
def test_every_prefix_is_an_error(tmp_path, name):
    data = SOUND_FILES[name]
    assert outcome(tmp_path / name, data) is not None
    lengths = [*range(0, len(data), 7), *range(max(0, len(data) - 40), len(data))]
    assert [n for n in lengths if outcome(tmp_path / name, data[:n]) is not None] == []


@given(place=st.integers(0, len(SOUND_FILES["zip.pth"]) - 1), change=st.integers(1, 255))
def test_a_changed_byte_in_an_archive_is_noticed_or_harmless(tmp_path_factory, place, change):
    data = bytearray(SOUND_FILES["zip.pth"])
    data[place] ^= change
    read = outcome(tmp_path_factory.getbasetemp() / "flipped.pth", data)
    assert read is None or (unchanged(read) and read.record == '{"record": 1}')


def test_every_byte_of_an_archive(tmp_path):
    for place in range(len(SOUND_FILES["zip.pth"])):
        data = bytearray(SOUND_FILES["zip.pth"])
        data[place] ^= 0xFF
        read = outcome(tmp_path / "flipped.pth", data)
        assert read is None or (unchanged(read) and read.record == '{"record": 1}'), place


@pytest.mark.parametrize("name", ["legacy.pth", "4.pdparams", "2.pdparams"])
@given(data=st.data())
def test_a_changed_byte_without_a_checksum_never_escapes(tmp_path_factory, name, data):
    content = bytearray(SOUND_FILES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read = outcome(tmp_path_factory.getbasetemp() / name, content)
    assert read is None or isinstance(read, TensorFile)


@given(st.lists(st.sampled_from([bytes([code]) for code in restricted_pickle._Unpickler.dispatch]
                                + [text("a"), number(3), b"K\x01", b"h\x00", b"q\x00", ORDERED,
                                   b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\nscalar\n",
                                   b"cnumpy.core.multiarray\n_reconstruct\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
                                   b"ctorch\nSize\n", pushed_tensor([4], [1])]), max_size=40))
def test_any_program_ends_in_one_line(tmp_path_factory, instructions):
    pickled = b"\x80\x02" + b"".join(instructions) + b"."
    folder = tmp_path_factory.getbasetemp()
    outcome(folder / "program.pth", archive(pickled))
    outcome(folder / "program.pdparams", pickled)
