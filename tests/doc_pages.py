"""What the tests of the documentation share: a page's blocks, the commands in them, and running these as users do."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.running import command

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "README_CN.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in
                                                                 (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?P<quote>> )?``` *(?P<language>\w*) *\n(?P<text>.*?)^(?:> )?```$", re.DOTALL | re.MULTILINE)
#: What is not the same on every machine.
NUMBER = re.compile(r"(?<![\w/])\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w/])")


@dataclass(frozen=True)
class Block:
    """heading: the last one above it."""

    page: str
    language: str
    text: str
    heading: str

    @property
    def first(self) -> str:
        """Its first line, by which it is called."""
        return self.text.strip("\n").partition("\n")[0].strip()


@dataclass(frozen=True)
class Typed:
    """One command of a session and what the page says that it prints."""

    line: str
    printed: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(text: str, page: str = "") -> Iterator[Block]:
    """Fenced blocks, those in a quotation too."""
    for match in BLOCK.finditer(text):
        headings = re.findall(r"^#+ (.*)$", re.sub(BLOCK, "", text[:match.start()]), re.MULTILINE)
        body = re.sub(r"^> ?", "", match["text"], flags=re.MULTILINE) if match["quote"] else match["text"]
        yield Block(page, match["language"], body, headings[-1] if headings else "")


def blocks(page: str, *languages: str) -> list[Block]:
    return [block for block in blocks_of(text_of(page), page) if not languages or block.language in languages]


def session(text: str) -> list[Typed]:
    """The commands behind `$ `, without their remarks, each with the lines up to the next."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return [Typed(re.sub(r"\s+# .*", "", line), printed)
            for line, printed in zip(parts[1::2], parts[2::2], strict=True)]


def commands(text: str) -> list[str]:
    """The lines of a block without `$ `: continued lines are one, remarks are none."""
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [line for line in (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines) if line]


def pattern_of(printed: str) -> str:
    """A line `...` stands for any number of lines, `[...]` for anything in a line, a number for any number."""
    def line_of(line: str) -> str:
        return "[^\n]*".join(r"[\d.:e+-]+".join(map(re.escape, NUMBER.split(part))) for part in line.split("[...]"))
    lines = ["(?:.*\n)*?" if line == "..." else line_of(line.rstrip()) + "\n" for line in printed.splitlines()]
    return "".join(lines)


def says(done: subprocess.CompletedProcess[str], printed: str) -> bool:
    """Whether a command printed what the page says, on either channel."""
    def plain(text: str) -> str:
        return "".join(line.rstrip() + "\n" for line in text.splitlines())
    wanted = re.compile(pattern_of(printed))
    return any(wanted.fullmatch(plain(told)) for told in (done.stderr + done.stdout, done.stdout + done.stderr))


def run(line: str, more: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """One line in the working directory: `dbnet` in this process, anything else by bash."""
    if line.startswith("dbnet "):
        return command(*shlex.split(line)[1:], *more)
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                   "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", " ".join([line, *map(shlex.quote, more)])], capture_output=True, text=True,
                          check=False, env=environment, stdin=subprocess.DEVNULL)


def run_session(typed: Sequence[Typed], more: Mapping[str, Sequence[str]] | None = None,
                codes: Mapping[str, int] | None = None, without: Sequence[str] = ()) -> int:
    """Runs them one after the other; each must end and print as the page says. Returns how many were run.

    more: words behind every command in which the key is found. codes: exit codes other than 0, likewise; a command
    whose first printed line is an error ends with 3. without: those with one of these are left out.
    """
    for key in (*(more or {}), *(codes or {}), *without):
        assert any(key in command.line for command in typed), f"no command has {key}"
    ran = 0
    for one in typed:
        if any(key in one.line for key in without):
            continue
        words = [word for key, added in (more or {}).items() if key in one.line for word in added]
        done = run(one.line, words)
        expected = next((code for key, code in (codes or {}).items() if key in one.line),
                        3 if one.printed.startswith("dbnet: ") else 0)
        told = f"{one.line}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == expected, f"exit code {done.returncode}: {told}"
        assert "Traceback" not in done.stderr, told
        assert not one.printed or says(done, one.printed), f"the page says\n{one.printed}\nof {told}"
        ran += 1
    return ran


def typed(page: str, number: int, *languages: str) -> list[Typed]:
    """Of the numberth block of these languages: a session, or plain lines."""
    block = blocks(page, *(languages or ("console",)))[number]
    return session(block.text) or [Typed(line, "") for line in commands(block.text)]


def put(these: list[Typed], places: dict[str, str]) -> list[Typed]:
    """With the reader's own things in the places of the page's names."""
    def filled(line: str) -> str:
        for name, place in places.items():
            line = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w/-])", place.replace("\\", r"\\"), line)
        return line
    return [replace(one, line=filled(one.line)) for one in these]
