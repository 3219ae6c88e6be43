"""What both readers of a .mindir, of weights and of the graph, share. Source: mind_ir.proto of MindSpore 2.10."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from converters.protobuf_wire import LENGTH, MalformedError, fields

#: TensorProto.DataType -> the array's type, in the file little-endian.
DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2"),
    6: np.dtype("<i4"), 7: np.dtype("<i8"), 9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8"),
    12: np.dtype("<u4"), 13: np.dtype("<u8"), 16: np.dtype(ml_dtypes.bfloat16), 17: np.dtype("<f8"),
}
#: Of a name, a record or another text.
MAX_TEXT_BYTES = 1 << 20


def messages(view: memoryview, begin: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields (texts, bytes, messages) of a message. Raises MalformedError."""
    for number, wire_type, inner, end in fields(view, begin, stop):
        if wire_type == LENGTH:
            yield number, inner, end


def text(view: memoryview, begin: int, stop: int) -> str:
    """Raises MalformedError if it is too long or no UTF-8."""
    if stop - begin > MAX_TEXT_BYTES:
        raise MalformedError(f"the text at byte {begin} is longer than {MAX_TEXT_BYTES} bytes")
    try:
        return str(view[begin:stop], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"the text at byte {begin} is not UTF-8") from error
