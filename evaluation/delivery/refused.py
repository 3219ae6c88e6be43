"""A runtime that does not take the file that was made for it."""

from __future__ import annotations

from pathlib import Path

from dbnet.errors import DbnetError, short


class RefusedError(DbnetError):
    """runner: as it is asked for. runtime: with its version. content: of the file, where it is not the target itself,
    and its suffix. path: of the file, aside and soon gone, which `why` may name.
    """

    def __init__(self, runner: str, runtime: str, why: str, content: bytes | None = None, suffix: str = "",
                 path: Path | None = None):
        super().__init__(f"{runtime} refuses it: {short(why if path is None else why.replace(f'{path.parent}/', ''))}")
        self.runner, self.content, self.suffix = runner, content, suffix
