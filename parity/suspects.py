"""Differences between models that have a name: in what their records say, and in their tensors.

`Fault`s are what two models are known to differ in; a candidate is mended of any of them apart from the others. What
the records do not tell, for one of them may be wrong, is guessed: `guesses`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

from dbnet.spec import ModelSpec
from parity.lab import Network
from parity.tensor_ways import Difference, Way, differences

#: The names that a cause can have.
CAUSES = ("stem_pool", "depthwise_padding", "bn_eps", "step_function", "se_gate", "concat_order", "color_order",
          "normalization", "resize_rule", "transposed_kernel", "swapped_tensors", "missing_bias", "precision",
          "upsample_mode", "unknown")
#: Field of a spec -> the cause's name. Offsets that are read otherwise are maps that stand for others: CAUSES, which
#: scripts rely on, has no name of its own for them.
FIELDS = {"stem_pool": "stem_pool", "depthwise_padding": "depthwise_padding", "norm_eps": "bn_eps",
          "se_gate": "se_gate", "neck_gate": "se_gate", "upsampling": "upsample_mode", "offsets": "swapped_tensors",
          "step_function": "step_function", "k": "step_function"}
#: What projects use for the epsilon of batch norms.
EPSILONS = (1e-5, 1e-3, 1e-4, 1e-6, 2e-5, 1e-2)


@dataclass(frozen=True, eq=False)
class Fault:
    """cause: of CAUSES. what: in words. way: in which tensors differ, or None; field, value: of the spec, and what it
    should be."""

    cause: str
    what: str
    way: Way | None = None
    field: str = ""
    value: Any = None


@dataclass(frozen=True, eq=False)
class Faults:
    """All that a candidate is known to differ in from a reference."""

    candidate: Network
    reference: Network
    known: list[Fault]
    tensors: list[Difference]

    def mended(self, faults: Collection[Fault]) -> Network:
        """The candidate without some of its faults."""
        spec = replace(self.candidate.spec, **{fault.field: fault.value for fault in faults if fault.field})
        ways = {fault.way for fault in faults if fault.way is not None}
        weights = dict(self.candidate.weights)
        for each in self.tensors:
            if ways.issuperset(each.ways):
                weights[each.name] = self.reference.weights[each.name]
            elif each.moved is not None and each.ways[0] in ways:
                weights[each.name] = each.moved
        return Network(spec, weights)


def faults(candidate: Network, reference: Network) -> Faults:
    """What is known: tensors first, for a rounded or swapped one must not pass for another epsilon."""
    tensors = list(differences(candidate.weights, reference.weights))
    names: dict[Way, list[str]] = {}
    for each in tensors:
        for way in each.ways:
            names.setdefault(way, []).append(each.name)
    known = [Fault(way[0], f"{_some(found)}: {way[1]}", way) for way, found in names.items()]
    for field, cause in FIELDS.items():
        mine, right = getattr(candidate.spec, field), getattr(reference.spec, field)
        # A gate that is not there has no weights either.
        if mine != right and "none" not in (mine, right) and _matters(field, candidate.spec, reference.spec):
            known.append(Fault(cause, f"{field} is {mine}, not {right}", field=field, value=right))
    return Faults(candidate, reference, known, tensors)


def guesses(candidate: Network) -> Iterator[Fault]:
    """Every other value that a field of the spec could have."""
    hints = get_type_hints(ModelSpec)
    for field, cause in FIELDS.items():
        mine = getattr(candidate.spec, field)
        others: tuple[Any, ...] = EPSILONS if field == "norm_eps" else get_args(hints[field])  # none for a number
        for value in others:
            if value != mine and "none" not in (value, mine) and _matters(field, candidate.spec):
                yield Fault(cause, f"{field} is {mine}, not {value}", field=field, value=value)


def _matters(field: str, *specs: ModelSpec) -> bool:
    return field == "norm_eps" or any(field in spec.relevant_semantics() for spec in specs)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
