"""Fonts and words of drawn scenes: found by content, asked for their letters, damaged ones survived."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import ImageFont

from dbnet.datasets.synth_fonts import ASKED_SIZE, by_script, choose, find_faces, has, limited, stroke_faces
from dbnet.datasets.synth_text import set_line
from dbnet.datasets.synth_words import LETTERS, VOCABULARY, WEIGHTS, word
from dbnet.errors import DbnetError


def embedded_font() -> bytes:
    """A real font for Latin that comes with Pillow."""
    return ImageFont.load_default(ASKED_SIZE).path.getvalue()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A font file and OpenCV's letters: the same on every machine."""
    folder = tmp_path_factory.mktemp("fonts")
    (folder / "embedded.ttf").write_bytes(embedded_font())
    return [*find_faces([folder]), *stroke_faces()]


@pytest.fixture(scope="module")
def system():
    """The machine's own fonts, with whatever scripts they have."""
    try:
        return find_faces()
    except DbnetError as error:
        pytest.skip(str(error))


def test_fonts_are_known_by_their_contents(tmp_path):
    for name in ("a/one.ttf", "b/deep/one.ttf", "b/two.TTF", "b/damaged.ttf", "b/none.otf"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(embedded_font())
    (tmp_path / "b/damaged.ttf").write_bytes(embedded_font()[:900])
    (tmp_path / "b/none.otf").write_text("no font")
    found = find_faces([tmp_path / "b", tmp_path / "a"])
    assert [(face.scripts, len(face.sha256)) for face in found] == [(("latin",), 64)]
    assert [face.sha256 for face in find_faces([tmp_path / "b"])] == [found[0].sha256]


def test_the_order_of_fonts_is_that_of_their_names(tmp_path):
    """So that the same fonts in other folders draw the same scenes."""
    for name in ("z/a.ttf", "m/b.ttf", "a/c.ttf"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(embedded_font() + name.encode())
    assert [face.name for face in find_faces([tmp_path])] == ["a.ttf", "b.ttf", "c.ttf"]


@pytest.mark.parametrize("folder", [".", "missing"])
def test_no_fonts(tmp_path, folder):
    with pytest.raises(DbnetError, match=r"no fonts in .*--fonts"):
        find_faces([tmp_path / folder])


def test_a_font_of_boxes_is_none(tmp_path, monkeypatch):
    """Fonts of keys, or of letters cut out of black: a stop is as large as a W, or a blank is black."""
    (tmp_path / "a.ttf").write_bytes(embedded_font())
    real = ImageFont.FreeTypeFont.getbbox
    monkeypatch.setattr(ImageFont.FreeTypeFont, "getbbox", lambda self, text, *rest, **more: real(self, "W"))
    with pytest.raises(DbnetError, match="no fonts"):
        find_faces([tmp_path])


def test_a_file_is_as_good_as_its_folder(tmp_path):
    (tmp_path / "a.font").write_bytes(embedded_font())
    assert [face.name for face in find_faces([tmp_path / "a.font"])] == ["a.font"]


def test_damaged_fonts_draw_nothing_or_something(tmp_path):
    """Bytes changed anywhere: no traceback, whether it is still a font or none."""
    rng, usable = np.random.default_rng(0), 0
    for number in range(40):
        data = np.frombuffer(embedded_font(), np.uint8).copy()
        places = rng.integers(0, len(data), 1 + 5 * number)
        data[places] = rng.integers(0, 256, len(places))
        path = tmp_path / f"{number}.ttf"
        path.write_bytes(data.tobytes())
        try:
            [face] = find_faces([path])
        except DbnetError:
            continue
        usable += 1
        for seed in range(3):
            line = set_line(face, "latin", 30, 4, np.random.default_rng(seed))
            assert line is None or line.mask.shape[0] < 400
    assert usable > 3


def test_limited(faces):
    assert limited(faces, ["latin"]) == [*faces]
    with pytest.raises(DbnetError, match=r"no font for greek, korean; these fonts have latin: .*--scripts"):
        limited(faces, ["latin", "greek", "korean"])


def test_scripts_of_the_machine(system):
    """Every letter of which words are made is drawn, and no two fonts are one file."""
    assert len({face.sha256 for face in system}) == len(system)
    rng = np.random.default_rng(0)
    offered = by_script(system)
    for script, some in offered.items():
        assert list(limited(system, [script])[0].scripts) == [script]
        for face in some[::max(1, len(some) // 5)]:
            line = set_line(face, script, 30, 3, rng)
            assert line is None or all(has(face.path, letter) for text in line.texts for letter in text)


def test_choose_follows_the_weights(faces):
    rng = np.random.default_rng(0)
    offered = {"latin": [faces[0]], "chinese": [faces[1]]}
    drawn = [choose(offered, rng)[1] for _ in range(2000)]
    assert drawn.count("chinese") / 2000 == pytest.approx(
        WEIGHTS["chinese"] / (WEIGHTS["chinese"] + WEIGHTS["latin"]), abs=0.03)


@pytest.mark.parametrize("script", LETTERS)
def test_words(script):
    rng = np.random.default_rng(0)
    some = [word(script, rng, lambda _: True) for _ in range(400)]
    assert all(text == text.strip() and text and len(text) < 25 for text in some)
    assert len(set(some)) > 100
    assert not {"###", "*"} & set(some)
    random = [word(script, rng, lambda letter: letter == LETTERS[script][3]) for _ in range(100)]
    known = {form.casefold() for text in VOCABULARY.get(script, ()) for form in (text, text.upper())}
    made = [text for text in random if not re.search(r"[\d&!?.,:'\"()-]", text) and text.casefold() not in known]
    assert made
    assert set("".join(made).casefold()) <= {LETTERS[script][3].casefold()}


def test_strokes_have_letters_of_ascii_only():
    face = stroke_faces()[0]
    assert has(face.path, "A") and not has(face.path, "é") and not has(face.path, "©")
    rng = np.random.default_rng(0)
    assert all(set_line(face, "latin", 30, 4, rng).texts for _ in range(20))
