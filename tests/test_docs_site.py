"""The documentation as a site: navigation, links and anchors, the reference, the generated page, the build itself."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from parity.known import KnownDifference, load
from tests.doc_pages import BLOCK, PAGES, ROOT, blocks, text_of

CONFIG = ROOT / ".ci/mkdocs.yml"
GENERATOR = ROOT / "docs/known_differences.py"
#: An instruction of mkdocstrings: the name that it documents.
NAMES = re.findall(r"^::: (\S+)$", text_of("docs/reference.md"), re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


class Loader(yaml.SafeLoader):
    """Reads the configuration without running what its tags name."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def settings() -> dict:
    return yaml.load(CONFIG.read_text(encoding="utf-8"), Loader)


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", plain).strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    names = [slug(heading) for heading in re.findall(r"^#{1,6} (.+?)\s*$", BLOCK.sub("", text), re.MULTILINE)]
    return {f"{name}-{before}" if (before := names[:i].count(name)) else name for i, name in enumerate(names)}


def broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead to no file, or to no heading of one."""
    wrong = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        if not other.exists() or (anchor and anchor not in anchors(text if not file else other.read_text("utf-8"))):
            wrong.append(target)
    return wrong


def pages_in(nav: list) -> list[str]:
    return [page for entry in nav for value in entry.values()
            for page in ([value] if isinstance(value, str) else pages_in(value))]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_lead_somewhere(page):
    """As GitHub reads them; that the site reads them so too is the strict build's."""
    assert broken(ROOT / page, text_of(page)) == []


def test_a_link_that_leads_nowhere_is_noticed(tmp_path):
    (tmp_path / "b.md").write_text("# Anybody's `.onnx`, again\n## a\n## a\n```\n# no heading\n```\n")
    text = ("# x\n[a](b.md) [b](b.md#anybodys-onnx-again) [c](#x) [d](https://e.org/x) [e](b.md#a-1) `[f](g.md)`\n"
            "[1](c.md) [2](b.md#no-heading) [3](#y) [4\nlines](b.md#a-2)\n")
    (tmp_path / "a.md").write_text(text)
    assert broken(tmp_path / "a.md", text) == ["c.md", "b.md#no-heading", "#y", "b.md#a-2"]


def test_every_page_is_in_the_navigation_once():
    nav = pages_in(settings()["nav"])
    assert sorted(nav) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_nothing_is_fetched_and_nothing_let_pass():
    config = settings()
    assert config["theme"]["font"] is False and "repo_url" not in config
    assert set(config["validation"].values()) == {"warn"}
    assert not {"extra_javascript", "hooks"} & set(config) and config["extra_css"] == ["site.css"]


# The page that is generated -------------------------------------------------------------------------------------------


def test_the_known_differences_are_those_of_the_list():
    generated = runpy.run_path(str(GENERATOR))
    assert text_of("docs/known_differences.md") == generated["text"](load()), "run python docs/known_differences.py"


def test_an_entry_more_is_a_row_more():
    text = runpy.run_path(str(GENERATOR))["text"]
    entry = KnownDifference("tolerance", "a_test", "dbnet_resnet18", "c2", "A reason\nwith | five words.", 0.01)
    assert "| `a_test` | `dbnet_resnet18` | `c2` | 0.01 | A reason with \\| five words. |" in text([*load(), entry])
    assert text([*load(), entry]) != text(load())


def test_the_script_writes_the_page(tmp_path):
    shutil.copytree(ROOT / "parity", tmp_path / "parity", ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    for folder in ("dbnet", "converters", "evaluation", "torch_reference", "ms_models"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "docs").mkdir()
    shutil.copy(GENERATOR, tmp_path / "docs")
    subprocess.run([sys.executable, "docs/known_differences.py"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "docs/known_differences.md").read_text("utf-8") == text_of("docs/known_differences.md")


# The reference --------------------------------------------------------------------------------------------------------


def defined(name: str) -> ast.AST | None:
    """Where a dotted name of this package is defined, read and not imported; through a package's own imports too."""
    module, _, leaf = name.rpartition(".")
    folder = ROOT / module.replace(".", "/")
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else ():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if getattr(node, "name", None) == leaf or any(getattr(target, "id", None) == leaf for target in targets):
            return node
        if isinstance(node, ast.ImportFrom) and any(alias.name == leaf for alias in node.names):
            return defined(f"{node.module}.{leaf}")
    return None


def test_every_name_of_the_reference_is_there_and_has_a_docstring():
    assert len(NAMES) == len(set(NAMES)) > 35
    for name in NAMES:
        node = defined(name)
        assert node is not None, name
        assert not isinstance(node, ast.FunctionDef | ast.ClassDef) or ast.get_docstring(node), name
    assert defined("dbnet.spec.nothing") is None and defined("dbnet.nowhere.x") is None


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_whatever_the_pages_import_is_in_the_reference(page):
    """Of this package."""
    used = set()
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom):
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used.add(f"{node.value.id}.{node.attr}")
    ours = {name for name in used if name.split(".")[0] in ("converters", "dbnet", "evaluation", "parity", "ms_models",
                                                          "torch_reference")}
    short = {name.replace("converters.api.", "converters.") for name in NAMES}
    assert ours - {*NAMES, *short} == set()


# The build ------------------------------------------------------------------------------------------------------------


class Fetched(HTMLParser):
    """What a browser loads by itself: scripts, styles, pictures, frames, with their addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed") and given.get("src"):
            self.addresses.append(str(given["src"]))
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(str(given.get("href")))


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Without a network: every connection out of the process is refused. Never with --quiet, under which mkdocs counts
    no warnings, and --strict lets everything pass.
    """
    guard = ("import runpy, socket, sys\n"
             "def refuse(*given): raise OSError('the build wants the network')\n"
             "socket.socket.connect = refuse\n"
             "sys.argv = ['mkdocs', *sys.argv[1:]]\n"
             "runpy.run_module('mkdocs', run_name='__main__')\n")
    return subprocess.run([sys.executable, "-c", guard, "build", "--strict", "-f", str(config), "-d", str(out)],
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="needs mkdocs: pip install 'dbnet-parity[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = build(CONFIG, out)
    assert done.returncode == 0 and not re.search("WARN|ERROR", done.stderr), done.stderr
    return out


@pytest.mark.long
def test_the_site_is_built_strictly_and_fetches_nothing(site):
    pages = sorted(site.glob("*.html"))
    assert {page.stem for page in pages} == {Path(page).stem for page in pages_in(settings()["nav"])} | {"404"}
    for page in pages:
        parser = Fetched()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.addresses
        assert [address for address in parser.addresses if re.match(r"(?:[a-z]+:)?//", address)] == [], page.name
    for style in site.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*", style.read_text(encoding="utf-8")) == [], style


@pytest.mark.long
def test_make_docs_is_strict():
    """--quiet would keep warnings from being counted (see `build`)."""
    [line] = re.findall(r"mkdocs build.*", text_of("Makefile"))
    assert "--strict" in line and str(CONFIG.relative_to(ROOT)) in line and not re.search(r"-q\b|--quiet", line)


@pytest.mark.long
def test_the_reference_is_filled(site):
    page = (site / "reference.html").read_text(encoding="utf-8")
    for name in NAMES:
        assert f'id="{name}"' in page, name
    assert "float32" in page and "DbnetError" in page


@pytest.mark.long
@pytest.mark.parametrize(("file", "added", "told"), [
    ("python.md", "\n[x](nowhere.md)\n", "nowhere.md"), ("python.md", "\n[x](parity.md#none)\n", "#none"),
    ("lost.md", "# Lost\n", "lost.md"), ("reference.md", "\n::: dbnet.spec.nothing\n", "dbnet.spec.nothing")])
def test_a_strict_build_ends_with_an_error(site, file, added, told, tmp_path):
    """`site`: mkdocs is there."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / file).open("a", encoding="utf-8") as page:
        page.write(added)
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/mkdocs.yml").write_text(CONFIG.read_text("utf-8").replace("[..]", f"[{ROOT}]"), encoding="utf-8")
    done = build(tmp_path / ".ci/mkdocs.yml", tmp_path / "out")
    assert done.returncode == 1 and told in done.stderr, done.stderr
