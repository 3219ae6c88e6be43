"""The report as Markdown (GitHub's), for comments on pull requests and summaries of CI."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.comparison_report import sections
from evaluation.comparison_report.marked import code, table, text
from evaluation.comparison_report.stages import stage_views
from evaluation.comparison_report.verdict import names, verdict
from evaluation.comparison_report.words import lines, part

#: First in the file, unseen, so that nothing but a report of ours is ever replaced by one.
MARK = "<!-- dbnet compare -->"
#: Rows of a table at most; a comment on a pull request takes 65,536 characters.
MOST = 20


def markdown(data: Mapping[str, Any]) -> str:
    """Verdict first; sections without content are left out."""
    told = verdict(data)
    blocks = [MARK, f"## {text(told.title)}"]
    if data.get("unfinished"):
        blocks.append(f"> **Unfinished.** {text(data['unfinished'])}")
    blocks.append("A is {}, B is {}.".format(*(code(name) for name in names(data))))
    blocks.append(text(told.sentence))
    blocks += table(("", "", ""), ([text(fact.question), f"**{text(fact.answer)}**", text(fact.detail)]
                                   for fact in told.facts))
    for section in (_stages, _causes, _images, _boxes, _scores, _swap, _lists, _again):
        blocks += section(data)
    return "\n\n".join(blocks) + "\n"


def _titled(title: str, blocks: list[str]) -> list[str]:
    return [f"### {title}", *blocks] if blocks else []


def _stages(data: Mapping[str, Any]) -> list[str]:
    views, _ = stage_views(data)
    header = ("stage", "verdict", "max abs", "max rel", "tolerance", "99.9 %", "cosine", "its own", "A to float64",
              "B to float64")
    rows = [[text(view.stage), f"**{view.said}**" if view.state != "ok" else view.said,
             *(view.cells[i] for i in (0, 1, 2, 4, 8, 9, 10, 11))] for view in views if not view.why]
    rows += [[text(view.stage), f"**{view.said}**: {text(view.why)}", *[""] * 8] for view in views if view.why]
    return _titled("Stage by stage", table(header, rows, right=range(2, 99)))


def _causes(data: Mapping[str, Any]) -> list[str]:
    rows = [[text(row["name"]), text(row["what"]), row["before"], row["residual"],
             row["said"]] for row in sections.causes(data)]
    return _titled("Why they part", table(("cause", "what is different", "error before", "left once corrected",
                                           "explains it"), rows))


def _images(data: Mapping[str, Any]) -> list[str]:
    found = sections.images(data, ())
    rows = [[code(row["name"]), row["max_abs"], row["mean_abs"], *row["cells"], row["shift"]]
            for row in found["rows"] if row["differs"]]
    blocks = [found["told"] + (f"; the worst {MOST}:" if len(rows) > MOST else ".")] if found["in_all"] else []
    return _titled("Images", blocks + table(
        ("image", "max Δp", "mean Δp", "boxes A", "boxes B", "identical", "moved", "lost", "invented",
         "max shift, px"), rows[:MOST], right=range(1, 99)))


def _boxes(data: Mapping[str, Any]) -> list[str]:
    found = sections.differences(data)
    rows = [[code(row["image"]), text(row["kind"]), row["at"], row["shift"], text(row["why"]),
             "<br>".join(row["pixels"])] for row in found["rows"][:MOST]]
    blocks = table(("image", "box", "where", "by", "why", "deciding pixels, A → B"), rows)
    if found["in_all"] > len(rows) and blocks:
        blocks.append(f"{found['in_all'] - len(rows)} more are not shown.")
    return _titled("Boxes that differ", blocks)


def _scores(data: Mapping[str, Any]) -> list[str]:
    rows = []
    for row in sections.scores(data)["rows"]:
        said = " ".join(filter(None, (f"**{text(row['verdict'])}** within {row['margin']}" if row["verdict"] else "",
                                      text(row["p"]), text(row["why"]), text(row["note"]))))
        f_a, f_b = (side["cells"][2] for side in row["sides"])
        rows.append([text(row["name"]), *(f"{value} ({ends})" if ends else value for value, ends in (f_a, f_b)),
                     row["gap"][2], row["interval"], said])
    return _titled("Scores", table(("protocol", "F of A", "F of B", "B − A", "95 %", "the same?"), rows))


def _swap(data: Mapping[str, Any]) -> list[str]:
    found = sections.swap(data)
    rows = [[text(row["part"]), text(row["what"]), row["shares"]["boxes"], row["boxes"], row["alone_boxes"],
             row["shares"]["fscore"], row["fscore"], row["alone_fscore"]] for row in found["rows"]]
    blocks = [f"{text(found['summary'])}."] if found["summary"] else []
    blocks += table(("part", "what", "share of boxes", "boxes", "alone", "share of F", "F", "alone"), rows,
                    right=range(2, 99))
    return _titled("What makes the difference", blocks + _items(found["notes"]))


def _items(texts: Sequence[str]) -> list[str]:
    more = [f"- {len(texts) - MOST} more"] if len(texts) > MOST else []
    return ["\n".join([*(f"- {text(line)}" for line in texts[:MOST]), *more])] if texts else []


def _lists(data: Mapping[str, Any]) -> list[str]:
    notes = [*lines(data, "notes"), *(f"{side.upper()}: {line}" for side in "ab"
                                      for line in lines(part(data, side), "notes"))]
    return [*_titled("Images that could not be compared", _items(lines(data, "failed"))),
            *_titled("Notes", _items(notes))]


def _again(data: Mapping[str, Any]) -> list[str]:
    command = sections.command(data)
    blocks = [f"<pre>{html.escape(command).replace('@', '&#64;')}</pre>"] if command else []
    rows = [[text(row["name"]), code(row["a"]), code(row["b"])] for row in sections.sides(data)["telling"]]
    blocks += table(("", "A", "B"), rows)
    versions = ", ".join(f"{text(name)} {text(value)}" for name, value in part(data, "versions").items()
                         if value is not None)
    title = "How to get this again" if command else "What A and B are"
    return _titled(title, blocks + ([versions] if versions else []))
