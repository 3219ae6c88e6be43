"""Folders, zips and lone files of text: how labels and results of text detection are handed around."""

from __future__ import annotations

import codecs
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from dbnet.errors import DbnetError, short

#: Bytes of the largest text file of a set that is read; the data sets' own have a few thousand. A zip may claim
#: anything.
MAX_BYTES = 2**22
#: Bytes of a whole set, or of a lone file. Read into polygons a text may take sixteen times as much.
MAX_TOTAL = 2**26
MAX_FILES = 100_000
#: Bytes that a zip may unfold to whatever its size, and how many times its size beyond that: labels and results are
#: packed to a tenth of their size, a bomb to a thousandth.
UNFOLDED, MAX_TIMES = 2**20, 20

#: The longer marks first: the ones of UTF-32 begin like those of UTF-16.
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*")
IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|bmp|gif|tiff?|webp)$", re.IGNORECASE)


def read_texts(path: Path, suffixes: Sequence[str] = (".txt",)) -> dict[str, str]:
    """`read_files` as text: UTF-8, or what a byte order mark says; what cannot be decoded becomes U+FFFD, as in the
    official ICDAR scripts. Raises DbnetError.
    """
    return {name: decode(data) for name, data in read_files(path, suffixes).items()}


def read_files(path: Path, suffixes: Sequence[str]) -> dict[str, bytes]:
    """The files of a folder, of a zip without unpacking it, or the one file `path`: file name -> bytes.

    suffixes: in lower case, of the files that count; all others and hidden ones are left alone. Folders inside a zip
    are ignored. Raises DbnetError if `path` cannot be read, is too large, or holds two files of one name.
    """
    wanted = tuple(suffixes)
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise DbnetError(f"{path}: is no regular file, which could be read twice; give a folder or a zip")
    try:
        if path.is_dir():
            return _read_folder(path, wanted)
        if path.suffix.lower() in wanted:
            _check_size(f"{path}", path.stat().st_size, MAX_TOTAL)
            return {path.name: path.read_bytes()}
        return _read_zip(path, wanted)
    except (OSError, EOFError, RuntimeError, ValueError, IndexError, struct.error, zipfile.BadZipFile,
            zlib.error) as error:
        # RuntimeError: an encrypted zip. ValueError: a file name that is not what it claims to be encoded in.
        # IndexError: of zipfile, for an entry without a name.
        raise DbnetError(f"{path}: cannot be read ({short(error, 120)}); give a folder or a zip of "
                         f"{' or '.join(wanted)} files") from error


def zips_inside(path: Path) -> str:
    """What to add where a folder holds nothing to read, but a zip or folder that may."""
    inside = sorted(file.name for file in path.iterdir() if file.suffix.lower() == ".zip" or file.is_dir()
                    ) if path.is_dir() else []
    return f"; give one of those that are in it: {', '.join(inside[:3])}" if inside else ""


def decode(data: bytes) -> str:
    """Text in the encoding that its byte order mark tells, UTF-8 without one."""
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    return data.decode(encoding, errors="replace")


def _read_folder(path: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    files = [file for file in path.iterdir() if _wanted(file.name, suffixes) and file.is_file()]
    _check_sizes(f"{path}", ((file.name, file.stat().st_size) for file in files))
    return {file.name: file.read_bytes() for file in files}


def _read_zip(path: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in archive.infolist():
            name = base_name(entry.filename)
            if entry.is_dir() or not _wanted(entry.filename, suffixes):
                continue
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # Others may ask for gigabytes before the first byte comes out.
                raise DbnetError(f"{path}: {shown_name(entry.filename)} is compressed in a way that is not read; zip "
                                 f"it with deflate")
            if name in entries:
                raise DbnetError(f"{path}: holds {shown_name(name)} twice ({shown_name(entries[name].filename)} "
                                 f"and {shown_name(entry.filename)}); keep the one that counts")
            entries[name] = entry
        _check_sizes(f"{path}", ((entry.filename, entry.file_size) for entry in entries.values()))
        size, unfolded = path.stat().st_size, sum(entry.file_size for entry in entries.values())
        if unfolded > max(UNFOLDED, MAX_TIMES * size):
            raise DbnetError(f"{path}: its {size} bytes claim to unfold to {unfolded}; this is no set of labels or "
                             f"results")
        return {name: archive.read(entry) for name, entry in entries.items()}


def _wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return name.lower().endswith(suffixes) and not parts[-1].startswith(".") and "__MACOSX" not in parts


def _check_sizes(where: str, files: Iterable[tuple[str, int]]) -> None:
    total = 0
    for count, (name, size) in enumerate(files, start=1):
        if count > MAX_FILES:
            raise DbnetError(f"{where}: more than {MAX_FILES} text files; this is no set of labels or results")
        _check_size(f"{where}: {shown_name(name)}", size, MAX_BYTES)
        total += size
    _check_size(where, total, MAX_TOTAL)


def _check_size(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise DbnetError(f"{where}: {size} bytes, more than {limit}; this is no set of labels or results")


# Names ----------------------------------------------------------------------------------------------------------------


def base_name(path: str) -> str:
    """A file's name without its folders, however they are written."""
    return PurePosixPath(path.replace("\\", "/")).name


def shown_name(name: str) -> str:
    """A file's name for a message: in a zip it may have 65,535 characters."""
    return name if len(name) <= 80 else f"...{name[-77:]}"


def image_stem(path: str) -> str:
    """An image's name without folders and without the suffix of an image: img_1 for test/img_1.jpg, a.b for a.b."""
    return IMAGE_SUFFIX.sub("", base_name(path))


def natural_order(name: str) -> list[str | int]:
    """Sort key by which img_2 comes before img_10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]{1,18})", name))]


# Lines ----------------------------------------------------------------------------------------------------------------


def lines_of(text: str, where: str) -> Iterator[tuple[str, str]]:
    """The lines that hold something, each with where it stands: ("gt_img_1.txt, line 3", "1,2,...").

    Not str.splitlines: a transcription may hold U+2028. Line ends are \\n, \\r\\n, or \\r in a text without \\n.
    """
    if "\n" not in text:
        text = text.replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.replace("\r", "")
        if line.strip():
            yield f"{where}, line {number}", line


def parse_coordinates(fields: Sequence[str], where: str) -> list[float]:
    """Numbers of one label line, in pixels. Raises DbnetError, naming `where`, if one is no sensible number."""
    try:
        numbers = [float(field.replace("_", "?")) for field in fields]  # Python's own 1_000 is no number here
    except ValueError as error:
        raise DbnetError(f"{where}: {str(error)[:80]}; coordinates must be numbers") from error
    check_range(numbers, where)
    return numbers


def check_range(numbers: Sequence[float], where: str) -> None:
    """Raises DbnetError if a number is NaN, infinite or larger than any image."""
    for number in numbers:
        if not abs(number) < 1e6:  # False for NaN too
            raise DbnetError(f"{where}: a number is out of range: {str(number)[:20]}; coordinates are pixels")


def polygon_of(numbers: Sequence[float], where: str) -> np.ndarray:
    """(P, 2) float64 from x1, y1, x2, y2, ... Raises DbnetError for fewer than three points, or half a point."""
    if len(numbers) % 2 or len(numbers) < 6:
        raise DbnetError(f"{where}: {len(numbers)} numbers; a polygon is x and y of three or more points")
    return np.array(numbers, np.float64).reshape(-1, 2)


def is_number(field: str) -> bool:
    """Whether a field could be a coordinate."""
    return _NUMBER.fullmatch(field) is not None


def split_polygon(line: str, where: str) -> tuple[np.ndarray, str]:
    """Polygon (P, 2) and transcription of a line `x1,y1,...,xP,yP,transcription`, P >= 3.

    The last field is the transcription, as in the TIoU scripts; one with commas begins at the first field that is no
    number. Raises DbnetError where there is none.
    """
    fields = line.split(",")
    if len(fields) % 2 and all(map(is_number, fields[:-1])):
        coordinates = len(fields) - 1
    else:
        coordinates = next((i for i, field in enumerate(fields) if not is_number(field)), len(fields))
        if coordinates == len(fields):
            raise DbnetError(f"{where}: {len(fields)} numbers and no transcription; labels are x1,y1,x2,y2,...,"
                             f"transcription, and lines without one are results")
        coordinates -= coordinates % 2
    numbers = parse_coordinates(fields[:coordinates], where)
    return polygon_of(numbers, where), unquoted(",".join(fields[coordinates:]))


def unquoted(text: str) -> str:
    """A transcription in quotes without them, as the official scripts read it."""
    quoted = re.fullmatch(r'\s*"(.*)"\s*', text)
    return quoted[1].replace("\\\\", "\\").replace('\\"', '"') if quoted else text
