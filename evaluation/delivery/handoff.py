"""The hand-off: one folder with which the team that deploys a model proves it, with nothing of ours installed.

The model's files; test_data_set_N with the network's input and the source's output (the layout of ONNX's backend
tests), the resized image and the boxes; preprocess.json; verify.py; an example in C++; SHA256SUMS of it all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from converters.load import LoadedModel
from dbnet.errors import DbnetError, short
from dbnet.extras import installed
from evaluation.delivery import handoff_texts
from evaluation.delivery.handoff_data import Source, names_of, scenes, write_png, write_proof
from evaluation.delivery.settings import Delivered
from evaluation.pipeline import naming

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Shown:
    """An image of the proof, for its README. boxes: how many the model finds in it."""

    number: int
    name: str
    ours: bool
    boxes: int


def write_handoff(folder: Path, delivered: Delivered, model: LoadedModel, images: Sequence[Path], *,
                  force: bool) -> list[str]:
    """Writes the folder, whole or not at all; what to tell the user, a line each.

    model: what `delivered` was made from. images: for the proof; none: three drawn scenes. force: the folder may have
    files already; an earlier hand-off's go, other ones stay. Raises DbnetError, also if the delivered file does not
    pass the proof in a runtime that is installed here.
    """
    check_handoff(folder, force)
    names_of(images)  # for its errors, before any work is done
    source = Source(model, delivered)
    temporary = Path(tempfile.mkdtemp(prefix=".dbnet-handoff-", dir=folder.absolute().parent))
    try:
        told = _fill(temporary, delivered, model, source, images)
        os.chmod(temporary, 0o777 & ~_umask())
        check_handoff(folder, force)
        _put(temporary, folder)
    except OSError as error:
        raise DbnetError(f"{folder}: could not be written ({error.strerror or error}); nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [f"hand-off: {folder}, {size / 1e6:.0f} MB; its README.md says how to prove it", *told]


def check_handoff(folder: Path, force: bool) -> None:
    """Raises DbnetError if a hand-off cannot or must not be written there."""
    parent = folder.absolute().parent
    try:
        if not parent.is_dir():
            raise DbnetError(f"{parent}: no such folder; create it first")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise DbnetError(f"{parent}: no permission to write here; choose another folder")
        if not os.path.lexists(folder):
            return
        if not folder.is_dir() or folder.is_symlink():
            raise DbnetError(f"{folder}: is no folder; name another --handoff")
        if os.listdir(folder) and not force:
            raise DbnetError(f"{folder}: has files in it; name another --handoff, or add --force, which replaces an "
                             f"earlier hand-off and leaves other files alone")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DbnetError(f"{folder}: no permission to write here; choose another folder")
    except OSError as error:
        raise DbnetError(f"{folder}: cannot be read ({error.strerror}); name another --handoff") from error


def _fill(folder: Path, delivered: Delivered, model: LoadedModel, source: Source, images: Sequence[Path]) -> list[str]:
    """Everything in its place. Returns what to tell."""
    for path in delivered.files or (delivered.path,):
        if not path.name.isprintable():  # it stands in commands and sources
            raise DbnetError(f"{path.name!r}: its name is no plain text; rename it before handing it over")
        shutil.copyfile(path, folder / path.name)  # not its mode: MindSpore's files are read-only
    (folder / "images").mkdir()
    done: list[Shown] = []
    for number, scene in enumerate(scenes(images, delivered)):
        with naming(Path(scene.name) if scene.ours else images[number]):
            proof = source.proof(scene)
        write_proof(folder / f"test_data_set_{number}", proof, delivered)
        if scene.ours:
            write_png(folder / "images" / scene.name, scene.image)
        done.append(Shown(number, scene.name, scene.ours, len(proof.boxes["detections"])))
    if not done[0].ours:
        listed = "".join(f"{shown.name}\n" for shown in done)
        (folder / "images" / "README.txt").write_text(_WHERE + listed, encoding="utf-8")
    files = {path.name: _sha256(folder / path.name) for path in delivered.files or (delivered.path,)}
    about = handoff_texts.preprocess(delivered, model, source.title, files)
    (folder / "preprocess.json").write_text(handoff_texts.json_of(about), encoding="utf-8")
    for name, text in handoff_texts.written(delivered, {"sets": done, "about": about}).items():
        (folder / name).write_text(text, encoding="utf-8")
    _write_sums(folder)
    return [_told(done), *_without_example(delivered), _proved(folder, delivered)]


_WHERE = """\
Photographs belong to whoever took them, so none is here, only each as the network gets it (resized.png). Put the
originals here, under these names, and verify.py and detect --check go the whole way from the image file:

"""


def _told(done: Sequence[Shown]) -> str:
    boxes = sum(shown.boxes for shown in done)
    if done[0].ours:
        return f"it proves with {len(done)} drawn scenes, {boxes} boxes in them"
    plural = "s" if len(done) > 1 else ""
    return (f"it proves with {len(done)} image{plural}, {boxes} boxes; it holds their resized pictures and names, not "
            f"the image files")


def _without_example(delivered: Delivered) -> list[str]:
    why = handoff_texts.example_of(delivered)
    return [f"no example in C++: {why}"] if why else []


def _proved(folder: Path, delivered: Delivered) -> str:
    """Runs the hand-off's own verify.py. Raises DbnetError if it says no."""
    runtimes = [name for name in handoff_texts.runtimes_of(delivered) if installed(name)]
    if not runtimes:
        return "verify.py was not run: no runtime that opens this file is installed here"
    done = subprocess.run([sys.executable, str(folder / "verify.py"), "--runtime", runtimes[0]], capture_output=True,
                          encoding="utf-8", errors="replace", check=False, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    if done.returncode == 3:
        return f"verify.py could not be run in {runtimes[0]}: {short(done.stderr.strip(), 300)}"
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if "DIFFERENT" in line or done.stderr]
        raise DbnetError(f"{folder.name}: the hand-off does not prove itself in {runtimes[0]}: "
                         f"{short(lines[0] if lines else 'verify.py failed', 300)}; nothing was written, please "
                         f"report this")
    largest = max(map(float, re.findall(r"map same, largest difference ([0-9.e+-]+)", done.stdout)))
    return f"verify.py passes in {runtimes[0]}: the map differs from the source's by {largest:.1e} at most"


# The folder -----------------------------------------------------------------------------------------------------------


def _write_sums(folder: Path) -> None:
    """As `sha256sum -c` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _put(made: Path, folder: Path) -> None:
    """In its place. Raises OSError."""
    if not folder.exists() or not os.listdir(folder):
        os.replace(made, folder)  # in the place of an empty folder too
        return
    for path in made.rglob("*"):
        target = folder / path.relative_to(made)
        if target.is_symlink() or (target.exists() and target.is_dir() != path.is_dir()):
            raise DbnetError(f"{target}: is in the way of a file or folder of the hand-off; name another --handoff")
    earlier = _earlier(folder)
    for name in earlier:
        (folder / name).unlink(missing_ok=True)
    for parent in {parent for name in earlier for parent in (folder / name).parents if parent != folder}:
        if parent.is_relative_to(folder) and parent.is_dir() and not os.listdir(parent):
            parent.rmdir()
    for path in sorted(made.rglob("*")):
        target = folder / path.relative_to(made)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            os.replace(path, target)


def _earlier(folder: Path) -> list[str]:
    """The files of an earlier hand-off, those that are as it left them."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        digest, _, name = line.partition("  ")
        path = PurePosixPath(name)
        inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
        if inside and (folder / name).is_file() and _sha256(folder / name) == digest:
            found.append(name)
    return found


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
