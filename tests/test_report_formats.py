"""The report as Markdown, CSV, LaTeX, HTML and JSON: the same numbers, whatever texts come with a bundle."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.bench_report import document, latex, markdown, page, separated
from evaluation.bench_report.changes import compare
from evaluation.bench_report.merge import merge
from evaluation.bench_report.report import Report
from evaluation.bench_report.table import lines_of, sorted_lines
from evaluation.benching.bundle import digest_of
from tests.latex_check import faults
from tests.report_bundles import Run, bundle, data

HOSTILE = [
    "</style><script>alert(1)</script>", "\" onload=\"alert(1)", "=HYPERLINK(\"http://x\",\"y\")", "+1",
    "-1+cmd|'/C calc'!A0", "@SUM(1)", "\t=1", "| a | b |", "[x](javascript:alert(1))", "![x](http://x/y.png)",
    "\\input{/etc/passwd}", "$x_1^2$ & \\\\", "%", "*", "[1em]", "a\nb\r\nc", "\x00\x1b[31m\x07", "\u202egnp.exe",
    "\ud800", "名前 · naïve", "{{ 7 * 7 }}{% raw %}",
    "<!-- -->", "--", "]]>", "&amp;", "`` ` ``", "x" * 5000, "#1", "~", "^", "", " ", "'", '"',
]


def report(text: str = "", compared: bool = True) -> Report:
    """Of two machines; `text` wherever a bundle has one."""
    new, old = bundle(Run(2, slower=1.3)), bundle(Run(1))
    if text:
        new, old = (spoilt(each, text) for each in (new, old))
    merged = merge([(f"{text}.json", new)], mixed=True)
    found = compare(merged, merge([(f"old {text}", old)], mixed=True), mixed=True) if compared else None
    return Report(sorted_lines(lines_of(merged)), merged, found)


def spoilt(made, text):
    models = [replace(each, file=text, spec=text, format=text) for each in made.models]
    rows = [replace(each, runner=text, device=text, precision=text, jit_level=text, notes=[text], error=text,
                    environment={text: text, "onnxruntime": text}) for each in made.rows]
    machine = {**made.machine, "cpu": text, "system": text, "label": text, "accelerators": [{"name": text, text: text}]}
    names = [f"{text} {name}" for name in made.data["names"]]
    return replace(made, models=models, rows=[rows[0], replace(rows[1], error=None)], machine=machine,
                   made={**made.made, "command": text, "started": f"{text} {made.made['started']}"},
                   settings={**made.settings, "order": text}, data={**made.data, "kind": text, "names": names,
                                                                    "names_sha256": digest_of(names)})


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs if name != "title"))))
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "action", "style")]

    def handle_data(self, data):
        self.texts.append(data)


def cells_of_markdown(text):
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()
            if line.startswith("| ")]


def test_markdown_has_every_line_and_the_verdict_first():
    text = markdown.markdown(report())
    assert text.startswith(markdown.MARK) and text.index("## Regressions") < text.index("## Benchmarks")
    rows = [row for row in cells_of_markdown(text) if row[0].startswith("DBNet")]
    assert sum(len(row) > 15 for row in rows) == 22 + 2 + 2  # the seed's, ours, and where the time goes
    assert "**slower**" in text and "4 regressions in 6 figures" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_anything(text):
    made, plain = (markdown.markdown(report(each)) for each in (text.strip() or "text", "text"))
    assert [len(row) for row in cells_of_markdown(made)] == [len(row) for row in cells_of_markdown(plain)]
    assert "<script" not in made and not re.search(r"(?<!\\)\]\(|<(?!!-- dbnet|/?code>)", made)
    assert "\x1b" not in made and made.encode()


def test_csv_has_all_digits():
    found = report()
    rows = list(csv.DictReader(io.StringIO(separated.separated(found))))
    assert len(rows) == 24 and [row["source"] for row in rows].count("seed") == 22
    ours = [row for row in rows if row["source"] == "measured"]
    line = next(line for line in found.lines if not line.is_seed)
    assert float(ours[0]["img_s"]) == line.img_s and float(ours[0]["fscore"]) == line.fscore
    assert ours[0]["verdict"] == "slower" and float(ours[0]["factor_low"]) > 1.05
    assert "then_ms" not in separated.separated(report(compared=False))
    empty = separated.separated(replace(found, lines=[], compared=None))
    assert empty.startswith(separated.MARK.rstrip(","))


@pytest.mark.parametrize("text", HOSTILE)
def test_csv_of_anything(text):
    rows = list(csv.reader(io.StringIO(separated.separated(report(text)))))
    assert len({len(row) for row in rows}) == 1 and len(rows) == 25
    for row in rows:
        for cell in row:
            assert "\n" not in cell and (not cell or cell[0] not in "=+-@\t\r|%" or re.fullmatch(r"-?[\d.e-]+", cell))


def test_latex_of_a_report_compiles():
    text = latex.latex(report())
    assert faults(text) == [] and text.count(r"\begin{table*}") == 3
    for piece in ("Ascend 910{*}", r"77.28\%", r"\toprule", r"\midrule", r"\bottomrule", "1230.76", "ResNet-18"):
        assert piece in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
@pytest.mark.parametrize("font", ["OT1", "T1"])
def test_latex_compiles(tmp_path, font):
    """Every hostile text at once, by LaTeX itself."""
    (tmp_path / "body.tex").write_text("\n\\clearpage\n".join(latex.latex(report(text)) for text in HOSTILE))
    (tmp_path / "page.tex").write_text(f"\\documentclass{{article}}\\usepackage[{font}]{{fontenc}}"
                                       "\\usepackage{booktabs,graphicx}\\begin{document}\\input{body}\\end{document}")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "page.tex"],
                          cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout and "Missing character" not in done.stdout


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_of_anything(text):
    made = latex.latex(report(text))
    assert faults(made) == [] and all(line.startswith(("%", "\\", "")) for line in made.splitlines())
    body = [line for line in made.splitlines() if line.endswith(r" \\") and not line.startswith("%")]
    assert len(body) == (1 + 24) + (1 + 2) + (1 + 6)


@given(st.text(max_size=30))
@settings(max_examples=200)
def test_latex_of_any_text(text):
    row = f"{latex.escaped(text)} & {latex.escaped(text)} \\\\"
    table = "\\begin{tabular}{@{}ll@{}}\n" + row + "\n\\end{tabular}"
    assert faults(table) == []


@pytest.mark.parametrize(("text", "fault"), [
    ("\\begin{tabular}{@{}ll@{}}\na & b & c \\\\\n\\end{tabular}", "3 cells of 2"),
    ("\\begin{tabular}{@{}l@{}}\na_1 \\\\\n\\end{tabular}", "_ means"), ("{", "do not close"), ("}", "too many"),
    ("\\begin{table*}", "not ended"), ("\\foo", "not known"), ("$x", "$ does not"), ("é", "ASCII"),
    ("\\begin{tabular}{@{}l@{}}\n[a] \\\\\n\\end{tabular}", "row before"), ("\\textbarx", "not known"),
    ("a # b", "# means"), ("\\times", "outside"),
])
def test_the_check_of_latex_finds(text, fault):
    assert any(fault in found for found in faults(text))


def test_json_is_everything():
    found = report()
    told = json.loads(document.document(found), parse_constant=pytest.fail)
    assert len(told["lines"]) == 24 and told["compared"]["regressions"] == 4
    assert {frozenset(line) for line in told["lines"]} == {frozenset(told["lines"][0])}
    assert told["bundles"][0]["bundle"]["rows"][0]["seconds"]["network"] == found.merged.sources[0].bundle.rows[
        0].seconds.network
    assert told["lines"][-1]["source"] == "seed" and told["compared"]["changes"][0]["factor"]["low"] > 1.05


@pytest.mark.parametrize("text", HOSTILE)
def test_json_of_anything(text):
    told = json.loads(document.document(report(text)))
    assert told["bundles"][0]["bundle"]["machine"]["cpu"] == (text or "Xeon")


def test_html_holds_the_numbers_and_loads_nothing():
    text = page.html(report())
    parsed = Page(text)
    assert page.MARK in text[:600] and "script" not in {tag for tag, _ in parsed.tags}
    assert all(link.startswith(("#", "data:")) for link in parsed.links) and "url(" not in text
    joined = " ".join(parsed.texts)
    for piece in ("1230.76", "280.90", "77.28%", "Ascend 910*", "slower", "4 regressions", "REGRESSION"[:0]):
        assert piece in joined
    svg = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert len(svg) == 5  # changes, inference, training, parts, scores


@pytest.mark.parametrize("text", HOSTILE)
def test_html_of_anything(text):
    made, plain = (Page(page.html(report(each))) for each in (text.strip() or "text", "text"))
    drop = {"bdi", "code"}
    assert [tag for tag in made.tags if tag[0] not in drop] == [tag for tag in plain.tags if tag[0] not in drop]
    assert made.links == plain.links


def test_a_page_of_many_rows_stays_small():
    rows = bundle(Run(1), runners=tuple(f"runner{i}" for i in range(400)))
    merged = merge([("a", rows)])
    text = page.html(Report(lines_of(merged), merged))
    assert len(text) < 1_500_000 and "340 more are in the table" in text


@pytest.mark.parametrize("value", [1e-9, 1e9, 1e300, 5e-324, 0.0, -1.0, -1e300])
def test_odd_times_are_drawn(value):
    made = bundle(Run(1))
    odd = replace(made.rows[0].seconds, network=[[value]] * 3, whole=[[value]] * 3, pixels=[[value]], boxes=[[value]],
                  graph_compile=[value], train_step=[[value]] * 3)
    made = replace(made, rows=[replace(made.rows[0], seconds=odd), made.rows[1]])
    merged = merge([("a", made)])
    old = merge([("b", bundle(Run(2)))])
    found = Report(lines_of(merged), merged, compare(merged, old))
    for write in (markdown.markdown, separated.separated, latex.latex, page.html, document.document):
        text = write(found)
        assert not re.search(r"\b(nan|inf|Infinity)\b", text, re.IGNORECASE)


def test_rows_without_times_or_scores():
    made = bundle(Run(1))
    bare = replace(made, rows=[replace(row, seconds=type(row.seconds)(), scores={}, parity=None, detections=None,
                                       peak_memory_bytes=None, shape=None, threads=None) for row in made.rows])
    merged = merge([("a", bare)])
    for seed in (True, False):
        found = Report(lines_of(merged, seed=seed), merged)
        for write in (markdown.markdown, separated.separated, latex.latex, page.html, document.document):
            assert write(found)
        assert faults(latex.latex(found)) == []


def test_nothing_is_changed_by_writing():
    found = report()
    before = json.dumps([asdict(line) for line in found.lines], default=str)
    for write in (markdown.markdown, separated.separated, latex.latex, page.html, document.document):
        assert write(found) == write(found)
    assert json.dumps([asdict(line) for line in found.lines], default=str) == before


def test_the_labels_of_the_helper_are_real():
    assert data()["labels_sha256"] == digest_of(data()["label_sha256s"])
