"""What `make fuzz` has found, as small files of their own: none of it comes back."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from converters.formats import read_file
from dbnet.datasets import matfile_values
from dbnet.datasets.archive import read_texts
from dbnet.datasets.image_facts import inspect_image
from dbnet.datasets.labels import read_labels
from dbnet.datasets.matfile import read_variables
from dbnet.errors import DbnetError, short, shown
from dbnet.image_header import LARGE_CHUNK, claims_too_much, is_cut_off, pixels_of, size_of
from dbnet.preprocess import read_image
from dbnet.recipe_yaml import parse_yaml
from dbnet.record import Record
from dbnet.spec import SPECS
from evaluation.results import read_results
from evaluation.store import open_store
from tests.fuzz_guard import wrong_message
from tests.fuzz_zips import DEFLATED, Entry, build
from tests.mat_scenes import Writer

LINE = b"10,10,110,12,110,40,10,38\n"


def refused(read, path, data):
    """The one line."""
    path.write_bytes(data)
    with pytest.raises(DbnetError) as error:
        read(path)
    assert wrong_message(str(error.value), path.name) is None
    return str(error.value)


# Zips -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_results, read_labels])
@pytest.mark.parametrize(("entry", "told"), [
    (Entry(b"", LINE), "cannot be read"),  # IndexError of zipfile
    (Entry(b"res_img_1.txt", LINE, extra=struct.pack("<2H", 1, 4) + bytes(4), size=-1, packed=-1), "cannot be read"),
    # The message quoted everything up to the next entry, or the whole name.
    (Entry(b"res_img_1.txt", LINE, local_name=b"\x1b[31m" + b"\xfe" * 900), "cannot be read"),
    (Entry(b"x" * 600 + b".txt", b"nothing"), "xxx"),
    (Entry("\u202egt_a.txt".encode(), b"1,2", flags=0x800), "u202e"),
    # 8 kB unfolded to 4 MiB, which took 8 s to read; several of them, to 64 MiB.
    (Entry(b"res_img_1.txt", LINE * 160_000, DEFLATED), "claim to unfold to 4160026"),
])
def test_zips(tmp_path, read, entry, told):
    assert told in refused(read, tmp_path / "x.zip", build([entry, Entry(b"res_img_2.txt", LINE)]))


def test_a_zip_may_unfold_as_far_as_texts_do(tmp_path):
    """40 times: a set that is written repetitively, as detectors write them."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        rng = np.random.default_rng(0)
        for i in range(300):
            numbers = rng.integers(0, 1000, (100, 8))
            archive.writestr(f"res_img_{i}.txt", "".join(",".join(map(str, row)) + "\n" for row in numbers.tolist()))
        archive.writestr("res_img_300.txt", LINE * 30_000)
    assert len(read_texts(tmp_path / "x.zip")) == 301


# Records, recipes, stores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "told"), [
    ({"pixels": {"mean": [10**400, 0.0, 0.0]}}, "its record"),  # OverflowError
    ({"semantics": {"backbone": [0] * 3000}}, "backbone cannot be [0, 0,"),
    ({"semantics": {"x" * 3000: 1}}, "unknown semantic 'xxx"),
    ({"semantics": {"neck_channels": [[0] * 900] * 900}}, "neck_channels cannot be [[0,"),
    ({"sha256": [0] * 3000}, "is not a str"), ({"spec": "9" * 5000}, "unknown spec '999"),
    ({"version": "x" * 900}, "'xxx"),
])
def test_records(change, told):
    record = json.loads(Record(SPECS["dbnet_resnet18"], "mindocr").to_json())
    for name, value in change.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    with pytest.raises(DbnetError) as error:
        Record.from_json(json.dumps(record), "x.ckpt")
    assert told in str(error.value)
    assert wrong_message(str(error.value), "x.ckpt") is None


@pytest.mark.parametrize(("text", "told"), [
    ("a: !!timestamp x", "cannot be read as timestamp"),  # AttributeError
    ("a: !!bool 2", "cannot be read as bool"), ("a: !!int ''", "cannot be read as int"),  # KeyError, IndexError
    ("a: *" + "9" * 5000, "undefined alias"), ("9" * 900 + ": 1", "is no key"), ("a: " + "!" * 5000, "is no value"),
    ("\x1b: 1", "is no text"), ("\ufeff\ufeff\u202e: {", "is no YAML"),
    ("a: " + "[" * 60_000, "brackets are nested too deep"),  # 1 s, or two
])
def test_recipes(text, told):
    with pytest.raises(DbnetError) as error:
        parse_yaml(text, "x.yaml")
    assert told in str(error.value)
    assert wrong_message(str(error.value), "x.yaml") is None


def test_stores(tmp_path):
    data = b'{"dbnet": "detections", "version": 1, "' + b"x" * 5000 + b'": 1, "\\u202e": 2}\n'

    def read(path):
        with open_store(path, {"images": 1}, 1):
            pass
    told = refused(read, tmp_path / "x.jsonl", data)
    assert "made otherwise" in told and "\\u202e 2 there" in told
    assert (tmp_path / "x.jsonl").read_bytes() == data


# Weights --------------------------------------------------------------------------------------------------------------


def test_long_names_in_weights(tmp_path):
    header = json.dumps({"x" * 9000: {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode()
    told = refused(read_file, tmp_path / "x.safetensors", struct.pack("<Q", len(header)) + header + bytes(8))
    assert "xxx ... xxx" in told and told.endswith("copy or download it again")
    name = "\0" * 400
    pid = (b"(X\x07\0\0\0storagectorch\nFloatStorage\nX" + struct.pack("<I", 400) + name.encode()
           + b"X\x03\0\0\0cpuK\x01tQ")
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"K\0K\x01\x85K\x01\x85\x89Nt" + b"R"
    pickled = b"\x80\x02}X\x01\0\0\0a" + tensor + b"s."
    told = refused(read_file, tmp_path / "x.pth", build([Entry(b"archive/data.pkl", pickled)]))
    assert "is missing or has another size" in told


# Matrices -------------------------------------------------------------------------------------------------------------


def test_characters_of_no_type(monkeypatch):
    """The name of a codec went to Python's import system."""
    writer = Writer()
    data = bytearray(writer.file(writer.text(["abcdefgh"], "utf-8", name="a")))
    at = data.index(struct.pack("<II", 16, 8))
    data[at:at + 4] = struct.pack("<I", 99)
    monkeypatch.setattr(matfile_values, "str", lambda *arguments: pytest.fail("decoded"), raising=False)
    with pytest.raises(DbnetError, match="type 99 is none of characters"):
        read_variables(bytes(data), "x.mat")["a"].matrix().rows(0)


# Images ---------------------------------------------------------------------------------------------------------------


def chunk(kind, content, size=None):
    return (struct.pack(">I", len(content) if size is None else size) + kind + content
            + struct.pack(">I", zlib.crc32(kind + content)))


def png(width, height, *chunks):
    header = chunk(b"IHDR", struct.pack(">II", width, height) + bytes([8, 6, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def test_pillow_is_not_asked_for_exif_behind_a_terabyte_of_pixels(tmp_path, monkeypatch):
    """It takes the memory for all pixels first: 1.6 kB ended the process."""
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("loaded"))
    (tmp_path / "x.png").write_bytes(png(2**16, 2**24, chunk(b"IDAT", zlib.compress(bytes(100)))))
    facts = inspect_image(tmp_path / "x.png")
    assert facts.damage == "is too large for OpenCV"
    assert facts.orientation == 1


def test_a_chunk_that_claims_gigabytes_never_gets_to_opencv(tmp_path, monkeypatch):
    """OpenCV 4.11 takes the memory first: 1.2 GB for 1.5 kB."""
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    told = refused(read_image, tmp_path / "x.png", png(8, 8, chunk(b"IDAT", bytes(9), size=2**30)))
    assert "or cut off" in told
    assert "cut off" in (inspect_image(tmp_path / "x.png").damage or "cannot be decoded, cut off")


@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_other_images_go_to_opencv_as_before(kept):
    """Cut off ones too, of which some versions show what is there."""
    data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8))[1]
    assert not is_cut_off(data[:int(len(data) * kept)])
    assert not is_cut_off(np.frombuffer(b"\xff\xd8\xff", np.uint8))
    assert is_cut_off(np.frombuffer(png(8, 8, chunk(b"IDAT", b"", size=LARGE_CHUNK + 1)), np.uint8))


def claiming(suffix, side):
    """A small image that says it is `side` x `side`."""
    lossy = [cv2.IMWRITE_WEBP_QUALITY, 80] if suffix == ".webp" else []
    data = bytearray(cv2.imencode(suffix, np.zeros((48, 64, 3), np.uint8), lossy)[1].tobytes())
    if suffix == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at:at + 4] = struct.pack(">HH", side, side)
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", side, -side)
    elif suffix == ".webp":
        assert data[12:16] == b"VP8 "
        data[26:30] = struct.pack("<HH", side, side)
    elif suffix == ".png":
        return png(side, side, chunk(b"IDAT", zlib.compress(bytes(100))))
    else:
        directory, = struct.unpack_from("<I", data, 4)
        for at in range(directory + 2, len(data) - 11, 12):
            if struct.unpack_from("<H", data, at)[0] in (256, 257):
                data[at + 2:at + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
def test_a_small_image_that_claims_gigabytes_never_gets_to_opencv(tmp_path, monkeypatch, suffix):
    """2 kB of JPEG took 2.3 GB and 3 s."""
    assert size_of(claiming(suffix, 16_000)) == (16_000, 16_000)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    told = refused(read_image, tmp_path / f"x{suffix}", claiming(suffix, 16_000))
    assert "claims 256000000 pixels in" in told
    facts = inspect_image(tmp_path / f"x{suffix}")
    assert not facts.opencv or facts.damage


def test_a_jpeg_cannot_hide_its_size():
    """libjpeg skips what is no marker: so a frame of 2.3 GB was not seen."""
    data = claiming(".jpg", 16_000)
    for before in (b"\0", b"junk", b"\xff\xff\xff", b"\xff\0\xff\xd0"):
        assert size_of(data[:2] + before + data[2:]) == (16_000, 16_000)
    assert size_of(b"\xff\xd8" + b"\xff" * 99) is size_of(b"\xff\xd8\0") is None


@pytest.mark.parametrize(("form", "options"), [
    ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("GIF", {}), ("BMP", {}), ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"})])
def test_what_headers_say(form, options):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((37, 300, 3), np.uint8)).save(stream, form, **options)
    assert size_of(stream.getvalue()) == (37, 300)
    assert pixels_of(np.frombuffer(stream.getvalue(), np.uint8)) == 37 * 300


def test_a_big_endian_tiff():
    entries = struct.pack(">HHIHHHHIIIHHIHH", 256, 3, 1, 300, 0, 257, 4, 1, 37, 0, 0, 0, 0, 0, 0)[:24]
    assert size_of(b"MM\0*" + struct.pack(">IH", 8, 2) + entries) == (37, 300)
    assert size_of(b"MM\0*" + struct.pack(">IH", 2**31, 2)) is None
    assert size_of(b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(40)) is None


def test_a_large_blank_page_is_read():
    """81 megapixels in 80 kB."""
    page = cv2.imencode(".png", np.full((9000, 9000), 255, np.uint8))[1]
    assert not claims_too_much(page)


# Messages -------------------------------------------------------------------------------------------------------------


def test_a_message_is_one_printable_line():
    assert str(DbnetError("a\x1b[31m\nb\u202e \ud800é😀 \x00")) == "a\\x1b[31m b\\u202e \\ud800é😀 \\x00"
    assert shown("a" * 99) == f"'{'a' * 79}..."
    assert shown("a\n") == "'a\\n'"
    assert shown([1, 2]) == "[1, 2]" and len(shown([0] * 999)) == 83
    assert short("a" * 100 + "b" * 100 + "c" * 100, 20) == "a" * 10 + " ... " + "c" * 10
    assert short(ValueError("a\n")) == "a\\n"
