"""The report of a comparison in a real Chromium: nothing is asked of the network, nothing is complained of, and the
verdict is on the first screen. Skipped where there is no Chromium with its chromedriver.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.comparison_report import heat_map, html, side_by_side
from tests.comparison_data import difference, different, image_row, same

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--hide-scrollbars")
SCREENS = [(1280, 800), (390, 844)]
#: A page opens in less than a second; a machine that does many things at once gets ten.
PATIENCE = 10.0


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A driver that is told where both programs are, so that it never downloads any."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [next(filter(None, map(shutil.which, names)), None)
                for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))]
    if None in programs:
        pytest.skip("there is no Chromium with its chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


def opened(driver, path: Path, size: tuple[int, int], scheme: str = "light") -> list[str]:
    """Opens a page, and returns the addresses that were asked for."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                           {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


@functools.cache
def big() -> str:
    """200 images and as many pictures as a page takes, of real sizes."""
    data = different()
    names = [f"img_{i}.jpg" for i in range(200)]
    data["images"] = {name: image_row(lost=i % 5) for i, name in enumerate(names)}
    data["boxes"]["differences"] = [difference(name) for name in names[:100]]
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (720, 1280, 3), np.uint8)
    maps = rng.random((2, 736, 1280), np.float32)
    square = np.array([[200, 200], [600, 200], [600, 300], [200, 300]], float)
    pictures = [side_by_side(image, maps[0], [square], maps[1], [square + 9], name=name) for name in names[:12]]
    return html(data, [heat_map(maps[0], maps[1], "c2"), *pictures])


def hostile() -> str:
    name = "</style><script>alert(1)</script>" + "x" * 300
    data = {**different(), "unfinished": "MemoryError " * 30, "notes": [name], "failed": [name], "layer": name,
            "images": {name: image_row()}, "command": [name]}
    data["a"]["file"] = data["boxes"]["differences"][0]["why"] = data["boxes"]["differences"][0]["image"] = name
    data["stages"][0]["stage"] = data["causes"][0]["what"] = data["scores"]["protocols"]["rrc"]["title"] = name
    data["scores"]["protocols"][name] = data["scores"]["protocols"]["rrc"]
    return html(data)


PAGES = {"big": big, "different": lambda: html(different()), "same": lambda: html(same()), "hostile": hostile,
         "nothing": lambda: html({})}
#: The others are checked by `make test-full`.
USUAL = [("big", SCREENS[0]), ("hostile", SCREENS[1]), ("different", SCREENS[1])]


@pytest.mark.parametrize(("name", "size"), [
    pytest.param(name, size, id=f"{name}-{size[0]}",
                 marks=[] if (name, size) in USUAL else pytest.mark.long) for name in PAGES for size in SCREENS])
def test_page_in_chromium(chromium, tmp_path, name, size):
    path = tmp_path / "report.html"
    path.write_text(PAGES[name](), encoding="utf-8")
    asked = opened(chromium, path, size)
    assert [address for address in asked if not address.startswith("data:")] == [path.as_uri()]
    assert chromium.get_log("browser") == []
    heading = chromium.find_element("tag name", "h1")
    assert heading.is_displayed() and chromium.title.startswith(heading.text)
    assert heading.rect["y"] >= 0 and heading.rect["y"] + heading.rect["height"] <= size[1]
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert chromium.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    took = chromium.execute_script("const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd")
    assert 0 < took < 1000 * PATIENCE


def test_dark_and_light_are_two(chromium, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html(different()), encoding="utf-8")
    grounds = []
    for scheme in ("light", "dark"):
        opened(chromium, path, SCREENS[0], scheme)
        grounds.append(chromium.execute_script("return getComputedStyle(document.body).backgroundColor"))
    light, dark = ([int(part) for part in ground[4:-1].split(",")] for ground in grounds)
    assert min(light) > 200 and max(dark) < 60


@pytest.mark.long
def test_a_picture_grows_without_scripts(chromium, tmp_path):
    """Its link makes it fill the window, and another gives it back."""
    path = tmp_path / "report.html"
    path.write_text(big(), encoding="utf-8")
    opened(chromium, path, SCREENS[0])
    picture = chromium.find_element("css selector", "#image-1")
    before = picture.rect["width"]
    chromium.get(path.as_uri() + "#image-1")
    assert picture.rect["width"] >= SCREENS[0][0] > before
    picture.find_element("css selector", ".close").click()
    assert picture.rect["width"] == before


def test_folded_tables_are_printed(chromium, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html(different()), encoding="utf-8")
    opened(chromium, path, SCREENS[0])
    shown = "return document.querySelector('#stages details table').checkVisibility()"
    assert not chromium.execute_script(shown)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert chromium.execute_script(shown)
    finally:
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
