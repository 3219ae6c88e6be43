"""The work so far of a kit's run, on disk after every step: whatever ends it, no more than the step under way is lost.

Beside the result, in `RESULT.work/`: `kit.json` with the kit that it belongs to, and a folder for each mode with
`of.json` (where and by what it was run) and for each step `NAME.json` and, of recorded images, `NAME.trace`.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import IO, Any

from dbnet.errors import DbnetError, shown
from dbnet.writing import replacing
from parity.kit_plan import MODES, Step

VERSION = 1


def work_of(result: Path) -> Path:
    """Where the work for a result lies."""
    return result.with_name(f"{result.name}.work")


class Work:
    """folder: of everything so far. Belongs to one kit and one result, and to one process at a time. notes: what a
    reader should know of it."""

    def __init__(self, result: Path, kit: str):
        self.folder = work_of(result)
        self.notes: list[str] = []
        self._lock = self._locked()
        try:
            self._belong(kit)
        except DbnetError:
            self.close()
            raise

    def begin(self, identity: dict[str, Any], force: bool = False) -> list[str]:
        """Takes the work for what `identity` says: device, versions, threads. The lines to tell.

        Raises DbnetError, and changes nothing, if it holds what was run otherwise; `force` forgets that.
        """
        other = self.other(identity, force)
        try:
            for mode in other:
                shutil.rmtree(self.folder / mode)
            for mode in MODES:
                (self.folder / mode).mkdir(exist_ok=True)
                self._write(self.folder / mode / "of.json", identity)
        except OSError as error:
            raise DbnetError(f"{self.folder}: cannot be written ({error.strerror}); name another --out") from error
        again = [f"{mode}: begins again, {_apart(before or {}, identity)}" for mode, before in other.items()]
        return self.notes + again

    def other(self, identity: dict[str, Any], force: bool = False) -> dict[str, dict[str, Any] | None]:
        """The modes in which something was run otherwise, and how. Raises DbnetError for any, unless `force`."""
        other: dict[str, dict[str, Any] | None]
        other = {mode: before for mode in MODES if (before := self._read(self.folder / mode / "of.json")) != identity
                 and self._holds(mode)}
        if other and not force:
            mode, before = next(iter(other.items()))
            whose = (f"{before.get('device')}, MindSpore {before.get('mindspore')} ({_apart(before, identity)})"
                     if before else f"nobody knows what ({self.folder / mode / 'of.json'} is damaged)")
            raise DbnetError(f"{self.folder}: holds work of {whose}; nothing was started; name another --out, or "
                             f"--force to begin again")
        return other

    def _holds(self, mode: str) -> bool:
        """Whether anything was done in a mode."""
        folder = self.folder / mode
        return folder.is_dir() and any(path.name != "of.json" and path.name[0] != "." for path in folder.glob("*.json"))

    def path(self, step: Step, suffix: str) -> Path:
        """Of a step's file."""
        return self.folder / step.mode / f"{step.name}{suffix}"

    def done(self, step: Step) -> dict[str, Any] | None:
        """What a step has given, None if it is still to be done."""
        found = self._read(self.path(step, ".json"))
        if found is None or (step.kind == "record" and not self.path(step, ".trace").is_file()):
            return None
        return found

    def save(self, step: Step, given: dict[str, Any]) -> None:
        """Raises DbnetError for a full disk."""
        self._write(self.path(step, ".json"), given)

    def close(self) -> None:
        """Lets another process have it."""
        self._lock.close()

    def forget(self, step: Step) -> None:
        """Has a step done again."""
        for suffix in (".json", ".trace"):
            self.path(step, suffix).unlink(missing_ok=True)

    def _belong(self, kit: str) -> None:
        """Raises DbnetError if what is there is another kit's."""
        found = self._read(self.folder / "kit.json")
        if found is None and not any((self.folder / mode).exists() for mode in MODES):
            self._write(self.folder / "kit.json", {"version": VERSION, "kit": kit})
        elif found is None or found.get("version") != VERSION or found.get("kit") != kit:
            theirs = shown(str((found or {}).get("kit"))[:12])
            raise DbnetError(f"{self.folder}: holds the work of another kit ({theirs}..., this is {kit[:12]}...); name "
                             f"another --out, or remove that folder")

    def _locked(self) -> IO[str]:
        try:
            self.folder.mkdir(exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise DbnetError(f"{self.folder}: cannot be written ({error.strerror}); name another --out") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise DbnetError(f"{self.folder}: another run.py is at work there; wait for it, or name another "
                             f"--out") from error
        except OSError as error:  # a file system without locks
            self.notes.append(f"note: {self.folder} cannot be locked ({error.strerror}); start no second run.py there")
        return lock

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        """None if it is not there, or not whole: then the step is done again."""
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    @staticmethod
    def _write(path: Path, data: dict[str, Any]) -> None:
        with replacing(path) as (stream, _temporary):
            stream.write(json.dumps(data, sort_keys=True).encode())


def _apart(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In what two runs were made otherwise."""
    return ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in {**now, **before}
                     if before.get(name) != now.get(name))
