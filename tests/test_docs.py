"""The documentation's commands are run, and what they print is what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import converters
from dbnet.__main__ import COMMANDS
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "README_CN.md"]


def console_blocks(page):
    return re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_session_in_the_readme_is_real(page, tmp_path):
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18"]), tmp_path / "r18.ckpt", spec="dbnet_resnet18")
    [block] = console_blocks(page)
    parts = re.split(r"^\$ dbnet (.*)\n", block, flags=re.MULTILINE)
    assert len(parts) > 5
    for command, printed in zip(parts[1::2], parts[2::2], strict=True):
        done = subprocess.run([sys.executable, "-m", "dbnet", *command.split()], cwd=tmp_path, text=True,
                              capture_output=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""})
        assert (done.returncode, done.stdout) == (0, printed), command


def test_both_readmes_say_the_same():
    english, chinese = ((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    for pattern in (r"```.*?```", r"`[^`\n]+`", r"^#+ ", r"^\|", r"\d\.\de-\d+", r"\]\([^)]+\)"):
        found = [re.findall(pattern, text, re.DOTALL | re.MULTILINE) for text in (english, chinese)]
        if pattern.startswith(r"\]"):
            found = [sorted(set(links) - {"](README_CN.md)", "](README.md)"}) for links in found]
        if "`" in pattern and not pattern.startswith("```"):
            found = [sorted(set(codes)) for codes in found]
        if pattern.startswith("```"):
            found = [[re.sub(r"#.*", "", block) for block in blocks if "console" in block[:12]] for blocks in found]
        assert found[0] == found[1], pattern


@pytest.mark.parametrize("page", [*PAGES, *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")), "CONTRIBUTING.md"])
def test_links_and_commands_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target
    for command in re.findall(r"`dbnet ([a-z]+)", text):
        assert command in COMMANDS, command
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        if target not in ("that", "sure", "builds"):
            assert target in targets, target


@pytest.mark.parametrize("number", range(2))
def test_python_examples_run(number, tmp_path):
    """The first two blocks of docs/python.md, as they stand."""
    pytest.importorskip("torch")
    pytest.importorskip("mindspore")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.DOTALL)
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18"]), tmp_path / "model.pth", spec="dbnet_resnet18")
    (tmp_path / "example.py").write_text(blocks[number])
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, text=True, capture_output=True, check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert done.returncode == 0, done.stderr
