"""Writes docs/known_differences.md from parity/known_differences.toml: `python docs/known_differences.py`.

tests/test_docs_site.py fails where the page is not what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from parity.known import FILE, KINDS, KnownDifference, load  # noqa: E402 (the checkout need not be installed)

PAGE = Path(__file__).with_suffix(".md")
MEANS = {
    "constant_reference": "the reference's stage is constant there, so that nothing can be compared with it",
    "tolerance": "a wider tolerance than the table's, for this case alone",
}
BEGIN = """# Known differences

<!-- Written by docs/known_differences.py from parity/known_differences.toml: edit that file, then run the script. -->

`pytest parity/` fails on every difference that is not listed here, case by case, each with its reason. No tolerance is
loosened to pass, and an entry is reviewed as code is.

"""
END = """
What differs **by meaning**, not by accident, is no entry of this list but a choice with a name, which stands in the
record of every file:

| what | where it is told |
|---|---|
"""
ELSEWHERE = {
    "paddings, gates, fusions and offsets that projects compute differently":
        "[dialects](formats.md#dialects), [the conversion report](formats.md#the-conversion-report)",
    "pixels and box rules of the projects":
        "[anybody's .onnx](detect.md#anybodys-onnx), [boxes by name](evaluation.md#boxes-by-name)",
    "scores of one set of detections by different protocols": "[scores by name](evaluation.md#scores-by-name)",
    "last bits of one framework's versions, of threads, of processors":
        "[the upgrade alarm](parity.md#the-upgrade-alarm)",
    "how far runtimes are allowed to be from each other, and how far they are": "[tolerances](parity.md#tolerances)",
    "what MindOCR's recipes say and its code does otherwise":
        "[the recipe](training.md#the-recipe), [what is not the same](from_mindocr.md#what-is-not-the-same)",
}


def text(differences: Sequence[KnownDifference]) -> str:
    """The page, in Markdown."""
    parts = [BEGIN, f"Listed now: {len(differences)}.\n"]
    for kind in KINDS:
        rows = [difference for difference in differences if difference.kind == kind]
        if rows:
            parts.append(f"\n## {kind}\n\nMeans: {MEANS[kind]}.\n\n| test | network | stage |{_value(kind)} reason |\n"
                         f"|---|---|---|{'---|' if _value(kind) else ''}---|\n")
            parts.extend(_row(difference) for difference in rows)
    parts += ["\n## Not in the list\n", END]
    return "".join([*parts, *(f"| {what} | {where} |\n" for what, where in ELSEWHERE.items())])


def _value(kind: str) -> str:
    return " value |" if kind == "tolerance" else ""


def _row(difference: KnownDifference) -> str:
    value = f" {difference.value:g} |" if difference.kind == "tolerance" and difference.value is not None else ""
    reason = " ".join(difference.reason.split()).replace("|", r"\|")
    return f"| `{difference.test}` | `{difference.spec}` | `{difference.stage}` |{value} {reason} |\n"


if __name__ == "__main__":
    PAGE.write_text(text(load()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} from {FILE.relative_to(ROOT)}")
