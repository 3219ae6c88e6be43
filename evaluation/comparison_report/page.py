"""The report as one page of HTML: no scripts, nothing that is loaded from elsewhere."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from evaluation.comparison_report import sections
from evaluation.comparison_report.pictures import Picture
from evaluation.comparison_report.stages import COLUMNS, stage_views
from evaluation.comparison_report.verdict import names, verdict
from evaluation.comparison_report.words import cleaned, lines, one_line, part

#: In the first bytes of a page: who made it.
MARK = '<meta name="generator" content="dbnet-parity">'
#: Of all pictures of a page together, in bytes as files; base64 makes a third more of them. Keeps a page below 5 MB.
PICTURE_BYTES = 3_200_000
#: Images in numbers, or failures, that stand open; a longer list is folded. Boxes that do.
OPEN, BOXES = 12, 25


def html(data: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> str:
    """A whole page. pictures: most telling first; those beyond PICTURE_BYTES are left out, and the page says so."""
    kept = _within(pictures, PICTURE_BYTES)
    stages, scale = stage_views(data)
    title = f"{verdict(data).title}: {' and '.join(names(data))}"
    shown = {
        "mark": Markup(MARK), "title": title, "names": names(data), "verdict": verdict(data),
        "unfinished": one_line(data["unfinished"]) if data.get("unfinished") else "",
        "stages": stages, "ticks": scale.ticks, "decades": scale.decades, "columns": COLUMNS,
        "causes": sections.causes(data), "heat": [picture for picture in kept if picture.image is None],
        "images": sections.images(data, [picture for picture in kept if picture.image is not None]),
        "left_out": len(pictures) - len(kept), "differences": sections.differences(data),
        "scores": sections.scores(data), "swap": sections.swap(data), "failed": lines(data, "failed"),
        "notes": [*lines(data, "notes"), *(f"{side.upper()}: {line}" for side in "ab"
                                           for line in lines(part(data, side), "notes"))],
        "sides": sections.sides(data), "versions": [(one_line(name), one_line(value)) for name, value
                                                    in part(data, "versions").items() if value is not None],
        "command": sections.command(data), "durations": sections.durations(data), "open": OPEN, "most_boxes": BOXES}
    return _template().render(shown)


def _within(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """The first that fit together."""
    kept, size = [], 0
    for picture in pictures:
        size += len(picture.content)
        if size > most:
            break
        kept.append(picture)
    return kept


@functools.cache
def _template() -> jinja2.Template:
    environment = templates()
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("page.html")


def templates(*packages: str) -> jinja2.Environment:
    """Those of `packages`, and what all pages share, which lies here."""
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(package, "template")
                                  for package in (*packages, "evaluation.comparison_report")])
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              undefined=jinja2.StrictUndefined, finalize=_finalized)


def _finalized(value: Any) -> Any:
    """All that the template writes passes here before it is escaped."""
    return cleaned(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _data_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
