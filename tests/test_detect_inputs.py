"""Which images a user means: folders, globs, orders, names that collide, and what is no image at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.datasets.archive import image_stem
from dbnet.errors import DbnetError
from evaluation.detecting_inputs import MARKER, find_images, same_stems, unique_stems


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in; `here(path, ...)` makes empty files."""
    monkeypatch.chdir(tmp_path)

    def make(*paths):
        for path in map(Path, paths):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def test_a_folder_in_natural_order(here):
    here("p/img_10.jpg", "p/img_2.JPG", "p/b.webp", "p/notes.txt", "p/.hidden.jpg", "p/._img_2.jpg", "p/below/c.png")
    found = find_images(["p"])
    assert found.names == ["b.webp", "img_2.JPG", "img_10.jpg"]
    assert found.files == ["p/b.webp", "p/img_2.JPG", "p/img_10.jpg"]
    assert (found.refused, found.notes) == ([], [])


def test_folders_below(here):
    here("p/a.jpg", "p/2/a.jpg", "p/10/a.jpg", "p/.git/a.jpg")
    assert find_images(["p"]).names == ["a.jpg"]
    assert find_images(["p/"], recursive=True).names == ["2/a.jpg", "10/a.jpg", "a.jpg"]
    os.symlink("..", "p/2/up")  # a circle
    assert find_images(["p"], recursive=True).names == ["2/a.jpg", "10/a.jpg", "a.jpg"]
    here("elsewhere/b.jpg")
    os.symlink("../elsewhere", "p/link")
    assert "link/b.jpg" in find_images(["p"], recursive=True).names


@pytest.mark.parametrize("inputs", [["p/*.jpg"], ["p/img_10.jpg", "p/img_9.jpg", "p/img_10.jpg"], ["p", "p/img_9.jpg"],
                                    ["p/img_[0-9]*.jpg"], ["p/../p"], ["**/*.jpg"], ["p/*"]])
def test_the_same_images_however_they_are_given(here, inputs):
    here("p/img_9.jpg", "p/img_10.jpg", "p/notes.txt")
    assert find_images(inputs).names == ["img_9.jpg", "img_10.jpg"]


def test_a_name_with_brackets_is_no_glob_where_it_exists(here):
    here("photo[1].jpg", "photo1.jpg")
    assert find_images(["photo[1].jpg"]).names == ["photo[1].jpg"]
    assert find_images(["photo[2].jpg", "photo1.jpg"]).notes == [
        "photo[2].jpg: matches no image; check the path and the suffix"]


def test_a_file_by_itself_may_be_called_anything(here):
    here("scan", "old.dat")
    assert find_images(["scan", "old.dat"]).names == ["old.dat", "scan"]


def test_colliding_names_become_paths(here):
    here("x/a/img_1.jpg", "x/b/img_1.jpg", "x/b/c/img_2.jpg")
    assert find_images(["x/a", "x/b"]).names == ["a/img_1.jpg", "b/img_1.jpg"]
    assert find_images(["x/a", "x/b/c"]).names == ["img_1.jpg", "img_2.jpg"]
    assert find_images(["x/a", "x/b"], recursive=True).names == ["a/img_1.jpg", "b/c/img_2.jpg", "b/img_1.jpg"]


def test_what_dbnet_detect_wrote_is_left_out(here):
    here("p/a.jpg", "p/crops/b.jpg", f"p/detections/{MARKER}", "p/detections/pictures/a.jpg",
         "p/detections/crops/a_0.jpg")
    assert find_images(["p"], recursive=True).names == ["a.jpg", "crops/b.jpg"]
    assert find_images(["p/**/*.jpg"]).names == ["a.jpg", "b.jpg"]
    assert find_images(["p/detections/pictures"]).names == ["a.jpg"]  # who asks for it gets it


@pytest.mark.parametrize(("path", "make", "told"), [
    ("trap.jpg", os.mkdir, "is a folder"),
    ("pipe.jpg", os.mkfifo, "no regular file"),
    ("link.jpg", lambda path: os.symlink("nowhere", path), "No such file"),
    ("tab\there.jpg", lambda path: Path(path).touch(), "tab"),
    ("line\nbreak.jpg", lambda path: Path(path).touch(), "line break"),
    ("x" * 240 + ".jpg", lambda path: Path(path).touch(), "longer than"),
    ("huge.jpg", lambda path: [Path(path).touch(), os.truncate(path, 2**31 + 1)], "2147483649 bytes"),
])
def test_what_is_named_like_an_image_and_is_none(here, path, make, told):
    here("p/a.jpg")
    make(f"p/{path}")
    for inputs in (["p"], [f"p/{path}", "p/a.jpg"], ["p/*.jpg"]):
        found = find_images(inputs)
        assert found.names == ["a.jpg"]
        [(refused, why)] = found.refused
        assert refused == f"p/{path}"
        assert told in why


@pytest.mark.parametrize(("inputs", "told"), [
    (["nothere.jpg"], "nothere.jpg: no such file"),
    (["p", "nothere"], "nothere: no such file"),
    ([""], "an empty path"),
    (["empty"], "empty: no images in this folder"),
    (["above"], "--recursive"),
    (["p/*.tiff"], "matches no image"),
    (["p/*.tiff", "empty"], "empty: no images"),
    (["p/\0.jpg"], "no such file"),
])
def test_nothing_to_detect_in(here, inputs, told):
    here("p/a.jpg", "empty/readme.txt", "above/below/a.jpg")
    with pytest.raises(DbnetError) as error:
        find_images(inputs)
    assert told in str(error.value)


def test_an_empty_input_beside_others_is_told(here):
    here("p/a.jpg", "empty/readme.txt")
    found = find_images(["p", "empty", "q*.jpg"])
    assert found.names == ["a.jpg"]
    assert [note.split(":")[0] for note in found.notes] == ["empty", "q*.jpg"]


def test_stems_that_a_submission_cannot_tell_apart():
    assert same_stems(["a/img_1.jpg", "b/img_2.jpg"]) is None
    assert same_stems(["a/img_1.jpg", "b/img_1.png"]) == ("a/img_1.jpg", "b/img_1.png")
    assert unique_stems(["a.jpg", "a.png", "a.png.png", "b.jpg", "c/a.jpg"]) == [
        "a.jpg", "a.png_2", "a.png", "b", "c/a"]


@given(st.lists(st.from_regex(r"\A([ab]/)?[ab](\.png|\.jpg){0,2}(_2)?\Z"), unique=True))
def test_stems_are_unique_and_mostly_the_images_own(names):
    stems = unique_stems(names)
    assert len(set(stems)) == len(names)
    for name, stem in zip(names, stems, strict=True):
        assert stem.startswith(name.rpartition("/")[0])
        assert image_stem(name) in stem
