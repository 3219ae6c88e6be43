"""Which output of a foreign graph is the probability, and what its others are: the threshold, and a training's step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from converters.onnx_match import Match, MismatchError
from converters.onnx_match_backbones import backbone
from converters.onnx_match_neck import head, neck, probability_of
from converters.onnx_reading import Reader
from converters.onnx_terms import Term
from dbnet.parameters import BACKBONE_CHANNELS


@dataclass(frozen=True)
class Called:
    """What names say of an output: its own, and those of its last layer. They decide between two that fit, no more."""

    reader: Reader

    def thresholds(self, name: str, term: Term) -> str | None:
        """A name that is a threshold branch's in every project; None if there is none."""
        layer = logits_of(term)
        names = [name, layer.label, *(key for key, value in self.reader.values.items() if value is layer["weight"])] \
            if layer.op == "ConvTranspose" else [name]
        return next((name for name in names if "thresh" in name.lower()), None)

    def note(self, name: str, term: Term) -> list[str]:
        """Of the output that is taken for the probability."""
        found = None if term.op == "Concat" else self.thresholds(name, term)
        return [] if found is None else [
            f"the output {name[:60]} is taken for the probability, but it is called as a threshold branch is "
            f"({found[:60]}): if it is one, these weights detect nothing; export the network with its probability"]


def matched(outputs: dict[str, Term], called: Called) -> tuple[str, int | None, Match]:
    """The output that is the probability, its channel in it, and what was found. Raises MismatchError."""
    maps: list[tuple[str, int | None, Term]] = []
    for name, output in outputs.items():
        if output.op == "Concat" and all(term.channels == 1 for term in output.args):  # as in training: P, T, B
            maps += [(name, i, term) for i, term in enumerate(output.args)]
        else:
            maps.append((name, None, output))
    # Logits last: they may be an output too.
    maps.sort(key=lambda entry: (probability_of(entry[2]).op != "Sigmoid",
                                 called.thresholds(entry[0] if entry[1] is None else "", entry[2]) is not None))
    steps = [steep for *_, term in maps if (steep := _step(term)) is not None]
    first: MismatchError | None = None
    for name, channel, term in maps:
        if _step(term) is not None or any(probability_of(term) is step.threshold for step in steps):
            continue
        found = Match()
        try:
            fused = head(found, term, "head.segm")
            maps_of = neck(found, fused)
            _backbone(found, maps_of)
        except MismatchError as error:
            first = first or error
            continue
        _threshold(found, fused, [other for *_, other in maps if logits_of(other) is not logits_of(term)])
        for step in steps:
            if step.probability is probability_of(term):
                found.semantics |= step.semantics
        return name, channel, found
    raise first or MismatchError("it has no output that could be a probability")


def logits_of(term: Term) -> Term:
    """Before the last sigmoid."""
    term = probability_of(term)
    return term.args[0] if term.op == "Sigmoid" else term


@dataclass(frozen=True)
class _Step:
    """The approximate binary map of a training. semantics: step_function and k, empty for another function of both."""

    probability: Term
    threshold: Term
    semantics: dict[str, Any]


def _step(term: Term) -> _Step | None:
    """Of sigmoid(k (P - T)) or sigmoid(k P - T)."""
    inner = term.args[0] if term.op == "Sigmoid" else term
    outer, inner = (inner["a"], inner.args[0]) if inner.op == "Linear" else (1.0, inner)
    if term.op != "Sigmoid" or inner.op != "Sub":
        return None
    (p, a), (t, b) = ((arg.args[0], arg["a"]) if arg.op == "Linear" else (arg, 1.0) for arg in inner.args)
    if outer < 0:  # -k (T - P)
        p, a, t, b, outer = t, b, p, a, -outer
    k = float(f"{outer * a:.6g}")
    plain = b == 1 and 1 in (outer, a) and 0 < k <= 1e6
    return _Step(p, t, {"step_function": "paper" if a == 1 else "mindocr", "k": k} if plain else {})


def _threshold(found: Match, fused: Term, others: Sequence[Term]) -> None:
    """Adds the threshold branch, if one of the other outputs is that."""
    for term in others:
        trial = Match()
        try:
            if _step(term) is None and head(trial, term, "head.thresh") is fused:
                found.weights |= trial.weights
                found.norms += trial.norms
                return
        except MismatchError:
            continue


def _backbone(found: Match, maps: tuple[Term, ...]) -> None:
    channels = tuple(term.channels for term in maps)
    name = next((name for name, counts in BACKBONE_CHANNELS.items() if counts == channels), None)
    if name is None:
        raise MismatchError(f"its backbone gives maps of {', '.join(map(str, channels))} channels, those here "
                            f"{'; '.join(', '.join(map(str, c)) for c in BACKBONE_CHANNELS.values())}")
    found.semantics["backbone"] = name
    backbone(found, maps)
