"""The report as JUnit's XML, as Jenkins and GitLab read it: a test for each stage, the boxes, and each score."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.comparison_report import sections
from evaluation.comparison_report.stages import stage_views
from evaluation.comparison_report.verdict import names, verdict
from evaluation.comparison_report.words import cleaned, count, lines, many, one_line, part, parts, real, tolerance

SUITE = "dbnet compare"


@dataclass(frozen=True)
class _Case:
    """kind: `failure`, `error`, `skipped`, or nothing for a test that passed."""

    group: str
    name: str
    kind: str = ""
    message: str = ""
    text: str = ""


def junit(data: Mapping[str, Any]) -> str:
    """One suite. A stage, the boxes, or a score that is different is a failure, and a score that --same-f could not
    show to be the same too; a score that nobody asked a margin for is skipped; what could not be compared is an error.
    """
    cases = [*_finished(data), *_stages(data), *_maps(data), *_boxes(data), *_scores(data), *_images(data)]
    told = verdict(data)
    if not cases:
        cases = [_Case("verdict", "verdict", "error", told.title, told.sentence)]
    elif data.get("verdict") == "different" and not any(case.kind in ("failure", "error") for case in cases):
        cases.append(_Case("verdict", "verdict", "failure", told.title, told.sentence))
    seconds = part(data, "seconds")
    took = real(seconds.get("total")) or sum(max(real(value) or 0.0, 0.0) for value in seconds.values())
    totals = {"tests": str(len(cases)), "failures": _number(cases, "failure"), "errors": _number(cases, "error"),
              "skipped": _number(cases, "skipped"), "time": f"{took:.3f}"}
    top = ElementTree.Element("testsuites", {"name": SUITE, **totals})
    suite = ElementTree.SubElement(top, "testsuite", {"name": one_line(f"{SUITE}: {' and '.join(names(data))}"),
                                                      **totals})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(data):
        ElementTree.SubElement(properties, "property", {"name": name, "value": cleaned(str(value))})
    for case in cases:
        _add(suite, case)
    ElementTree.indent(top)
    return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + ElementTree.tostring(top, encoding="unicode") + "\n"


def _add(suite: ElementTree.Element, case: _Case) -> None:
    node = ElementTree.SubElement(suite, "testcase", {"classname": f"dbnet.compare.{case.group}",
                                                      "name": one_line(case.name), "time": "0.000"})
    if case.kind:
        told = ElementTree.SubElement(node, case.kind, {"message": one_line(case.message)})
        if case.kind != "skipped":
            told.set("type", case.group)
            told.text = cleaned(case.text or case.message)


def _number(cases: list[_Case], kind: str) -> str:
    return str(sum(case.kind == kind for case in cases))


def _properties(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in ("verdict", "first_divergence", "layer", "cause"):
        if data.get(name) is not None:
            yield name, data[name]
    for side in "ab":
        for name in ("file", "sha256"):
            if part(data, side).get(name) is not None:
                yield f"{side}.{name}", part(data, side)[name]
    if command := sections.command(data):
        yield "command", command


def _finished(data: Mapping[str, Any]) -> Iterator[_Case]:
    if data.get("unfinished"):
        yield _Case("verdict", "finished", "error", f"unfinished: {one_line(data['unfinished'])}")


def _stages(data: Mapping[str, Any]) -> Iterator[_Case]:
    views, _ = stage_views(data)
    table = _stage_table(data)
    why = "; ".join(" ".join(filter(None, (row["name"], row["what"]))) for row in sections.causes(data))
    for view in views:
        if view.state == "ok":
            yield _Case("stages", view.stage)
            continue
        message = view.why or f"{view.said}: {view.chained} relative, tolerance {view.cells[2]}"
        if view.first and why:
            message += f"; cause: {why}"
        yield _Case("stages", view.stage, "failure", message, f"{message}\n\n{table}")


def _stage_table(data: Mapping[str, Any]) -> str:
    """The stages as columns of text."""
    views, _ = stage_views(data)
    rows: list[tuple[str, ...]] = [
        ("stage", "max abs", "max rel", "tolerance", "99.9 %", "cosine", "its own", "A to float64", "B to float64",
         "")]
    rows += [(view.stage, *(view.cells[i] for i in (0, 1, 2, 4, 8, 9, 10, 11)), view.said + (f": {view.why}" if view.why
              else "")) for view in views]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def _maps(data: Mapping[str, Any]) -> Iterator[_Case]:
    for row in parts(data, "maps"):
        name = f"{one_line(row.get('stage') or 'probability')}, all images"
        if row.get("passed"):
            yield _Case("images", name)
            continue
        sizes, apart = count(row.get("other_sizes")), real(row.get("max_abs"))
        told = [f"{apart:.3g} apart, tolerance {tolerance(row.get('tolerance'))}"] if apart is not None else []
        told += [f"{many(sizes, 'image has', 'images have')} maps of two sizes"] if sizes else []
        yield _Case("images", name, "failure", "; ".join(told) or "not the same")


def _boxes(data: Mapping[str, Any]) -> Iterator[_Case]:
    boxes, found = part(data, "boxes"), sections.differences(data)
    if not boxes:
        return
    if not found["in_all"]:
        alike = count(boxes.get("a"))
        yield _Case("boxes", "boxes") if alike else _Case("boxes", "boxes", "skipped", "neither of the two finds a box")
        return
    message = (f"{count(boxes.get('identical'))} of {count(boxes.get('a'))} are the same, {count(boxes.get('moved'))} "
               f"moved, {count(boxes.get('lost'))} lost, {count(boxes.get('invented'))} invented")
    text = [" ".join(filter(None, (f"{row['image']}: {row['kind']}", row["at"], row["shift"], row["why"],
                                   "; ".join(row["pixels"])))) for row in found["rows"]]
    yield _Case("boxes", "boxes", "failure", message, "\n".join([message, *text]))


def _scores(data: Mapping[str, Any]) -> Iterator[_Case]:
    for row in sections.scores(data)["rows"]:
        f_a, f_b = (side["cells"][2][0] for side in row["sides"])
        line = f"F {f_a} and {f_b}, difference {row['gap'][2]}"
        if row["interval_90"]:
            line += f", 90 % interval {row['interval_90']}"
        if row["note"]:
            line += f"; {row['note']}"
        if row["verdict"] == "same":
            yield _Case("scores", row["name"])
        elif row["verdict"]:
            message = f"{row['verdict']} within {row['margin']}: {line}"
            yield _Case("scores", row["name"], "failure", message, "\n".join(filter(None, (message, row["why"]))))
        else:
            yield _Case("scores", row["name"], "skipped", f"{line}; no margin was given (--same-f)")


def _images(data: Mapping[str, Any]) -> Iterator[_Case]:
    failed = lines(data, "failed")
    if failed:
        yield _Case("images", "all images could be compared", "error", f"{len(failed)} images failed",
                    "\n".join(failed))
