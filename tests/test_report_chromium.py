"""The report of benchmarks in a real Chromium: nothing is asked of the network, nothing is complained of, every plot is
drawn. Skipped where there is no Chromium with its chromedriver.
"""

from __future__ import annotations

import pytest

from evaluation.bench_report import page
from tests.test_comparison_chromium import PATIENCE, SCREENS, chromium, opened
from tests.test_report_formats import HOSTILE, report

__all__ = ["chromium"]

PAGES = {"regressions": report, "plain": lambda: report(compared=False), "hostile": lambda: report(HOSTILE[0]),
         "long": lambda: report("x" * 5000)}
USUAL = [("regressions", SCREENS[0]), ("hostile", SCREENS[1])]


@pytest.mark.parametrize(("name", "size"), [
    pytest.param(name, size, id=f"{name}-{size[0]}", marks=[] if (name, size) in USUAL else pytest.mark.long)
    for name in PAGES for size in SCREENS])
def test_page_in_chromium(chromium, tmp_path, name, size):
    path = tmp_path / "report.html"
    path.write_text(page.html(PAGES[name]()), encoding="utf-8")
    asked = opened(chromium, path, size)
    assert [address for address in asked if not address.startswith("data:")] == [path.as_uri()]
    assert chromium.get_log("browser") == []
    heading = chromium.find_element("tag name", "h1")
    assert heading.is_displayed() and chromium.title.startswith(heading.text)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= size[0]
    plots = chromium.find_elements("tag name", "svg")
    assert len(plots) == (5 if name == "regressions" or name in ("hostile", "long") else 4)
    for plot in plots:
        assert plot.rect["height"] > 40 and plot.rect["width"] > 300
    inside = """
        return [...document.querySelectorAll('svg rect, svg circle, svg .value')].every(one => {
          const a = one.getBoundingClientRect(), b = one.closest('svg').getBoundingClientRect();
          return a.left >= b.left - 1 && a.right <= b.right + 1 && a.bottom <= b.bottom + 1; })"""
    assert chromium.execute_script(inside)
    took = chromium.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < took < 1000 * PATIENCE


def test_texts_of_a_plot_do_not_lie_on_each_other(chromium, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page.html(report()), encoding="utf-8")
    opened(chromium, path, SCREENS[0])
    overlaps = chromium.execute_script("""
        let found = [];
        for (const svg of document.querySelectorAll('svg')) {
          const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
          for (let i = 0; i < boxes.length; i++) for (let k = i + 1; k < boxes.length; k++) {
            const [a, b] = [boxes[i][1], boxes[k][1]];
            if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) found.push([boxes[i][0], boxes[k][0]]);
          }
        }
        return found;""")
    assert overlaps == []
