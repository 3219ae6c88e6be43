"""The one exception a user may meet: a single line that says what, where and what to do.

The command line turns it into exit code 3. Anything else that escapes is a bug of ours.
"""

from typing import Any


def shown(value: Any, most: int = 80) -> str:
    """A value that came with a file, for a message: as `repr` has it, at most so many characters and an ellipsis."""
    text = repr(value[:most + 1] if isinstance(value, (str, bytes, list)) else value)
    return text if len(text) <= most + 2 else f"{text[:most]}..."


def short(text: object, most: int = 240) -> str:
    """What an error says, printable and cut in the middle to so many characters: it may quote a file at length."""
    line = escaped(str(text))
    return line if len(line) <= most else f"{line[:most // 2]} ... {line[-most // 2:]}"


def escaped(text: str) -> str:
    """Printable: names and texts of files can hold what moves a terminal's cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class DbnetError(Exception):
    """Could not do what was asked. The message is one line: what, where, what to do."""

    def __init__(self, message: str):
        super().__init__(escaped(" ".join(message.split())))


class UnknownNetworkError(DbnetError):
    """A whole file whose tensors are no known network's, or are not read here. An .onnx may still run as it is."""
