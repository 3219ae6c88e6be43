"""A runtime that does not take the file that was made for it."""

from __future__ import annotations

from dbnet.errors import DbnetError, short


class RefusedError(DbnetError):
    """runner: as it is asked for. runtime: with its version. content: of the file, where it is not the target itself,
    and its suffix.
    """

    def __init__(self, runner: str, runtime: str, why: str, content: bytes | None = None, suffix: str = ""):
        super().__init__(f"{runtime} refuses it: {short(why)}")
        self.runner, self.content, self.suffix = runner, content, suffix
