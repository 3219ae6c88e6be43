"""Two weight files, tensor by tensor under canonical names."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from converters.load import LoadedModel
from converters.weights import same_bits


@dataclass
class TensorDifference:
    """One tensor that differs. max_rel: of the largest value in A. None where shapes differ or A is zero."""

    name: str
    why: str
    max_abs: float | None = None
    max_rel: float | None = None


@dataclass
class WeightComparison:
    """identical: tensors equal bit for bit; only_a, only_b: names; semantics: field -> (in A, in B). unread: "a", "b"
    -> why its graph may compute something else than these semantics, see `LoadedModel.unread`.
    """

    identical: int = 0
    different: list[TensorDifference] = field(default_factory=list)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    semantics: dict[str, tuple[object, object]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Same tensors, and the same semantics as far as they are known."""
        return not (self.different or self.only_a or self.only_b or self.semantics)

    @property
    def same(self) -> bool:
        """Same tensors and same computation; pixel format and box defaults do not count."""
        return self.equal and not self.unread


def compare_weights(a: LoadedModel, b: LoadedModel) -> WeightComparison:
    """Compares values bit for bit (dtype included), and the semantics that both files claim."""
    result = WeightComparison(only_a=[n for n in a.weights if n not in b.weights],
                              only_b=[n for n in b.weights if n not in a.weights])
    for name, ours in a.weights.items():
        if name not in b.weights:
            continue
        theirs = b.weights[name]
        if same_bits(ours, theirs):
            result.identical += 1
        else:
            result.different.append(_difference(name, ours, theirs))
    sa, sb = a.record.spec.relevant_semantics(), b.record.spec.relevant_semantics()
    result.semantics = {key: (sa.get(key), sb.get(key)) for key in {**sa, **sb} if sa.get(key) != sb.get(key)}
    result.unread = {side: model.unread for side, model in (("a", a), ("b", b)) if model.unread is not None}
    return result


def _difference(name: str, a: np.ndarray, b: np.ndarray) -> TensorDifference:
    if a.shape != b.shape:
        return TensorDifference(name, f"shape {a.shape} against {b.shape}")
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    max_abs = float(np.abs(wide_a - wide_b).max())
    scale = float(np.abs(wide_a).max())
    why = "values" if a.dtype == b.dtype else f"dtype {a.dtype.name} against {b.dtype.name}"
    return TensorDifference(name, why, max_abs, max_abs / scale if scale else None)
