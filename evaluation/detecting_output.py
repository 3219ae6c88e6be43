"""The folder of `dbnet detect`: whose it is, what may be replaced in it, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from dbnet.errors import DbnetError
from evaluation.detecting_inputs import MARKER, SUBFOLDERS

#: Files in the folder itself.
JSON, MINDOCR, ZIP = "detections.json", "det_results.txt", "submit.zip"
#: The first line of `MARKER`; the others are the files that were written, one each.
MAGIC = b'{"dbnet": "detect", "version": 1}\n'
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Before the name of a file that is not whole yet.
PART = ".dbnet-part-"


def check_folder(folder: Path, force: bool) -> None:
    """Raises DbnetError if results cannot or must not be written into `folder`: it need not exist, may be empty, hold
    earlier results (which `OutputFolder` can replace), or with `force` other files. Hidden files do not count.
    """
    try:
        if not os.path.lexists(folder):
            above = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
            if not above.is_dir():
                raise DbnetError(f"{folder}: cannot be created, {above} is no folder; choose another folder with --out")
            if not os.access(above, os.W_OK | os.X_OK):
                raise DbnetError(f"{folder}: no permission to create it in {above}; choose another folder with --out")
            return
        if not folder.is_dir():
            raise DbnetError(f"{folder}: is no folder; choose another with --out")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DbnetError(f"{folder}: no permission to write here; choose another folder with --out")
        for name in (JSON, MINDOCR, ZIP, *SUBFOLDERS):
            if os.path.lexists(folder / name) and (folder / name).is_dir() != (name in SUBFOLDERS):
                raise DbnetError(f"{folder / name}: stands where a result would be written; choose another folder with "
                                 f"--out")
        foreign = next((entry for entry in os.listdir(folder) if not entry.startswith(".")), None)
        if foreign is not None and not force and not is_ours(folder):
            raise DbnetError(f"{folder}: holds files that dbnet detect did not write ({foreign}, ...); choose another "
                             f"folder with --out, or add --force to write beside them")
    except OSError as error:
        raise unwritable(folder, error) from error


def is_ours(folder: Path) -> bool:
    """Whether `dbnet detect` has written here before."""
    try:
        with (folder / MARKER).open("rb") as stream:
            return stream.readline(len(MAGIC)) == MAGIC
    except OSError:
        return False


def check_apart(folder: Path, files: Iterable[str]) -> None:
    """Raises DbnetError if an image lies where results are written: it could be replaced by its own picture."""
    places = tuple(os.path.join(os.path.realpath(folder), name) + os.sep for name in SUBFOLDERS)
    for file in files:
        if os.path.realpath(file).startswith(places):
            raise DbnetError(f"{file}: lies in the output folder {folder}; choose another folder with --out")


def unwritable(path: Path, error: OSError, option: str = "--out") -> DbnetError:
    told = "the disk is full" if error.errno in DISK_FULL else error.strerror
    return DbnetError(f"{path}: cannot be written ({told}); choose another place with {option}")


def reason(error: OSError) -> str:
    """In a user's words."""
    return "the disk is full" if error.errno in DISK_FULL else \
        ": ".join(f"{part}" for part in (error.filename, error.strerror) if part)


class Growing:
    """A file that grows by whole pieces and takes its name when it is closed. Methods raise OSError."""

    def __init__(self, path: Path):
        self._path, self._part = path, path.with_name(PART + path.name)
        self._handle = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._size, self._open = 0, True

    def append(self, piece: bytes) -> None:
        """Adds a piece, or on a full disk nothing of it."""
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest):]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
                os.lseek(self._handle, self._size, os.SEEK_SET)
            raise
        self._size += len(piece)

    def close(self) -> None:
        """Gives the file its name. After an error it is gone."""
        try:
            os.fsync(self._handle)
            os.replace(self._part, self._path)
        except OSError:
            self.abandon()
            raise
        self._release()

    def abandon(self) -> None:
        """Instead of `close`: nothing is left."""
        self._release()
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _release(self) -> None:
        if self._open:  # the number may be another file's the next time
            self._open = False
            os.close(self._handle)


class Zip:
    """A zip of texts that takes its name when it is closed. Methods raise OSError."""

    def __init__(self, path: Path):
        self._path, self._part = path, path.with_name(PART + path.name)
        self._archive, self._broken = zipfile.ZipFile(self._part, "w", zipfile.ZIP_DEFLATED), False

    def add(self, name: str, content: bytes) -> None:
        """Adds a text. After an error the zip is of no use any more, and gone."""
        info = zipfile.ZipInfo(name)  # dated 1980: the same detections make the same zip
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        try:
            self._archive.writestr(info, content)
        except OSError:
            self.abandon()
            raise

    def close(self) -> None:
        """Gives the file its name. After an error it is gone."""
        if self._broken:
            return
        try:
            self._archive.close()
            os.replace(self._part, self._path)
        except OSError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Instead of `close`: nothing is left."""
        self._broken = True
        with contextlib.suppress(OSError, ValueError):
            self._archive.close()
        with contextlib.suppress(OSError):
            self._part.unlink()


class OutputFolder:
    """A folder of results, open: created and locked. earlier: what an earlier run wrote in it and is still listed.

    Every file is listed in `MARKER` before it is written, so that a later run replaces what is there and nothing else.
    What an earlier run wrote stays until `replace` or `keep` is called. Methods raise OSError.
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._marker = os.open(path / MARKER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._folders: set[Path] = set()
        self._new: list[str] = []
        self._waiting = True
        try:
            _lock(self._marker, path)
            self.earlier = self._read()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Lets others write here."""
        os.close(self._marker)

    def holds_earlier(self, kinds: Collection[str]) -> bool:
        """Whether anything of `earlier` in the files and subfolders `kinds` is still there."""
        return any(path.parts[0] in kinds and os.path.lexists(self.path / path) for path in self.earlier)

    def replace(self, kinds: Collection[str]) -> None:
        """Removes what an earlier run wrote as the files and in the subfolders `kinds`; the rest stays, and listed.

        What comes after the first `replace` or `keep` does nothing.
        """
        if not self._waiting:
            return
        going = [path for path in self.earlier if path.parts[0] in kinds]
        self._remove_empty({self._remove(relative) for relative in going})
        gone = set(going)
        self._list([*(str(path) for path in self.earlier if path not in gone), *self._new])

    def keep(self) -> None:
        """Instead of `replace`, where nothing was written: the list is what it was."""
        if self._waiting:
            self._list(list(map(str, self.earlier)))

    def listed(self, relative: str) -> Path:
        """The path of a file below the folder, which is about to be written; its folders exist then."""
        os.write(self._marker, _line(relative))
        if self._waiting:
            self._new.append(relative)
        path = self.path / relative
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        return path

    def put(self, relative: str, content: bytes) -> None:
        """Writes a whole file, or nothing."""
        path = self.listed(relative)
        part = path.with_name(PART + path.name)
        try:
            part.write_bytes(content)
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def _read(self) -> list[PurePosixPath]:
        """What the marker lists; a new marker is begun."""
        with os.fdopen(os.dup(self._marker), "rb") as stream:
            stream.seek(0)
            first = stream.readline(len(MAGIC))
            if first and first != MAGIC:
                raise DbnetError(f"{self.path / MARKER}: is not what dbnet detect writes; choose another folder with "
                                 f"--out")
            found = list(dict.fromkeys(_relative_paths(stream)))
        if not first:
            os.write(self._marker, MAGIC)
        os.lseek(self._marker, 0, os.SEEK_END)
        return found

    def _list(self, names: Sequence[str]) -> None:
        """Makes the marker list `names`. They are among what it lists already, so that it only gets shorter: it is
        whole at any time.
        """
        content = MAGIC + b"".join(map(_line, names))
        os.pwrite(self._marker, content, 0)
        os.ftruncate(self._marker, len(content))
        os.lseek(self._marker, 0, os.SEEK_END)
        self._waiting, self.earlier, self._new = False, [], []

    def _remove(self, relative: PurePosixPath) -> Path:
        """Removes a listed file, if it lies in the folder and not behind a link; returns its own folder."""
        path = self.path / relative
        if os.path.realpath(path.parent) == os.path.join(os.path.realpath(self.path), *relative.parts[:-1]):
            begun = str(relative) in self._new  # then the part is this run's
            for victim in (path, *([] if begun else [path.with_name(PART + path.name)])):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    victim.unlink()
        return path.parent

    def _remove_empty(self, folders: set[Path]) -> None:
        above = {parent for folder in folders for parent in (folder, *folder.parents) if self.path in parent.parents}
        for folder in sorted(above, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # not empty: somebody's own files are in it
                folder.rmdir()


def _lock(handle: int, path: Path) -> None:
    """Raises DbnetError if another run is writing here; where files cannot be locked nobody can tell."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DbnetError(f"{path}: another run is writing here; wait for it, or choose another folder with --out"
                         ) from error
    except OSError:
        return


def _line(relative: str) -> bytes:
    return json.dumps(relative).encode() + b"\n"


def _relative_paths(stream: IO[bytes]) -> Iterator[PurePosixPath]:
    """The lines of a marker that name a file of ours; it is a file in a user's folder, so it is not believed."""
    for line in stream:
        try:
            path = PurePosixPath(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue
        below = len(path.parts) > 1 and path.parts[0] in SUBFOLDERS and ".." not in path.parts
        if (below or str(path) in (JSON, MINDOCR, ZIP)) and "\0" not in str(path):
            yield path
