"""Fonts for drawn scenes: what lies on the machine, which scripts each has, and a letter or word drawn with one.

A machine without fonts still has the stroke letters that come with OpenCV (Hershey's), for Latin only.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dbnet.datasets.drawn import FONTS
from dbnet.datasets.synth_words import LETTERS, WEIGHTS
from dbnet.errors import DbnetError

#: Where fonts usually are.
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/Library/Fonts",
                "/System/Library/Fonts", "C:/Windows/Fonts")
SUFFIXES = (".ttf", ".otf", ".ttc")
#: Begins the path of a face that is no file.
STROKES = "opencv:"
#: Pixels at which a font is asked for its letters, how many letters of a script it is asked for, and the share that
#: is enough: words are made of those that it has.
ASKED_SIZE, ASKED, ENOUGH = 16, 6, 0.6
#: A letter wider or higher than so many times its size is damaged.
WIDEST = 5
#: No font has a letter here.
NOWHERE = "\U000fffff"
#: Pillow's own layout: whether libraqm is installed must not change what is drawn.
LAYOUT = ImageFont.Layout.BASIC
#: What FreeType and Pillow raise for a file that is no font, or is damaged.
DAMAGE = (OSError, ValueError, RuntimeError, TypeError, SystemError)


@dataclass(frozen=True)
class Face:
    """A font and the scripts that it has letters for. path: its file, or one of OpenCV's own. sha256: of the file."""

    path: str
    scripts: tuple[str, ...]
    sha256: str = ""

    @property
    def name(self) -> str:
        """The file's name, which is the same wherever it lies."""
        return Path(self.path).name


# Finding --------------------------------------------------------------------------------------------------------------


def find_faces(folders: Sequence[str | Path] = FONT_FOLDERS) -> list[Face]:
    """The usable fonts in these folders and below, or of these files, each once, by name and content.

    Raises DbnetError where there is none.
    """
    files = sorted({str(path) for folder in folders for path in _files(Path(folder).expanduser())})
    with ThreadPoolExecutor() as pool:  # reading and hashing; Pillow draws in one at a time
        found = list(pool.map(_face, files))
    once = {face.sha256: face for face in reversed(found) if face is not None}
    if not once:
        raise DbnetError(f"no fonts in {', '.join(map(str, folders))}; name a folder of .ttf files with --fonts, or on "
                         f"Debian: apt install fonts-dejavu-core")
    return sorted(once.values(), key=lambda face: (face.name, face.sha256))


def _files(folder: Path) -> Iterable[Path]:
    try:
        if folder.is_file():
            return [folder]
        return [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    except OSError as error:
        raise DbnetError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error


def _face(file: str) -> Face | None:
    """The font in a file; None where it is none, or none for text."""
    try:
        scripts = _scripts(file)
        return Face(file, scripts, hashlib.sha256(Path(file).read_bytes()).hexdigest()) if scripts else None
    except DAMAGE:
        return None


def _scripts(file: str) -> tuple[str, ...]:
    font = ImageFont.truetype(file, ASKED_SIZE, layout_engine=LAYOUT)
    boxed = font.getbbox(".")[2:] == font.getbbox("W")[2:] and font.getbbox(".")[:2] == font.getbbox("W")[:2]
    if boxed or font.getmask(" ").getbbox() is not None:  # letters on keys, or cut out of black boxes
        return ()
    ImageFont.truetype(file, 6 * ASKED_SIZE, layout_engine=LAYOUT)  # fonts of pixels have one size
    missing = _glyph(font, NOWHERE)
    found = []
    for script, letters in LETTERS.items():
        asked = letters[::len(letters) // ASKED]
        there = {_glyph(font, letter) for letter in asked} - {missing}
        # A font without a script has one and the same box for all of its letters.
        if len(there) >= max(2, ENOUGH * len(asked)):
            found.append(script)
    return tuple(found)


def _glyph(font: Any, letter: str) -> tuple[Any, bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


def stroke_faces() -> list[Face]:
    """OpenCV's own letters."""
    return [Face(f"{STROKES}{font}", ("latin",)) for font in FONTS]


def limited(faces: Sequence[Face], scripts: Sequence[str]) -> list[Face]:
    """The faces for these scripts only. Raises DbnetError for a script that no font has."""
    there = by_script(faces)
    if missing := [script for script in scripts if script not in there]:
        raise DbnetError(f"no font for {', '.join(missing)}; these fonts have {', '.join(there)}: leave it out of "
                         f"--scripts, or name a folder of other fonts with --fonts")
    kept = [replace(face, scripts=tuple(s for s in face.scripts if s in scripts)) for face in faces]
    return [face for face in kept if face.scripts]


def by_script(faces: Sequence[Face]) -> dict[str, list[Face]]:
    """Script -> the fonts that have it, in the order of `LETTERS`."""
    offered = {script: [face for face in faces if script in face.scripts] for script in LETTERS}
    return {script: some for script, some in offered.items() if some}


def choose(offered: dict[str, list[Face]], rng: np.random.Generator) -> tuple[Face, str]:
    """A font and one of its scripts, of `by_script`'s."""
    scripts = list(offered)
    weights = np.array([WEIGHTS[script] for script in scripts])
    script = scripts[int(rng.choice(len(scripts), p=weights / weights.sum()))]
    return offered[script][int(rng.integers(len(offered[script])))], script


# Drawing --------------------------------------------------------------------------------------------------------------


@functools.lru_cache(256)
def _font(path: str, size: int) -> Any:
    try:
        return ImageFont.truetype(path, size, layout_engine=LAYOUT)
    except DAMAGE as error:
        raise DbnetError(f"{path}: is no font any more ({error}); was it changed meanwhile?") from error


@functools.lru_cache(2**16)
def has(path: str, letter: str) -> bool:
    """Whether the font draws something of its own for the letter."""
    if path.startswith(STROKES):
        return "!" <= letter <= "~"
    try:
        size, pixels = _glyph(_font(path, ASKED_SIZE), letter)
    except DAMAGE:  # of this letter
        return False
    return pixels.strip(b"\0") != b"" and (size, pixels) != _missing(path)


@functools.lru_cache(2**12)
def _missing(path: str) -> tuple[Any, bytes]:
    return _glyph(_font(path, ASKED_SIZE), NOWHERE)


def ink_of(face: Face, text: str, size: int, stroke: int = 0) -> tuple[np.ndarray, int, int]:
    """A text drawn `size` pixels high (the font's own measure), each stroke widened by `stroke` pixels.

    Returns its ink, (h, w) uint8 without empty borders, the top of it below the line's own top in pixels, and by how
    many pixels the next letter would stand to the right of its first column. Nothing is (0, 0).
    """
    if face.path.startswith(STROKES):
        pixels, left, top, advance = _strokes(int(face.path.removeprefix(STROKES)), text, size, stroke)
    else:
        pixels, left, top, advance = _typeset(_font(face.path, size), text, size, stroke)
    rows, columns = (np.flatnonzero(pixels.max(axis=axis, initial=0) >= 64) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return np.zeros((0, 0), np.uint8), 0, advance
    part = pixels[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return part, int(top) + int(rows[0]), max(part.shape[1], advance - int(left) - int(columns[0]))


def _typeset(font: Any, text: str, size: int, stroke: int) -> tuple[np.ndarray, int, int, int]:
    """A text in a font: pixels, left and top of them, and the width. Damaged letters are nothing."""
    nothing = np.zeros((1, 1), np.uint8), 0, 0, 0
    try:
        left, top, right, bottom = map(round, font.getbbox(text, stroke_width=stroke))
        if right - left > WIDEST * size * max(1, len(text)) or bottom - top > WIDEST * size:
            return nothing
        image = Image.new("L", (max(1, right - left), max(1, bottom - top)))
        ImageDraw.Draw(image).text((-left, -top), text, 255, font, stroke_width=stroke)
        return np.asarray(image), left, top, round(font.getlength(text))
    except DAMAGE:
        return nothing


def _strokes(font: int, text: str, size: int, stroke: int) -> tuple[np.ndarray, int, int, int]:
    """A text in OpenCV's letters: pixels, left and top of them, and the width."""
    scale = size / 30  # capitals then are about 0.7 of the size, as fonts have them
    thickness = max(1, round(size / 14)) + 2 * stroke
    (width, height), base = cv2.getTextSize(text, font, scale, thickness)
    margin = thickness + 2
    pixels = np.zeros((height + base + 2 * margin, width + 2 * margin), np.uint8)
    cv2.putText(pixels, text, (margin, margin + height), font, scale, 255, thickness, cv2.LINE_AA)
    return pixels, -margin, round(size * 0.75) - height - margin, width
