"""What a training leaves in its folder: `last` to go on from, `best`, checkpoints of single epochs, result.csv, the
curves and the recipe. Each file is replaced in one step, so that a training killed at any moment can go on.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
import re
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import yaml

from converters.api import save_weights
from converters.training_file import write_training
from converters.writing import write_text, write_verified
from dbnet.errors import DbnetError
from dbnet.spec import ModelSpec
from evaluation.training_curves import curves
from evaluation.training_journal import Journal, Row

#: backend -> its own format.
SUFFIXES = {"torch": ".pth", "mindspore": ".ckpt"}
#: Held while a training is at work.
LOCK = ".dbnet-lock"
RESULTS, CURVES, RECIPE = "result.csv", "curves.png", "effective_recipe.yaml"
_EPOCH = re.compile(r"e\d+\.(pth|ckpt)")
_CHECKPOINT = re.compile(r"(last|best|e\d+)\.(pth|ckpt)")
#: What a writer that was killed leaves (`converters.writing`).
_LEFT_OVER = re.compile(r"\.dbnet-.*\.(pth|ckpt|csv|png|yaml)")
_OTHER = "-o train.ckpt_save_dir=..."
#: Columns of `RESULTS`: MindOCR's word for the score.
_COLUMNS = {f.name: {"fscore": "f-score"}.get(f.name, f.name) for f in fields(Row)}


class Folder:
    """backend: whose format checkpoints have."""

    def __init__(self, path: Path, backend: str):
        self.path, self.suffix = path, SUFFIXES[backend]
        #: Files that are given up once `last` is written: a later state of the training, in the other format.
        self.given_up: list[Path] = []
        self._lock: TextIO | None = None
        self._made: list[Path] = []

    @property
    def last(self) -> Path:
        return self.path / f"last{self.suffix}"

    @property
    def best(self) -> Path:
        return self.path / f"best{self.suffix}"

    def of_epoch(self, epoch: int) -> Path:
        return self.path / f"e{epoch}{self.suffix}"

    def find_best(self) -> Path | None:
        """`best`, or the other backend's, whichever is the newer; None if there is none."""
        found = [path for suffix in SUFFIXES.values() if (path := self.path / f"best{suffix}").is_file()]
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

    def trainings(self) -> list[Path]:
        """The files to go on from, in either format."""
        return [path for suffix in SUFFIXES.values() if (path := self.path / f"last{suffix}").is_file()]

    def epochs(self) -> list[Path]:
        """The checkpoints of single epochs, in either format."""
        return [self.path / name for name in self.results() if _EPOCH.fullmatch(name)]

    def is_gone_on_with(self, resume: bool | Path) -> bool:
        """Whether the training in this folder is. resume: a file or folder, or True for what is here."""
        if not isinstance(resume, Path):
            return resume
        return (resume if resume.is_dir() else resume.parent).resolve() == self.path.resolve()

    def check(self, resumed: bool, force: bool) -> None:
        """Raises DbnetError if a training cannot be kept here, or another one is that is neither gone on with nor given
        up. Changes nothing."""
        if not self.path.exists():
            return
        found = self.results()
        if found and not resumed and not force:
            raise DbnetError(f"{self.path}: holds a training already ({', '.join(found[:3])}); go on with it: "
                             f"--resume; or name another folder: {_OTHER}; or begin anew in its place: --force")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise DbnetError(f"{self.path}: no permission to write here; name another folder: {_OTHER}")

    def results(self) -> list[str]:
        """The names of what a training has left here."""
        return sorted(path.name for path in self._listed() if _is_result(path)) if self.path.exists() else []

    def lock(self) -> None:
        """Makes the folder and keeps other trainings out of it until `close` or the end of the process: to be called
        before anything here is looked at. For the one process that writes.

        Raises DbnetError if another training is at work there.
        """
        try:
            while self._lock is None and self._keep_out():
                pass
        except OSError as error:
            self.close()
            raise self._unfit(error) from error

    def open(self, resumed: bool) -> None:
        """`lock`, and clears the folder of what a killed writer left, and of a training that is not `resumed`."""
        self.lock()
        try:
            for path in self._listed():
                if _LEFT_OVER.fullmatch(path.name) or (_is_result(path) and not resumed):
                    path.unlink()
        except OSError as error:
            raise self._unfit(error) from error

    def _keep_out(self) -> bool:
        """Whether it is to be tried again. The system gives the lock back when the process ends, however it ends; the
        file may stay, and means nothing. A file system without locks keeps nobody out."""
        self._make()
        place = self.path / LOCK
        try:
            # A link would have its target emptied.
            handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            return True  # whoever made the folder has just given it up
        except OSError as error:
            if place.is_symlink() or place.exists():
                raise DbnetError(f"{place}: is in the way of the lock that keeps other trainings out "
                                 f"({error.strerror}); remove it, or name another folder: {_OTHER}") from error
            raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise DbnetError(f"{place}: is in the way of the lock that keeps other trainings out (no file); remove "
                             f"it, or name another folder: {_OTHER}")
        file = os.fdopen(handle, "r+", encoding="ascii", errors="replace")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = "".join(filter(str.isprintable, file.read(100)))
            file.close()
            raise DbnetError(f"{self.path}: another training is at work in it{f' ({who})' * bool(who)}; let it "
                             f"end, or name another folder: {_OTHER}") from None
        except OSError:
            file.close()
            return False
        if not _is_same(handle, place):
            file.close()  # whoever had it has removed it meanwhile
            return True
        self._lock = file
        if os.fstat(handle).st_nlink == 1:  # else it is somebody's file, too
            with contextlib.suppress(OSError):  # a full disk may hold a training that is to go on elsewhere
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace"))
        return False

    def _make(self) -> None:
        """The folder, with those above it, as far as they are not there."""
        lacking = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        self._made.extend(path for path in lacking if path not in self._made)

    def close(self) -> None:
        """Lets other trainings in. Folders that were made for nothing go."""
        if self._lock is not None:
            (self.path / LOCK).unlink(missing_ok=True)  # first, so that nobody locks a file that is about to go
            self._lock.close()
            self._lock = None
        with contextlib.suppress(OSError):  # something is in it
            while self._made:
                self._made.pop(0).rmdir()
        self._made = []

    def _unfit(self, error: OSError) -> DbnetError:
        return DbnetError(f"{self.path}: cannot be a training's folder ({error.strerror}); name another: {_OTHER}")

    def _listed(self) -> list[Path]:
        try:
            return list(self.path.iterdir())
        except OSError as error:
            raise self._unfit(error) from error

    def save_last(self, spec: ModelSpec, state: Mapping[str, np.ndarray], journal: Journal) -> None:
        """Raises DbnetError, and leaves the file of before as it is, for a full disk and for weights that are NaN."""
        write_training(self.last, spec, state, journal.to_dict())
        while self.given_up:
            self.given_up.pop().unlink(missing_ok=True)

    def save_best(self, spec: ModelSpec, weights: Mapping[str, np.ndarray]) -> None:
        """Weights alone, for everything but going on."""
        save_weights(dict(weights), self.best, spec=spec, force=True)

    def save_epoch(self, epoch: int, spec: ModelSpec, weights: Mapping[str, np.ndarray]) -> None:
        save_weights(dict(weights), self.of_epoch(epoch), spec=spec, force=True)

    def drop_epoch(self, epoch: int) -> None:
        """Removes a checkpoint that is kept no longer, whichever backend's it is."""
        for suffix in SUFFIXES.values():
            (self.path / f"e{epoch}{suffix}").unlink(missing_ok=True)

    def write_results(self, rows: Sequence[Row]) -> None:
        """result.csv and the curves. An epoch without evaluation has empty cells."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS.values())
        for row in rows:
            writer.writerow([_cell(getattr(row, name)) for name in _COLUMNS])
        write_text(self.path / RESULTS, text.getvalue())
        picture = curves(rows)

        def write(stream: BinaryIO) -> None:
            stream.write(picture)

        write_verified(self.path / CURVES, write, lambda path: None)

    def write_recipe(self, settings: Mapping[str, Any], title: str) -> None:
        """The effective recipe, which reads as the same recipe again. title: a comment at its top."""
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=120)
        write_text(self.path / RECIPE, f"# {title}\n{text}")


def _is_same(handle: int, path: Path) -> bool:
    """Whether an open file is the one that is there now."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _is_result(path: Path) -> bool:
    """What costs time to make again. The effective recipe is there before the first step, and means nothing alone."""
    return _CHECKPOINT.fullmatch(path.name) is not None or path.name in (RESULTS, CURVES)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
