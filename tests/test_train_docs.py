"""docs/training.md: its session is run, and its other commands are understood."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dbnet.cli.convert import convert
from dbnet.cli.train import train
from dbnet.recipe import read_recipe
from dbnet.recipe_train import training_plan
from tests.train_scenes import ROOT, write_set

PAGE = (ROOT / "docs/training.md").read_text(encoding="utf-8")
#: What is not the same on every machine.
NUMBER = re.compile(r"(?<![\w/])\d+(?:\.\d+)?(?:e-\d+)?(?![\w/])")


def blocks(kind: str) -> list[str]:
    return [text for found, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
            if found == kind]


def pattern_of(printed: str) -> str:
    """`...` stands for any number of lines, a number for any number."""
    return "\n".join(".*" if line == "..." else r"[\d.:e-]+".join(map(re.escape, NUMBER.split(line)))
                     for line in printed.splitlines())


@pytest.mark.long
def test_the_session_is_real(tmp_path):
    pytest.importorskip("torch")
    write_set(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    parts = re.split(r"^\$ dbnet (.*)\n", blocks("console")[0], flags=re.MULTILINE)
    assert len(parts) == 9
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command, printed in zip(parts[1::2], parts[2::2], strict=True):
        done = subprocess.run([sys.executable, "-m", "dbnet", *shlex.split(command)], cwd=tmp_path, text=True,
                              capture_output=True, check=False, env=environment)
        assert done.returncode == (3 if printed.startswith("dbnet: ") else 0), done.stderr
        told = (done.stderr + done.stdout).strip()
        assert re.fullmatch(pattern_of(printed), told, re.DOTALL), (command, told)


def test_the_pattern_can_fail():
    printed = "loss 1.5 (dice 2e-3), 3 s\n...\nend"
    assert re.fullmatch(pattern_of(printed), "loss 7 (dice 0.1), 1:02 s\na\nb\nend", re.DOTALL)
    assert not re.fullmatch(pattern_of("loss 1.5\nend"), "loss 1.5\nmore\nend", re.DOTALL)
    assert not re.fullmatch(pattern_of("loss 1.5"), "loss nan", re.DOTALL)


def test_the_other_commands_are_understood():
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("dbnet ")]
    assert len(lines) >= 6
    for command in (line for line in lines if line.startswith("dbnet convert ")):
        assert convert.make_context("convert", shlex.split(command)[2:]).params["with_optimizer"]
    for command in (line for line in lines if line.startswith("dbnet train ")):
        context = train.make_context("train", shlex.split(command)[2:])
        recipe = context.params["recipe"]
        if not Path(recipe).suffix:
            training_plan(read_recipe(recipe, context.params["overrides"]))


def test_every_option_is_in_the_table():
    table = PAGE.partition("## Options")[2].partition("## The recipe")[0] + PAGE.partition("## What is left")[2]
    for parameter in train.params:
        assert any(f"{name}`" in table or f"{name} " in table for name in parameter.opts), parameter.opts
