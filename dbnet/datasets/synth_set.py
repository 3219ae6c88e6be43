"""A set of drawn scenes in a folder: images, one prepared label file, and a manifest of how they were made.

All of it is drawn in a hidden folder below the target and moved to its place when it is complete, the manifest last.
Each scene depends on the seed and its own number only, so that neither the count nor the number of processes matters.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbnet.datasets.prepared import digest
from dbnet.datasets.synth_fonts import by_script
from dbnet.datasets.synth_pool import Painter, Plan, Row, drawn
from dbnet.errors import DbnetError
from dbnet.version import VERSION

LABELS, IMAGES, MANIFEST = "det_gt.txt", "images", "manifest.json"
#: Begins the name of the hidden folder in which a set is drawn.
UNFINISHED = ".dbnet-synth-"
MADE_BY = "dbnet data synth"
OUR_IMAGE = re.compile(r"scene_\d+\.jpg")


def draw_set(out: Path, plan: Plan, workers: int | None = None, progress: Callable[[int, int], None] | None = None,
             force: bool = False) -> dict[str, Any]:
    """Draws the scenes into the folder `out` and returns the manifest.

    workers: processes, by default one for each core. With more than one, the calling module must be importable
    (`if __name__ == "__main__":`). Raises DbnetError if the folder cannot be written to, or holds something else.
    """
    check_out(out, force)
    new = not out.exists()
    try:
        out.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=out))
    except OSError as error:
        raise DbnetError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        (folder / IMAGES).mkdir()
        rows = drawn(Painter(plan, folder / IMAGES), workers, progress)
        manifest = _manifest(plan, rows)
        (folder / LABELS).write_text("".join(f"{row.line}\n" for row in rows), encoding="utf-8", newline="\n")
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8",
                                       newline="\n")
        _move(folder, out)
    except OSError as error:
        raise DbnetError(f"{out}: could not be written ({_reason(error)}); nothing was kept") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # it is not empty if all went well
                out.rmdir()
    return manifest


def _reason(error: OSError) -> str:
    return "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror or error)


# The folder -----------------------------------------------------------------------------------------------------------


def check_out(out: Path, force: bool) -> None:
    """Raises DbnetError if a set cannot be drawn into that folder, or would replace what is no drawn set."""
    try:
        if out.exists() and not out.is_dir():
            raise DbnetError(f"{out}: is a file; name a folder")
        if not out.exists() and not out.absolute().parent.is_dir():
            raise DbnetError(f"{out.absolute().parent}: no such folder; create it first")
        inside = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        if inside and not force:
            unfinished = all(name.startswith(UNFINISHED) for name in inside)
            raise DbnetError(f"{out}: holds what an interrupted run left; add --force to draw anew" if unfinished else
                             f"{out}: is not empty; name another folder, or add --force to replace an older drawn set")
        theirs = sorted({LABELS, IMAGES, MANIFEST} & set(inside))
        if theirs and not _is_ours(out):
            raise DbnetError(f"{out}: holds {' and '.join(theirs)} of another origin; name another folder")
    except OSError as error:
        raise DbnetError(f"{out}: cannot be read ({error.strerror}); choose another folder") from error


def _is_ours(out: Path) -> bool:
    """Whether a folder holds a drawn set and no images of others in it."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        ours = all(OUR_IMAGE.fullmatch(path.name) for path in (out / IMAGES).iterdir())
        return ours and bool(manifest["made by"] == MADE_BY)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _move(folder: Path, out: Path) -> None:
    """The finished set to its place, the older one away, with what interrupted runs left."""
    (out / MANIFEST).unlink(missing_ok=True)
    if (out / IMAGES).exists():
        (out / IMAGES).rename(folder / "old")
    for name in (IMAGES, LABELS, MANIFEST):
        os.replace(folder / name, out / name)
    for left in out.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


# The manifest ---------------------------------------------------------------------------------------------------------


def _manifest(plan: Plan, rows: Sequence[Row]) -> dict[str, Any]:
    """All that the bytes of a set depend on, and what they are. No date and no path: alike sets have alike manifests.
    """
    words: Counter[str] = Counter()
    for row in rows:
        words.update(row.fonts)
    photographs = plan.photographs
    images = hashlib.sha256("".join(row.sha256 for row in rows).encode())
    return {
        "made by": MADE_BY, "seed": plan.seed, "count": plan.count, "size": list(plan.size),
        "scripts": list(by_script(plan.faces)), "versions": versions(),
        "images": len(rows), "texts": sum(row.texts for row in rows), "readable": sum(row.readable for row in rows),
        "labels_sha256": digest(row.line for row in rows), "images_sha256": images.hexdigest(),
        "backgrounds": photographs and {"images": len(photographs.files), "sha256": photographs.sha256},
        "fonts": [{"name": face.name, "sha256": face.sha256 or None, "scripts": list(face.scripts),
                   "words": words[face.path]} for face in plan.faces],
    }


def versions() -> dict[str, str]:
    """What else the pixels depend on."""
    from PIL import __version__ as pillow
    from PIL import features
    return {"dbnet-parity": VERSION, "numpy": np.__version__, "opencv": cv2.__version__, "pillow": pillow,
            "freetype": str(features.version("freetype2"))}
