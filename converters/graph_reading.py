"""What a graph says of the network: the answer of whoever reads one (`TensorFile.read_graph`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GraphReading:
    """semantics: fields of ModelSpec -> what the graph computes; notes: what in it could not be read, one phrase each.
    """

    semantics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
