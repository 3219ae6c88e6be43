"""What both readers of a .mindir, of weights and of the graph, share. Source: mind_ir.proto of MindSpore 2.10."""

from __future__ import annotations

import ml_dtypes
import numpy as np

#: TensorProto.DataType -> the array's type, in the file little-endian.
DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2"),
    6: np.dtype("<i4"), 7: np.dtype("<i8"), 9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8"),
    12: np.dtype("<u4"), 13: np.dtype("<u8"), 16: np.dtype(ml_dtypes.bfloat16), 17: np.dtype("<f8"),
}
