"""Which images a user means: files, folders and globs, in natural order, each with a name that no other has."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dbnet.datasets.archive import image_stem, natural_order
from dbnet.errors import DbnetError

#: Files of a folder or glob that are taken for images, also those that are only named as unreadable: telephones write
#: .heic, and who has such photographs must learn of it. A file that is given by itself may be called anything.
SUFFIXES = re.compile(r"\.(jpe?g|jpe|png|bmp|dib|gif|tiff?|webp|jp2|p[bgp]m|hei[cf]|avif|jxl)$", re.IGNORECASE)
#: Lies in every folder that `dbnet detect` wrote, and lists what it wrote there.
MARKER = ".dbnet-detect"
#: Its subfolders there, which hold pictures of results, no photographs.
SUBFOLDERS = ("pictures", "crops", "submit")
#: Bytes of a file's name, less what is put around it in the names of results.
LONGEST_NAME = 255 - 32
#: Bytes of the largest file that is read.
LARGEST_FILE = 2**31


@dataclass(frozen=True, eq=False)
class Inputs:
    """files: the images as a user would write their paths. names: what results call them, with / between folders; no
    two are the same. refused: what is named like an image and cannot be read as one, with the reason. notes: for the
    user, one line each.
    """

    files: list[str]
    names: list[str]
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_images(inputs: Sequence[str], recursive: bool = False) -> Inputs:
    """The images in files, folders and globs, sorted by name, img_2 before img_10; one that is given twice counts once.

    A name is the path below the folder that was given; where two would be the same, all are paths below the innermost
    folder that holds everything. Hidden files and what `dbnet detect` wrote itself are left out of folders. Raises
    DbnetError if an input does not exist, or there is no image in any of them.
    """
    found: dict[str, tuple[str, str]] = {}  # absolute path -> (path, name)
    refused: dict[str, str] = {}
    notes = []
    for given in inputs:
        empty = True
        for path, name, problem in _of_input(given, recursive):
            empty = False
            if problem:
                refused[path] = problem
            else:
                found.setdefault(os.path.abspath(path), (path, name))
        if empty:
            notes.append(_nothing(given, recursive))
    if not found and not refused:
        raise DbnetError("; ".join(notes) or "no images given")
    files, names = _named(found)
    return Inputs(files, names, list(refused.items()), notes)


def _of_input(given: str, recursive: bool) -> Iterator[tuple[str, str, str | None]]:
    """(path, name, what is wrong with it) of each image of one input."""
    if not os.path.lexists(given):
        if not glob.has_magic(given):
            raise DbnetError(f"{given or 'an empty path'}: no such file or folder; give images, folders or globs")
        for path in glob.glob(os.path.expanduser(given), recursive=True):
            if os.path.isdir(path) and not SUFFIXES.search(path):
                continue  # 'photos/*' means the images in photos
            if SUFFIXES.search(path) and not _written_by_us(path):
                yield path, os.path.basename(path), _problem(path)
    elif os.path.isdir(given):
        empty = True
        for path, problem in _walk(given, recursive, set()):
            empty = False
            yield path, os.path.relpath(path, given).replace(os.sep, "/"), problem
        if empty and SUFFIXES.search(given.rstrip(os.sep)):
            yield given, os.path.basename(given.rstrip(os.sep)), _problem(given)
    else:
        yield given, os.path.basename(given), _problem(given)


def _walk(folder: str, recursive: bool, seen: set[tuple[int, int]]) -> Iterator[tuple[str, str | None]]:
    """The images of a folder. seen: the folders above and before, for links that lead back to them."""
    try:
        here = os.stat(folder)
        with os.scandir(folder) as entries:
            found = sorted(((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")),
                           key=lambda item: natural_order(item[0]))
    except OSError as error:
        yield folder, f"cannot be listed ({error.strerror})"
        return
    if (here.st_dev, here.st_ino) in seen:
        return
    seen.add((here.st_dev, here.st_ino))
    ours = os.path.lexists(os.path.join(folder, MARKER))
    for name, is_folder in found:
        path = os.path.join(folder, name)
        if is_folder and recursive:
            if not (ours and name in SUBFOLDERS):
                yield from _walk(path, recursive, seen)
        elif SUFFIXES.search(name):
            yield path, _problem(path)


def _problem(path: str) -> str | None:
    """Why a path can be no image, told before it is opened: a pipe would wait for ever."""
    name = os.path.basename(path)
    if any(character in name for character in "\t\r\n"):
        return "its name holds a tab or a line break, and lines of results cannot; rename it"
    if len(os.fsencode(name)) > LONGEST_NAME:
        return f"its name is longer than {LONGEST_NAME} bytes, and names of results are longer still; rename it"
    try:
        status = os.stat(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(status.st_mode):
        return "is a folder, no image"
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    if status.st_size > LARGEST_FILE:
        return f"has {status.st_size} bytes, more than any image that is read ({LARGEST_FILE})"
    return None


def _written_by_us(path: str) -> bool:
    """Whether a path lies in a subfolder of results."""
    parts = os.path.abspath(path).split(os.sep)
    return any(part in SUBFOLDERS and os.path.lexists(os.path.join(os.sep, *parts[:i], MARKER))
               for i, part in enumerate(parts[:-1]))


def _named(found: dict[str, tuple[str, str]]) -> tuple[list[str], list[str]]:
    paths, names = [path for path, _ in found.values()], [name for _, name in found.values()]
    if len(set(names)) < len(names):
        top = os.path.commonpath([os.path.dirname(path) for path in found])
        names = [os.path.relpath(path, top).replace(os.sep, "/") for path in found]
    order = sorted(range(len(names)), key=lambda i: natural_order(names[i]))
    return [paths[i] for i in order], [names[i] for i in order]


def _nothing(given: str, recursive: bool) -> str:
    """What to say of an input without images."""
    if not os.path.isdir(given):
        return f"{given}: matches no image; check the path and the suffix"
    try:
        below = not recursive and any(entry.is_dir() for entry in os.scandir(given))
    except OSError:
        below = False
    return f"{given}: no images in this folder" + ("; --recursive looks in the folders below it" if below else
                                                    " (.jpg, .png, .bmp, .gif, .tiff, .webp, ...)")


def unique_stems(names: Sequence[str]) -> list[str]:
    """What the files of each image are called, without suffix: the name's own stem, or the whole name where another
    image in its folder has the same stem (a.jpg, a.png), or that with a number behind it.
    """
    wanted = [_with_stem(name) for name in names]
    counts = Counter(wanted)
    taken = {stem for stem, count in counts.items() if count == 1}
    given = []
    for name, stem in zip(names, wanted, strict=True):
        if counts[stem] > 1:
            stem, number = name, 1
            while stem in taken:
                number += 1
                stem = f"{name}_{number}"
            taken.add(stem)
        given.append(stem)
    return given


def _with_stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{image_stem(file) or file}"


def same_stems(names: Sequence[str]) -> tuple[str, str] | None:
    """Two images that a data set's files could not tell apart, because it knows images by their stems; None without."""
    seen: dict[str, str] = {}
    for name in names:
        stem = image_stem(name)
        if stem in seen:
            return seen[stem], name
        seen[stem] = name
    return None
