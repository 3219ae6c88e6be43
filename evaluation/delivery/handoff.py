"""The hand-off: one folder with which the team that deploys a model proves it, with nothing of ours installed.

The model's files; test_data_set_N with the network's input and the source's output (the layout of ONNX's backend
tests), the resized image and the boxes; preprocess.json; verify.py; an example in C++; SHA256SUMS of it all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.load import LoadedModel
from dbnet.errors import DbnetError, short
from dbnet.extras import installed
from evaluation.delivery import handoff_texts
from evaluation.delivery.handoff_data import Source, names_of, scenes, write_png, write_proof
from evaluation.delivery.handoff_folder import in_the_way, own_files, place, seal, sha256
from evaluation.delivery.settings import Delivered
from evaluation.pipeline import naming


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
    files already; an earlier hand-off's are replaced, other ones stay, and one where ours belong is refused. Raises
    DbnetError, also if the delivered file does not pass the proof in a runtime that is installed here.
    """
    files = delivered.files or (delivered.path,)
    check_handoff(folder, force, files)
    names_of(images)  # for its errors, before any work is done
    source = Source(model, delivered)
    temporary: Path | None = None
    try:
        there = folder.is_dir()  # then within: its parent may be another disk, or not ours to write in
        temporary = Path(tempfile.mkdtemp(prefix=".dbnet-handoff-", dir=folder if there else folder.absolute().parent))
        told = _fill(temporary, delivered, model, source, images)
        seal(temporary, own_files(folder, files))
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        told.append(_proved(temporary, delivered, folder))
        os.chmod(temporary, 0o777 & ~_umask())
        if there:
            _check_way(folder, files)
        place(temporary, folder, files)
    except OSError as error:
        raise DbnetError(f"{folder}: the hand-off could not be written ({error.strerror or error}); nothing in this "
                         f"folder was changed") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return [f"hand-off: {folder}, {size / 1e6:.0f} MB; its README.md says how to prove it", *told]


def check_handoff(folder: Path, force: bool, files: Sequence[Path] = ()) -> None:
    """Raises DbnetError if a hand-off cannot or must not be written there. files: those that are exported; they may
    lie in the folder.
    """
    try:
        if any(os.path.abspath(path) == os.path.abspath(folder) for path in files):
            raise DbnetError(f"{folder}: is the exported file itself; name a folder for --handoff")
        if os.path.lexists(folder):
            _check_there(folder, force, files)
            return
        parent = folder.absolute().parent
        if not parent.is_dir():
            raise DbnetError(f"{parent}: no such folder; create it first")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise DbnetError(f"{parent}: no permission to write here; choose another folder")
    except OSError as error:
        raise DbnetError(f"{folder}: cannot be read ({error.strerror}); name another --handoff") from error


def _check_there(folder: Path, force: bool, files: Sequence[Path]) -> None:
    if not folder.is_dir() or folder.is_symlink():
        raise DbnetError(f"{folder}: is no folder; name another --handoff")
    if set(os.listdir(folder)) - own_files(folder, files) and not force:
        raise DbnetError(f"{folder}: has files in it; name another --handoff, or add --force, which replaces an "
                         f"earlier hand-off and leaves other files alone")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DbnetError(f"{folder}: no permission to write here; choose another folder")
    _check_way(folder, files)


def _check_way(folder: Path, files: Sequence[Path]) -> None:
    """Raises DbnetError, and OSError as the system does."""
    if found := in_the_way(folder, files):
        names = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise DbnetError(f"{folder}: {names}: in the way of a hand-off, and not from an earlier one or changed since; "
                         f"move what you want to keep, or name another --handoff")


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
    files = {path.name: sha256(folder / path.name) for path in delivered.files or (delivered.path,)}
    about = handoff_texts.preprocess(delivered, model, source.title, files)
    (folder / "preprocess.json").write_text(handoff_texts.json_of(about), encoding="utf-8")
    for name, text in handoff_texts.written(delivered, {"sets": done, "about": about}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return [*_told(done), *_without_example(delivered)]


_WHERE = """\
Photographs belong to whoever took them, so none is here, only each as the network gets it (resized.png). Put the
originals here, under these names, and verify.py and detect --check go the whole way from the image file:

"""


def _told(done: Sequence[Shown]) -> list[str]:
    boxes, plural = sum(shown.boxes for shown in done), "s" if len(done) > 1 else ""
    told = [f"it proves with {len(done)} drawn scenes, {boxes} boxes in them" if done[0].ours else
            f"it proves with {len(done)} image{plural}, {boxes} boxes; it holds their resized pictures and names, not "
            f"the image files"]
    if not boxes:
        told.append("warning: the model finds no box in any of them, so boxes are not proved, only maps; give --images "
                    "with texts that it finds")
    return told


def _without_example(delivered: Delivered) -> list[str]:
    why = handoff_texts.example_of(delivered)
    return [f"no example in C++: {why}"] if why else []


def _proved(made: Path, delivered: Delivered, folder: Path) -> str:
    """Runs the hand-off's own verify.py before it is placed. Raises DbnetError if it says no."""
    runtimes = [name for name in handoff_texts.runtimes_of(delivered) if installed(name)]
    if not runtimes:
        return "verify.py was not run: no runtime that opens this file is installed here"
    done = subprocess.run([sys.executable, str(made / "verify.py"), "--runtime", runtimes[0]], capture_output=True,
                          encoding="utf-8", errors="replace", check=False, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    if done.returncode == 3:
        return f"verify.py could not be run in {runtimes[0]}: {short(done.stderr.strip(), 300)}"
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if "DIFFERENT" in line or done.stderr]
        raise DbnetError(f"{folder}: the hand-off does not prove itself in {runtimes[0]}: "
                         f"{short(lines[0] if lines else 'verify.py failed', 300)}; no hand-off was written, "
                         f"please report this")
    largest = max(map(float, re.findall(r"map same, largest difference ([0-9.e+-]+)", done.stdout)))
    return f"verify.py passes in {runtimes[0]}: the map differs from the source's by {largest:.1e} at most"


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
