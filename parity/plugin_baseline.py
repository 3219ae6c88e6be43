"""`pytest parity/ --baseline FILE`: its options, what they mean together, and what is said at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from converters.writing import check_report
from dbnet.errors import DbnetError
from dbnet.extras import installed, module_of
from dbnet.runner_names import FRAMEWORKS, RunnerName, parse_runner
from evaluation.weightless import is_weightless
from parity.baseline_runs import WantedBaseline, runner_of, said, suffix_of
from parity.plugin_options import check_model, chosen_images, given, option, required, source_options
from parity.trace import Trace
from parity.trace_file import is_trace, read_traces
from parity.traced import side_of

#: The only file that looks at a baseline, and its test that writes one.
TESTS, UPDATE = "test_baseline.py", "test_update"
#: Under which name a test hands over what is said at the end.
PROPERTY = "baseline"
#: Nothing without --candidate.
_OF_A_MODEL = ("images", "limit", "spec", "from", "set", "take", "part", "pixels", "map_output", "allow_edited")
_OF_TWO = ("reference", "runner_a", "runner_b")
_HOW = "write it first: add --update-baseline"


@dataclass(frozen=True)
class Held:
    """What --baseline and the options beside it mean, and the runs of the file."""

    wanted: WantedBaseline
    old: dict[str, Trace]

    def names(self) -> list[str]:
        """Of the runs that are compared: those of now, and those of the file that no choice of runners leaves out."""
        return list(dict.fromkeys([*self.wanted.runs(), *(name for name in self.old if name not in self.left_out())]))

    def left_out(self) -> list[str]:
        """Runs of the file whose runner --runner does not name."""
        now = {suffix_of(runner) for runner in self.wanted.runners}
        return [name for name in self.old if self.wanted.chosen and name.rpartition("-")[2] not in now]

    def header(self) -> list[str]:
        wanted = self.wanted
        what = "the project's networks" if wanted.candidate is None else str(wanted.candidate)
        does = "writes" if wanted.update else "compares with"
        runners = ", ".join(map(str, wanted.runners)) or "no runner, for none is installed"
        lines = [f"parity: {does} the baseline {wanted.path}: {what} in {runners}; the proofs are left out"]
        if left := self.left_out():
            lines.append(f"parity: {len(left)} runs of other runners than --runner names are left out")
        return lines


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("baseline", "are the numbers what they were? (the proofs of the project are then left out)")
    group.addoption("--baseline", metavar="FILE", help="Compare with the numbers in this file, bit for bit: those of "
                    "the project's networks, or of --candidate, on --images if given.")
    group.addoption("--update-baseline", action="store_true", help="Write that file, and tell what changed.")
    group.addoption("--runner", action="append", metavar="NAME[:VARIANT][@PYTHON]",
                    help="Run in this framework, of another environment too: mindspore@/path/to/env/bin/python "
                         "(repeatable; all that are installed).")


def held_of(config: pytest.Config) -> Held | None:
    """None without --baseline. Raises UsageError for options that do not go together, and DbnetError."""
    if option(config, "baseline") is None:
        if idle := given(config, ("update_baseline", "runner")):
            raise pytest.UsageError(f"{idle} needs --baseline FILE")
        return None
    wanted = _wanted(config)
    old = _old(wanted)
    kinds = {(said(trace) or {}).get("of") for trace in old.values()}
    if kinds - {wanted.kind}:
        other = "a model of somebody: give it with --candidate" if wanted.candidate is None else \
            "the project's networks: leave out --candidate, or name another file"
        raise pytest.UsageError(f"--baseline {wanted.path}: is of {other}")
    return Held(replace(wanted, runners=_with_those_of(old, wanted)), old)


def _wanted(config: pytest.Config) -> WantedBaseline:
    path, update = option(config, "baseline"), bool(option(config, "update_baseline"))
    if not path:
        raise pytest.UsageError("--baseline names a file")
    if idle := given(config, _OF_TWO):
        raise pytest.UsageError(f"{idle} and --baseline do not go together: with a baseline there is one model, "
                                f"--candidate, and --runner says who runs it")
    model = option(config, "candidate")
    if model is None and (idle := given(config, _OF_A_MODEL)):
        raise pytest.UsageError(f"{idle} needs --candidate FILE: the project's networks have their own picture")
    model = None if model is None else check_model(config, "candidate")
    runners = _runners(config, model)
    images, limit = chosen_images(config)
    return WantedBaseline(Path(path), update, model, images, limit, runners, bool(option(config, "runner")),
                          tuple(required(config)), option(config, "device"), source_options(config))


def _runners(config: pytest.Config, model: Path | None) -> tuple[RunnerName, ...]:
    """Those of --runner, else those that are installed; those of --require in any case."""
    chosen = [parse_runner(text) for text in option(config, "runner") or ()]
    found: dict[str, RunnerName] = {}
    if not chosen and model is not None and is_weightless(model):
        chosen = [RunnerName("openvino" if model.suffix.lower() == ".xml" else "mindspore_lite")]
    for runner in (*chosen, *map(RunnerName, required(config))):
        if runner.framework == "mindspore_lite":
            raise pytest.UsageError(f"{runner}: runs files that are converted for it, and a baseline is of weights; "
                                    f"compare such a file with dbnet compare")
    for runner in chosen:
        if found.setdefault(runner.here, runner) != runner:
            raise pytest.UsageError(f"--runner {runner}: is the second {runner.here}, and a baseline has one run "
                                    f"for each framework; compare with one after the other")
    if not chosen:
        found = {name: RunnerName(name) for name in FRAMEWORKS if installed(name)}
    there = {runner.framework for runner in found.values()}
    return (*found.values(), *(RunnerName(name) for name in required(config) if name not in there))


def _with_those_of(old: Mapping[str, Trace], wanted: WantedBaseline) -> tuple[RunnerName, ...]:
    """Without --runner, what the file was made with is run too, and nothing else where that is no framework's run."""
    if wanted.chosen or not old:
        return wanted.runners
    held = {name.rpartition("-")[2] for name in old}
    own = [runner for runner in wanted.runners if held & set(FRAMEWORKS) or runner.framework in wanted.required]
    more = [runner for runner in map(runner_of, sorted(held)) if runner is not None and runner not in own
            and runner.here not in FRAMEWORKS and installed(module_of(runner.framework))]
    return (*own, *more)


def _old(wanted: WantedBaseline) -> dict[str, Trace]:
    """The runs of the file; none where it is to be written first."""
    path = wanted.path
    if wanted.update:
        check_report(path)
        if not wanted.runners:
            raise pytest.UsageError("--update-baseline: no runner is installed, so there is nothing to write")
    if not path.exists():
        if not wanted.update:
            raise pytest.UsageError(f"--baseline {path}: is not there; {_HOW}")
        return {}
    if path.is_file() and not is_trace(path):
        raise pytest.UsageError(f"--baseline {path}: is no baseline{_kept(wanted)}; name another file")
    try:
        runs = read_traces(path)
    except DbnetError as error:
        raise DbnetError(f"--baseline {error}{_kept(wanted)}") from error
    if not all(said(trace) for trace in runs.values()):
        raise pytest.UsageError(f"--baseline {path}: is a trace of `dbnet trace`, no baseline{_kept(wanted)}; name "
                                f"another file")
    for name, trace in runs.items():
        side_of(trace, path, name)  # for its errors
    return runs


def _kept(wanted: WantedBaseline) -> str:
    return ", so it is not replaced" if wanted.update else ""


def left_out(item: pytest.Item, held: Held | None) -> bool:
    """Of the two kinds of tests in `TESTS` the one that is not asked for."""
    if held is None or item.path.name != TESTS:
        return False
    return (getattr(item, "originalname", item.name) == UPDATE) != held.wanted.update


def tell(terminal: pytest.TerminalReporter) -> None:
    """What the tests say of the file and of what changed, wherever they ran; pytest's own summary cuts its lines."""
    lines = [str(value) for kind in ("passed", "failed") for report in terminal.stats.get(kind, ())
             if getattr(report, "when", "") == "call" for name, value in report.user_properties if name == PROPERTY]
    if lines:
        terminal.section("baseline")
        terminal.write_line("\n".join(lines))
