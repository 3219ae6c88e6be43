"""docs/recipes.md: its tables are the schema's, and its commands do what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from dbnet.cli.recipe_options import spread
from dbnet.recipe import read_recipe
from dbnet.recipe_transforms import TRANSFORMS
from dbnet.recipe_words import rows

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_the_table_of_keys_is_the_schema():
    table = PAGE.partition("## Keys")[2].partition("## Operations")[0]
    expected = [f"| `{path}` | {' | '.join(cells)} |" for path, *cells in rows()]
    assert [line for line in table.splitlines() if line.startswith("| `")] == expected


def test_the_table_of_operations_is_the_schema():
    table = PAGE.partition("## Operations")[2]
    expected = [f"| `{name}` | {', '.join(f'`{argument}`' for argument in arguments)} |"
                for name, arguments in TRANSFORMS.items()]
    assert [line for line in table.splitlines() if line.startswith("| `")] == expected


def test_the_session_is_real(tmp_path):
    """`...` stands for any number of lines."""
    (tmp_path / "short.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    parts = re.split(r"^\$ dbnet (.*)\n", blocks("console")[0], flags=re.MULTILINE)
    assert len(parts) == 9
    for command, printed in zip(parts[1::2], parts[2::2], strict=True):
        done = subprocess.run([sys.executable, "-m", "dbnet", *command.split()], cwd=tmp_path, text=True,
                              capture_output=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""})
        pattern = re.escape(printed).replace(re.escape("...\n"), r"(?:.*\n)+?")
        assert re.fullmatch(pattern, done.stdout + done.stderr), command
        assert done.returncode == (3 if printed.startswith("dbnet: ") else 0)


def test_the_python_example_runs(tmp_path):
    (tmp_path / "example.py").write_text(blocks("python")[0].replace("recipe.eval_data", "print(recipe.eval_data)"))
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, text=True, capture_output=True, check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert (done.returncode, done.stderr) == (0, "")
    assert "MSRA-TD500/test/test_det_gt.txt" in done.stdout


def test_the_commands_on_the_command_line_are_understood():
    """Every `dbnet evaluate` of the page reads its recipe and options; the data and the model are not there."""
    commands = re.findall(r"^dbnet evaluate -c (\S+) model.ckpt (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for recipe, options in commands:
        words = list(spread(shlex.split(options)))
        assert set(words[::2]) == {"-o"}
        assert read_recipe(recipe, words[1::2]).pixels
