"""Every block of the documentation that somebody could type is run by a test, or the page says why it cannot be run.

A page that is new, or a block more, fails here until a row below names the test that runs it.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from dataclasses import dataclass
from functools import cache

import click
import pytest

from dbnet.__main__ import COMMANDS
from tests.doc_pages import PAGES, ROOT, Block, blocks, commands, session, text_of

#: Not to be typed: trees, files, output.
SHOWN = {"text"}
COMMANDS_TEST = "test_docs_commands.py::"
MACHINES = "test_docs_machines.py::"
START = "test_docs_start.py::"
FROM = "test_from_mindocr.py::"


@dataclass(frozen=True)
class Reason:
    """Why blocks are not run: words that stand on the page, for whoever reads it."""

    words: str


#: (page, language, beginning of the block's first line) -> the tests that run it. The longest beginning counts.
CLAIMS: dict[tuple[str, str, str], tuple[str, ...] | Reason] = {
    ("README.md", "", "make demo"): (f"{COMMANDS_TEST}test_what_make_is_asked_for",),
    ("README.md", "", ".venv/bin/dbnet detect"): (f"{COMMANDS_TEST}test_the_first_thing_to_try",),
    ("README.md", "console", ""): ("test_docs.py::test_the_session_in_the_readme_is_real",),
    ("README.md", "", "pytest parity/"): (f"{COMMANDS_TEST}test_the_proofs_options_are_understood",
                                          f"{COMMANDS_TEST}test_the_baseline",
                                          f"{COMMANDS_TEST}test_what_make_is_asked_for"),
    ("README.md", "", "dbnet/"): (f"{COMMANDS_TEST}test_the_code_map_has_the_folders_that_there_are",),
    ("CONTRIBUTING.md", "", "make test"): Reason("`.ci/run` runs exactly these"),
    ("docs/ascend.md", "console", "$ dbnet kit"): (f"{MACHINES}test_the_kit_and_its_way_home",),
    ("docs/ascend.md", "", "python kit/run.py --rehearse"): (f"{MACHINES}test_the_kit_and_its_way_home",),
    ("docs/ascend.md", "", "source /usr/local/Ascend"): Reason("On an NPU nothing of it was run."),
    ("docs/ascend.md", "console", "$ dbnet compare"): (f"{MACHINES}test_the_kit_and_its_way_home",),
    ("docs/ascend.md", "console", "$ dbnet export"): (f"{MACHINES}test_files_for_ascend",),
    ("docs/bench.md", "console", ""): ("test_bench_docs.py::test_the_commands_run",),
    ("docs/bench.md", "python", ""): ("test_bench_docs.py::test_the_commands_run",),
    ("docs/datasets.md", "console", ""): ("test_data_cli_pages.py::test_the_commands_of_the_page",),
    ("docs/datasets.md", "shell", "dbnet data convert synthtext"): ("test_data_cli_pages.py::test_synthtext",),
    ("docs/datasets.md", "shell", "dbnet data synth"): ("test_data_synth_cli.py::test_the_commands_of_the_page",),
    ("docs/detect.md", "console", ""): ("test_detect.py::test_the_commands_of_the_page",),
    ("docs/detect.md", "json", ""): (f"{COMMANDS_TEST}test_the_json_of_detections",),
    ("docs/evaluation.md", "", "dbnet evaluate MODEL"): (f"{COMMANDS_TEST}test_evaluation",
                                                         f"{COMMANDS_TEST}test_evaluation_by_recipes"),
    ("docs/evaluation.md", "python", "from dbnet.postprocess"): (f"{COMMANDS_TEST}test_boxes_from_python",),
    ("docs/evaluation.md", "console", ""): (f"{COMMANDS_TEST}test_one_picture_three_numbers",),
    ("docs/evaluation.md", "python", "import cv2"): ("test_box_opencv.py::test_what_the_page_shows",),
    ("docs/export.md", "console", ""): ("test_export_docs.py::test_the_commands_of_the_page",),
    ("docs/from_mindocr.md", "shell", ""): (f"{FROM}test_every_shell_block_of_mindocrs_page_has_its_equivalent",),
    ("docs/from_mindocr.md", "yaml", ""): (f"{FROM}test_every_edit_of_mindocrs_page_is_in_the_recipe",),
    ("docs/from_mindocr.md", "console", "$ dbnet recipe list"): (f"{FROM}test_the_tables_of_results",),
    ("docs/from_mindocr.md", "", "pip install"): (f"{COMMANDS_TEST}test_what_pip_is_asked_for",),
    ("docs/from_mindocr.md", "console", "$ dbnet data convert icdar2015"): (f"{FROM}test_the_data_sets",),
    ("docs/from_mindocr.md", "console", "$ dbnet data convert --dataset_name"): (f"{FROM}test_synthtext",),
    ("docs/from_mindocr.md", "console", "$ dbnet recipe show"): (f"{FROM}test_the_recipe",),
    ("docs/from_mindocr.md", "console", "$ dbnet train"): (f"{FROM}test_training_and_evaluation",),
    ("docs/from_mindocr.md", "console", "$ mpirun"): (f"{FROM}test_training_in_two_processes",),
    ("docs/from_mindocr.md", "console", "$ dbnet evaluate"): (f"{FROM}test_training_and_evaluation",),
    ("docs/from_mindocr.md", "console", "$ dbnet export"): (f"{FROM}test_mindir_and_inference",),
    ("docs/from_mindocr.md", "", "dbnet detect test_images"): (f"{FROM}test_the_command_for_mindspore_lite",),
    ("docs/from_mindocr.md", "console", "$ dbnet detect"): (f"{FROM}test_mindir_and_inference",),
    ("docs/handoff.md", "console", ""): ("test_handoff_cpp.py::test_the_page_s_commands",),
    ("docs/interop.md", "console", "$ dbnet interop msprobe"): (f"{COMMANDS_TEST}test_msprobe",),
    ("docs/interop.md", "yaml", ""): (f"{COMMANDS_TEST}test_msprobe",),
    ("docs/interop.md", "console", "$ dbnet interop polygraphy"): (f"{COMMANDS_TEST}test_polygraphy",),
    ("docs/parity.md", "console", "$ dbnet compare A B"): (f"{COMMANDS_TEST}test_compare",),
    ("docs/parity.md", "console", "$ dbnet compare b.pth"): (f"{COMMANDS_TEST}test_compare_and_the_cause",),
    ("docs/parity.md", "console", "$ dbnet compare m.ckpt"): (f"{COMMANDS_TEST}test_a_runner_of_another_environment",),
    ("docs/parity.md", "console", "$ pytest"): (f"{COMMANDS_TEST}test_the_baseline",),
    ("docs/parity.md", "yaml", ""): (f"{COMMANDS_TEST}test_the_baseline_in_ci",),
    ("docs/precision.md", "console", ""): (f"{MACHINES}test_half_precision",),
    ("docs/published.md", "", "dbnet fetch"): Reason("of these lines their options are checked"),
    ("docs/published.md", "console", ""): ("test_fetch_cli.py::test_the_session_of_the_page_is_real",),
    ("docs/published.md", "python", ""): (f"{COMMANDS_TEST}test_fetching_from_python",),
    ("docs/python.md", "python", ""): ("test_docs.py::test_python_examples_run",),
    ("docs/python.md", "python", "from dbnet.spec import STAGES"): (f"{COMMANDS_TEST}test_running_from_python",),
    ("docs/quickstart.md", "", "python3.11 -m venv"): (f"{COMMANDS_TEST}test_what_pip_is_asked_for",),
    ("docs/quickstart.md", "console", ""): (f"{START}test_quickstart",),
    ("docs/recipes.md", "yaml", ""): ("test_recipe_docs.py::test_the_session_is_real",),
    ("docs/recipes.md", "console", ""): ("test_recipe_docs.py::test_the_session_is_real",),
    ("docs/recipes.md", "", "dbnet evaluate"): (f"{COMMANDS_TEST}test_evaluation_by_recipes",),
    ("docs/recipes.md", "python", ""): ("test_recipe_docs.py::test_the_python_example_runs",),
    ("docs/report.md", "console", ""): ("test_report_docs.py::test_the_session_of_the_page",),
    ("docs/scale.md", "console", "$ dbnet evaluate model.pth"): ("test_shards_docs.py::test_the_commands_of_the_page",),
    ("docs/scale.md", "console", "$ ray start"): ("test_ray_cases.py::test_the_commands_of_the_page",),
    ("docs/scale.md", "bash", "for i in"): ("test_shards_docs.py::test_the_shell_of_the_page",),
    ("docs/start_db.md", "console", ""): (f"{START}test_a_db_pth",),
    ("docs/start_mindocr.md", "console", ""): (f"{START}test_a_mindocr_ckpt",),
    ("docs/start_ppocr.md", "console", ""): (f"{START}test_a_pp_ocr_onnx",),
    ("docs/traces.md", "console", ""): ("test_trace_docs.py::test_the_commands_of_the_page",),
    ("docs/training.md", "", "dbnet train"): (f"{MACHINES}test_training",),
    ("docs/training.md", "", "dbnet convert saved"): (f"{MACHINES}test_training",
                                                      "test_train_docs.py::test_the_other_commands_are_understood"),
    ("docs/training.md", "", "torchrun"): (f"{MACHINES}test_several_processes",),
    ("docs/training.md", "yaml", ""): ("test_train_docs.py::test_the_session_is_real",),
    ("docs/training.md", "console", ""): ("test_train_docs.py::test_the_session_is_real",),
}
TYPED = [block for page in PAGES if page != "README_CN.md" for block in blocks(page) if block.language not in SHOWN]


def claim_of(block: Block) -> tuple[str, str, str] | None:
    found = [key for key in CLAIMS if key[:2] == (block.page, block.language) and block.first.startswith(key[2])]
    return max(found, key=lambda key: len(key[2]), default=None)


@cache
def functions_in(file: str) -> tuple[str, set[str]]:
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    return source, {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("block", TYPED, ids=lambda block: f"{block.page}:{block.first[:40]}")
def test_every_block_is_run_or_says_why_not(block):
    key = claim_of(block)
    assert key is not None, f"no test is named that runs {block.page}: {block.first}"
    claim = CLAIMS[key]
    if isinstance(claim, Reason):
        assert " ".join(claim.words.split()) in " ".join(text_of(block.page).split()), claim.words
        return
    for name in claim:
        file, _, function = name.partition("::")
        source, functions = functions_in(file)
        assert function in functions, f"{name}: no such test"
        assert block.page in source or "PAGES" in source, f"{file} does not read {block.page}"


def test_every_row_is_of_a_block():
    assert {claim_of(block) for block in TYPED} == set(CLAIMS)


# Options --------------------------------------------------------------------------------------------------------------


@cache
def options(name: str) -> dict[str, set[str]]:
    """Of a command, and of each of its subcommands: ("", or the subcommand) -> what may begin with -."""
    module, function = COMMANDS[name][0].split(":")
    command = getattr(importlib.import_module(module), function)
    commands_ = {"": command, **(command.commands if isinstance(command, click.Group) else {})}
    return {sub: {word for parameter in one.params for word in (*parameter.opts, *parameter.secondary_opts)
                  if word.startswith("-")} | {"--help", "-h"} for sub, one in commands_.items()}


def wrong_options(line: str) -> list[str]:
    """Options in a line `dbnet NAME ...` that this command has not; the command itself if there is none."""
    try:
        name, *words = shlex.split(line)[1:] or [""]
    except ValueError:
        return []  # a line of prose with an apostrophe
    if name not in COMMANDS:
        return [name] if re.fullmatch(r"[a-z]+", name) else []
    known = options(name)
    own = known[words[0]] if words and words[0] in known else known[""]
    if len(known) > 1 and not (words and words[0] in known):
        own = set().union(*known.values())
    given = [word.partition("=")[0].rstrip(".,;)]") for word in words if re.match(r"\[?-{1,2}[a-z]", word)]
    return [word for word in (word.lstrip("[") for word in given)
            if word not in own and not any(word.startswith(short) for short in own if len(short) == 2)]


def dbnet_lines(page: str) -> list[str]:
    """Of blocks, and of code in a line of text."""
    text = text_of(page)
    lines = [line for block in blocks(page) for line in
             ([one.line for one in session(block.text)] or commands(block.text))]
    lines += re.findall(r"`(dbnet [^`]+)`", re.sub(r"\s+", " ", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    found = [re.search(r"(?:^|[\s/])dbnet ([a-z].*)", f" {line}") for line in lines if "dbnet:" not in line]
    return [f"dbnet {match[1]}" for match in found if match]


@pytest.mark.parametrize("page", [page for page in PAGES if dbnet_lines(page)])
def test_every_option_that_a_page_types_is_one(page):
    assert [(line, wrong) for line in dbnet_lines(page) if (wrong := wrong_options(line))] == []


#: Of other people's programs.
THEIRS = {"--keep_dtype", "--layerPrecisions", "--target_path"}


def options_named(text: str) -> set[str]:
    """In code within a line, commands of this package left out."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {word for span in spans if "dbnet " not in span
            for word in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", span)}


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_names_is_one(page):
    """Of some command here, of `pytest parity/`, of a kit's run.py or a hand-off's verify.py."""
    known = set().union(*(found for name in COMMANDS for found in options(name).values())) | THEIRS | {"--pyargs"}
    for path in (*(ROOT / "parity").glob("*.py"), *(ROOT / "evaluation/delivery").rglob("*")):
        if path.suffix in (".py", ".jinja"):
            known |= set(re.findall(r"\"(--[a-z][a-z-]*)", path.read_text(encoding="utf-8")))
    assert options_named(text_of(page)) - known == set()


def test_an_option_that_is_none_is_noticed():
    assert wrong_options("dbnet detect photos --modle x -m y --out=z") == ["--modle"]
    assert wrong_options("dbnet data convert icdar2015 --split train --no-such") == ["--no-such"]
    assert wrong_options("dbnet data synth --count 3 --labels x") == ["--labels"]
    assert wrong_options("dbnet evaluat x") == ["evaluat"]
    assert wrong_options("dbnet train -c=x -o a=b --root d") == []
    assert options_named("`--no-such X`, `a --b-c`, ``` `--d` ``` and `dbnet e --f`") == {"--no-such", "--b-c"}
