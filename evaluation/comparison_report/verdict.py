"""What a comparison says, in sentences: the verdict, where, why, and whether it matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.comparison_report.words import (
    count,
    error,
    fixed,
    listed,
    many,
    name_of,
    one_line,
    part,
    parts,
    plain,
    real,
    sequence,
    signed,
)

#: Cause -> what that is, for a reader who has not met it.
CAUSES = {
    "stem_pool": "the pooling behind the first convolution pads another side of the image",
    "depthwise_padding": "the padding of convolutions with stride 2 lies on another side",
    "bn_eps": "batch normalisation adds another small number to its variance",
    "step_function": "the curve that makes the binary map of probability and threshold is another",
    "se_gate": "the gate of the squeeze-and-excitation blocks is another function",
    "concat_order": "the joined feature maps stand in another order",
    "color_order": "the colours reach the network in another order",
    "normalization": "the pixels are normalised with another mean or deviation",
    "resize_rule": "the image is resized by another rule or to another size",
    "transposed_kernel": "kernels are transposed or mirrored",
    "swapped_tensors": "tensors, or what they stand for, changed places",
    "missing_bias": "a bias is missing, or stands where there was none",
    "precision": "the numbers were rounded to fewer digits",
    "upsample_mode": "maps are enlarged by another rule",
    "unknown": "none of the known differences explains it",
}
#: Of the verdicts of an equivalence test, the one to tell first.
_SEVERITY = {"same": 1, "not shown": 2, "different": 3}
SAME, WITHIN, DIFFERENT = "same", "within tolerance", "different"
PIXELS = "pixels"
#: What may become of a box of one model in the other, but for staying the same.
KINDS = ("moved", "lost", "invented")


@dataclass(frozen=True)
class Fact:
    """One answer of the summary. tone: good, bad, or plain."""

    question: str
    answer: str
    detail: str
    tone: str = "plain"


@dataclass(frozen=True)
class Verdict:
    """tone: same, within, different or none. title: a few words. sentence: what a reader needs who reads no further."""

    tone: str
    title: str
    sentence: str
    facts: list[Fact] = field(default_factory=list)


def verdict(data: Mapping[str, Any]) -> Verdict:
    """Of a whole comparison."""
    facts = [fact for fact in (_where(data), _why(data), _boxes(data), _scores(data)) if fact is not None]
    known = {SAME: "same", WITHIN: "within", DIFFERENT: "different"}
    failed, seen = len(sequence(data, "failed")), len(part(data, "images"))
    tone = known.get(str(data.get("verdict")), "none")
    if tone == "none" and failed and not data.get("unfinished"):
        tone = _of_the_others(data)
    title, sentence = _title(data, tone), _sentence(data, tone)
    if failed:
        sentence += f" {many(failed, 'image')} could not be compared."
    if tone in ("same", "within") and (data.get("unfinished") or failed):
        title += f" on {seen:,} of {many(seen + failed, 'image')}, the others failed" if failed else ", so far"
        return Verdict("none", title, sentence, facts)
    return Verdict(tone, title, sentence, facts)


def _of_the_others(data: Mapping[str, Any]) -> str:
    """same or within for the images that did not fail, if nothing differs in them; else none."""
    rows = [*parts(data, "stages"), *parts(data, "maps")]
    boxes = part(data, "boxes")
    if not part(data, "images") or not all(row.get("passed") for row in rows) or any(
            count(boxes.get(kind)) for kind in KINDS):
        return "none"
    return "within" if any(real(row.get("max_abs")) for row in rows) else "same"


def names(data: Mapping[str, Any]) -> tuple[str, str]:
    """The files' names, A and B."""
    a, b = (part(data, side).get("file") for side in "ab")
    return name_of(a) if a else "A", name_of(b) if b else "B"


def _title(data: Mapping[str, Any], tone: str) -> str:
    if tone == "different":
        first = data.get("first_divergence")
        return f"Different, first at {one_line(first)}" if first else "Different in what they find"
    if tone == "none":
        return "Unfinished" if data.get("unfinished") else "No verdict" if _looked_at(data) else \
            "Nothing could be compared"
    return {"same": "The same", "within": "The same within tolerance"}[tone]


def _looked_at(data: Mapping[str, Any]) -> bool:
    return bool(parts(data, "stages") or part(data, "images"))


def _sentence(data: Mapping[str, Any], tone: str) -> str:
    stages = len(parts(data, "stages"))
    images = len(part(data, "images"))
    on = f" on {many(images, 'image')}" if images else ""
    if tone == "none":
        return "There is no verdict: the comparison stopped before. What was compared until then stands below." \
            if data.get("unfinished") else "There is no verdict. What could be compared stands below." \
            if _looked_at(data) else "There is no verdict: no stage and no image could be compared."
    if tone == "same":
        agree = f"All {many(stages, 'stage')} agree bit for bit." if stages > 1 else f"No difference was found{on}."
        return f"{agree} {_matters(data)}".rstrip()
    if tone == "within":
        what = f"none of {many(stages, 'stage')} differs by more than its" if stages > 1 else \
            f"nothing{on} differs by more than the"
        return f"Not bit for bit, but {what} tolerance. {_matters(data)}".rstrip()
    if not data.get("first_divergence"):
        found = (f"No stage differs by more than its tolerance, but what is found{on} does." if stages
                 else f"What the two models find{on} is not the same.")
        return f"{found} Their box rules differ." if _rules(data) else found
    cause = one_line(data.get("cause") or "")
    why = "" if not cause else " No known difference explains it." if cause == "unknown" else \
        f" The cause is {_named(cause)}."
    first = one_line(data["first_divergence"])
    where = "The two models are given other pixels." if first == PIXELS else f"The two models part at {first}."
    if stage := _behind_the_pixels(data):
        causes = [one_line(row.get("cause") or "unknown") for row in _network_causes(data)]
        why += f" The networks differ too, first at {stage}" + (
            f": the cause is {_named(causes[0])}." if causes and causes[0] != "unknown" else
            ", which no known difference explains.")
    return f"{where}{why} {_matters(data)}".rstrip()


def _named(cause: str) -> str:
    return f"{cause}: {CAUSES[cause]}" if cause in CAUSES else cause


def _behind_the_pixels(data: Mapping[str, Any]) -> str:
    """The first stage of the network that differs where the pixels do already; empty if none does."""
    rows = parts(data, "stages") if data.get("first_divergence") == PIXELS else []
    return next((one_line(row.get("stage")) for row in rows if row.get("stage") not in (PIXELS, None)
                 and row.get("passed") is False), "")


def _network_causes(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in parts(data, "causes") if row.get("stage") not in ("", PIXELS, None)]


def _rules(data: Mapping[str, Any]) -> str:
    """In what the two box rules differ."""
    a, b = (part(data, side, "boxes") for side in "ab")
    return ", ".join(f"{one_line(name)} {one_line(a[name])} and {one_line(b[name])}" for name in a
                     if name in b and a[name] != b[name])


def _matters(data: Mapping[str, Any]) -> str:
    """Whether boxes and F-score care; nothing where neither was looked at."""
    boxes, score = part(data, "boxes"), _score(data)
    fell = "" if score is None or not score[2] else f"the F-score {'falls' if score[2] < 0 else 'rises'} by " \
                                                    f"{signed(abs(score[2]))[1:]} ({one_line(score[0])})"
    if not boxes:
        return f"It matters: {fell}." if fell else ""
    if not any(count(boxes.get(kind)) for kind in KINDS):
        if not count(boxes.get("a")):
            return f"Neither finds a box, which proves nothing of boxes{f'; {fell}' if fell else ''}."
        return f"All {many(count(boxes.get('a')), 'box', 'boxes')} are the same{f', but {fell}' if fell else ''}."
    return (f"It reaches the boxes: {count(boxes.get('identical')):,} of {many(count(boxes.get('a')), 'box', 'boxes')} "
            f"stay where they were{', and ' + fell if fell else ''}.")


def _where(data: Mapping[str, Any]) -> Fact | None:
    rows = parts(data, "stages")
    first = data.get("first_divergence") or next((row.get("stage") for row in rows if row.get("passed") is False), None)
    if not rows and not first:
        return None
    if not first:
        worst = max((real(row.get("max_rel")) or 0.0 for row in rows), default=0.0)
        return Fact("Where", "nowhere", f"{many(len(rows), 'stage')}, largest relative error {error(worst)}", "good")
    own = [one_line(stage) for stage in sequence(data, "own_errors")]
    layer, detail = data.get("layer"), []
    if first == PIXELS:
        behind = [row.get("passed") for row in rows if row.get("stage") != PIXELS]
        agree = ", whose stages agree on the same pixels" if behind and all(behind) else ""
        stage = _behind_the_pixels(data)
        too = f"; the networks differ too, first at {stage}" if stage else ""
        detail.append(f"before the network{agree}{too}")
    if layer and layer != first:
        detail.append(f"in {one_line(layer)}")
    if len(own) > 1:
        detail.append(f"own errors at {listed(own)}")
    elif own:
        detail.append("the later stages only inherit it" if own == [first] else f"own error at {own[0]}")
    return Fact("Where", one_line(first), "; ".join(detail), "bad")


def _why(data: Mapping[str, Any]) -> Fact | None:
    cause = data.get("cause")
    if not cause:
        rules = _rules(data) if data.get("verdict") == DIFFERENT else ""
        return Fact("Why", "the box rules differ", rules) if rules else None
    told = parts(data, "causes")
    if not told:
        return Fact("Why", one_line(cause), CAUSES.get(str(cause), ""), "plain")
    explained = any(row.get("explained") for row in told)
    detail = one_line(told[0].get("what") or CAUSES.get(str(cause), ""))
    stage, of_network = _behind_the_pixels(data), _network_causes(data)
    if len(told) > 1:
        detail += f"; and {listed([one_line(row.get('cause')) for row in told[1:]])}"
    if stage:
        explained = bool(of_network and of_network[-1].get("explained"))
        detail += f". {stage} differs on the same pixels too"
        detail += "" if explained else ", and no known difference explains all of that"
    left = real(told[-1].get("residual"))
    if left is not None and told[-1].get("before") != left and (of_network or not stage):
        detail += f". Corrected, {'nothing' if left == 0 else f'an error of {error(left)}'} is left"
    return Fact("Why", one_line(cause), detail, "plain" if explained else "bad")


def _boxes(data: Mapping[str, Any]) -> Fact | None:
    boxes = part(data, "boxes")
    if not boxes:
        return None
    kinds = [(count(boxes.get(kind)), kind) for kind in KINDS]
    if not any(number for number, _ in kinds):
        if not count(boxes.get("a")):
            return Fact("Boxes", "none", "neither finds a box, which proves nothing")
        return Fact("Boxes", "all the same", f"{many(count(boxes.get('a')), 'box', 'boxes')} with the same corners",
                    "good")
    answer = ", ".join(f"{number:,} {kind}" for number, kind in kinds if number)
    shift = real(boxes.get("max_shift"))
    far = f"; the farthest by {plain(shift, 1)} px" if shift else ""
    return Fact("Boxes", answer, f"{count(boxes.get('identical')):,} of {count(boxes.get('a')):,} are the same{far}",
                "bad")


def _score(data: Mapping[str, Any]) -> tuple[str, dict[str, Any], float] | None:
    """The protocol to tell of, its row, and the difference in F: that with the worst verdict, then the largest."""
    rows = [(name, part(row)) for name, row in part(data, "scores", "protocols").items()]
    known = [(name, row, gap) for name, row in rows if (gap := real(part(row, "difference").get("fscore"))) is not None]
    return max(known, default=None, key=lambda item: (
        _SEVERITY.get(str(part(item[1], "same_f").get("verdict")), 0), abs(item[2])))


def _scores(data: Mapping[str, Any]) -> Fact | None:
    found = _score(data)
    if found is None:
        return None
    name, row, gap = found
    a, b = (fixed(part(row, side).get("fscore")) for side in "ab")
    test = part(row, "same_f")
    said = {"same": ("shown to be the same", "good"), "different": ("shown to be different", "bad"),
            "not shown": ("not shown to be the same", "plain")}.get(str(test.get("verdict")))
    detail = f"{a} → {b} ({one_line(name)})"
    if said:
        detail += f"; within ±{real(test.get('margin')) or 0:g}: {said[0]}"
        if test.get("verdict") == SAME and row.get("note"):  # a point for an interval is a weaker proof
            return Fact("F-score", signed(gap), f"{detail} on these images only: {one_line(row['note'])}")
    elif gap == 0:
        detail += "; no difference found, which is not yet a proof of sameness"
    return Fact("F-score", signed(gap), detail, said[1] if said else "plain")
