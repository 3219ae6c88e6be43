"""Options, header and report of `pytest parity/`, and which of its tests are meant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from converters.writing import check_report, write_text
from dbnet.errors import DbnetError
from dbnet.extras import installed
from dbnet.runner_names import FRAMEWORKS, RUNNERS, parse_runner
from dbnet.running import parse_device
from evaluation.evaluate import versions
from parity import plugin_baseline
from parity.plugin_baseline import Held
from parity.plugin_options import check_model, chosen_images, given, option, required, source_options
from parity.two_models import Wanted

__all__ = ["BASELINE", "ROWS", "WANTED", "option", "required"]

FOLDER = Path(__file__).resolve().parent
#: The only file that looks at a user's models.
TWO_MODELS = "test_two_models.py"
#: Rows that tests add for --report.
ROWS = pytest.StashKey[list[dict[str, Any]]]()
#: What --reference and the options beside it mean; None without them.
WANTED = pytest.StashKey[Wanted | None]()
#: What --baseline and the options beside it mean; None without it.
BASELINE = pytest.StashKey[Held | None]()
#: What means nothing without --reference and --candidate.
_BESIDE = ("images", "limit", "runner_a", "runner_b", "spec", "from", "set", "take", "part", "pixels", "map_output",
           "allow_edited")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity")
    group.addoption("--require", default="", metavar="A,B", help="Runners that must be there: a missing one fails.")
    group.addoption("--device", default=None, help="Device for the framework that has it: Ascend, cuda:0, ...")
    group.addoption("--report", default=None, metavar="FILE", help="Write every comparison as JSON (replaced).")
    group = parser.getgroup("two models", "parity of any two models (the proofs of the project are then left out)")
    group.addoption("--reference", metavar="FILE", help="The model that is right, in any format.")
    group.addoption("--candidate", metavar="FILE", help="The model that must do the same.")
    group.addoption("--images", action="append", metavar="IMAGE|FOLDER|GLOB",
                    help="Compare probabilities and boxes on these images too (repeatable).")
    group.addoption("--limit", type=int, metavar="N", help="The first N images of each only.")
    for side, whose in (("a", "reference"), ("b", "candidate")):
        group.addoption(f"--runner-{side}", metavar="NAME[:VARIANT][@PYTHON]",
                        help=f"Who runs the {whose}: {', '.join(RUNNERS)}; @PYTHON: that of another environment.")
    group.addoption("--spec", metavar="NAME", help="The network, where shapes leave it open (see dbnet specs).")
    group.addoption("--from", metavar="DIALECT", help="Whose names the files use. Told by them.")
    group.addoption("--set", action="append", metavar="FIELD=VALUE", help="What a bare file means (repeatable).")
    group.addoption("--take", choices=("plain", "ema"), help="Which weights of a training file.")
    group.addoption("--part", metavar="NAME", help="Which network of a distillation's file.")
    group.addoption("--pixels", metavar="NAME,...", help="What goes into both models, as for `dbnet compare`.")
    group.addoption("--map-output", metavar="NAME", help="Which output of an .onnx of others is the probability map.")
    group.addoption("--allow-edited", action="store_true", help="Accept weights unlike the digest in their record.")
    plugin_baseline.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes more than about 10 s or needs all of the data")
    config.stash[ROWS] = []
    known = FRAMEWORKS if option(config, "baseline") is None else RUNNERS
    if unknown := set(required(config)) - set(known):
        raise pytest.UsageError(f"--require {','.join(sorted(unknown))}: runners are {', '.join(known)}")
    try:
        parse_device(option(config, "device") or "cpu")
        if option(config, "report"):
            check_report(Path(option(config, "report")))
        config.stash[BASELINE] = plugin_baseline.held_of(config)
        config.stash[WANTED] = None if config.stash[BASELINE] else _wanted(config)
    except DbnetError as error:
        raise pytest.UsageError(str(error)) from error


def _wanted(config: pytest.Config) -> Wanted | None:
    """Raises UsageError for options that do not go together, DbnetError for what they name and is not there."""
    reference, candidate = (option(config, name) for name in ("reference", "candidate"))
    if reference is None and candidate is None:
        if idle := given(config, _BESIDE):
            raise pytest.UsageError(f"{idle} needs --reference and --candidate")
        return None
    if not reference or not candidate:
        one, other = ("reference", "candidate")[::1 if reference else -1]
        raise pytest.UsageError(f"--{one} needs --{other} too: the two are compared" if reference or candidate else
                                "--reference and --candidate name two files")
    files = [check_model(config, name) for name in ("reference", "candidate")]
    images, limit = chosen_images(config)
    runner_a, runner_b = (None if text is None else str(parse_runner(text)) for text in (
        option(config, "runner_a"), option(config, "runner_b")))
    return Wanted(files[0], files[1], images, limit, (runner_a, runner_b), option(config, "device"),
                  source_options(config))


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = [f"{name} {metadata.version(name) if installed(name) else 'missing'}" for name in FRAMEWORKS]
    lines = [f"parity: {', '.join(found)}; device {option(config, 'device') or 'cpu'}",
             "parity: " + ", ".join(f"{name} {version}" for name, version in versions().items())]
    if wanted := config.stash[WANTED]:
        lines.append(f"parity: {wanted.candidate} against {wanted.reference}, the reference; the proofs of the project "
                     f"are left out")
    elif held := config.stash[BASELINE]:
        lines += held.header()
    elif not _chosen(config):
        lines.append('parity: long cases are left out; -m "" runs them too')
    return lines


# Which tests ----------------------------------------------------------------------------------------------------------


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not even imported: what is not meant. A file that is given by its path is no matter of this."""
    if collection_path.parent == FOLDER and collection_path.name.startswith("test_") and not _meant(
            collection_path, config):
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With two models or a baseline their tests alone, and without -m no long ones, also where no pyproject.toml of
    ours says so."""
    chosen = _chosen(config)
    alone = config.stash[WANTED] or config.stash[BASELINE]
    left_out = [item for item in items if item.path.parent == FOLDER and (
        (alone and not _meant(item.path, config)) or (not chosen and item.get_closest_marker("long"))
        or plugin_baseline.left_out(item, config.stash[BASELINE]))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _meant(path: Path, config: pytest.Config) -> bool:
    asked = {TWO_MODELS: config.stash[WANTED], plugin_baseline.TESTS: config.stash[BASELINE]}
    return bool(asked[path.name]) if path.name in asked else not any(asked.values())


def _chosen(config: pytest.Config) -> bool:
    """Somebody, or our pyproject.toml, has said whether long cases run: by name, or with an empty -m."""
    expression: str = config.option.markexpr
    given: Sequence[str] = config.invocation_params.args
    return "long" in expression or (not expression and any(argument.startswith("-m") for argument in given))


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = option(session.config, "report")
    if path:
        data = {"versions": versions(), "exit_status": int(session.exitstatus), "rows": session.config.stash[ROWS]}
        write_text(Path(path), json.dumps(data, indent=1) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    plugin_baseline.tell(terminalreporter)
