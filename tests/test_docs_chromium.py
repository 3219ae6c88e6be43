"""The built documentation in a real Chromium: nothing is asked of the network, no page is wider than its window, dark
mode follows the reader's system, the search finds, and the copy button takes commands alone.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_comparison_chromium import SCREENS, chromium, opened
from tests.test_docs_site import pages_in, settings, site

__all__ = ["chromium", "site"]
pytestmark = pytest.mark.long


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def until(driver, script: str, seconds: float = 10) -> object:
    """What the script returns, once that is something."""
    end = time.monotonic() + seconds
    while not (found := driver.execute_script(script)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("size", SCREENS)
def test_every_page_opens_from_a_folder(site, chromium, size):
    for page in pages_in(settings()["nav"]):
        asked = opened(chromium, (site / page).with_suffix(".html"), size)
        assert asked and all(address.startswith(("file:", "data:")) for address in asked), page
        assert not chromium.execute_script("return document.documentElement.scrollWidth > window.innerWidth"), page
        complaints = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
        assert [text for text in complaints if "search" not in text and "Worker" not in text] == [], page


def test_dark_mode(site, chromium):
    colours = []
    for scheme in ("light", "dark"):
        opened(chromium, site / "evaluation.html", SCREENS[0], scheme)
        colours.append(chromium.execute_script("return getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(float, colour.strip("rgba()").split(",")[:3])) for colour in colours)
    assert light > 600 > 200 > dark, colours


def test_the_search_finds(site, chromium):
    with served(site) as address:
        chromium.get(f"{address}/index.html")
        chromium.execute_script("document.querySelector('label[for=__search]').click()")
        chromium.find_element("css selector", "input.md-search__input").send_keys("stem_pool")
        found = until(chromium, "return [...document.querySelectorAll('.md-search-result__link')].map(a => a.href)")
        assert any("formats.html" in link for link in found), found


def test_copied_commands_have_no_prompt(site, chromium):
    opened(chromium, site / "quickstart.html", SCREENS[0])
    copied = chromium.execute_script(
        "return [...document.querySelectorAll('code:has(.gp)')].map(code => {"
        " code.setAttribute('data-md-copying', ''); const text = code.innerText;"
        " code.removeAttribute('data-md-copying'); return text; }).join('\\n')")
    lines = [line for line in copied.splitlines() if line.strip() and line.strip() != "..."]
    assert len(lines) == 9 and all(line.startswith("dbnet ") for line in lines), lines


def test_a_table_without_a_heading_has_none(site, chromium):
    opened(chromium, site / "index.html", SCREENS[0])
    shown = chromium.execute_script("return [...document.querySelectorAll('.md-typeset thead')].map("
                                    "head => [head.innerText.trim() !== '', head.offsetHeight > 0])")
    assert [False, False] in shown and [True, True] in shown and all(has == high for has, high in shown)
