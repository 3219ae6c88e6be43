"""A baseline and the runs of now: what each test of `pytest parity/ --baseline` asks, and the writing of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbnet.errors import DbnetError
from dbnet.extras import OPTIONAL, installed, module_of
from parity.baseline import RunChange, compare_runs, other_subject, same_subject
from parity.baseline_runs import Runs, WantedBaseline, runner_of
from parity.baseline_told import ACCEPT, NEW, update_lines
from parity.trace import Trace
from parity.trace_file import write_traces

_MEANT = f"where that is meant: {ACCEPT}"
#: What no update accepts.
_OTHER = "where that is meant: name another file, or remove this one and record it anew"


@dataclass
class BaselineSession:
    """wanted: what is run. old: the runs of the file. folder: for files of this session."""

    wanted: WantedBaseline
    old: dict[str, Trace]
    folder: Path
    _runs: Runs = field(init=False)

    def __post_init__(self) -> None:
        self._runs = Runs(self.wanted, self.folder)

    def missing(self, name: str) -> str | None:
        """Why a run of the file cannot be made here; None if it can be tried."""
        if name in self.wanted.runs():
            return None
        runner = runner_of(name.rpartition("-")[2])
        if runner is not None and not installed(module_of(runner.framework)):
            extra = OPTIONAL.get(runner.framework, (runner.framework,))[0]
            return f"{runner.framework} is not installed: pip install 'dbnet-parity[{extra}]'"
        return None

    def change(self, name: str) -> RunChange | None:
        """What became of a run since; None of one that the file does not hold. Raises DbnetError, one phrase, where
        that cannot be told: this is no alarm."""
        if name not in self.wanted.runs():
            network, _, suffix = name.rpartition("-")
            if runner_of(suffix) is None:
                raise DbnetError(f"this version has no runner {suffix.replace('+', ':')}; {_MEANT}")
            raise DbnetError(f"this version has no network {network}; {_MEANT}")
        if name not in self.old:
            self._runs.make(name)  # one that fails must not be offered for an update
            return None
        now = self._runs.make(name)
        try:
            return compare_runs(self.old[name], now)
        except DbnetError as error:
            refused = self.wanted.candidate is not None and other_subject(self.old[name], now)
            raise DbnetError(f"{error}; {_OTHER if refused else _MEANT}") from error

    def update(self) -> list[str]:
        """Writes the file with the runs of now, and tells what changed. Runs of runners that are not run now are kept
        where they are still of the same model and images. Raises DbnetError, and the file is as it was, if any run
        could not be made, or the file is of another model of somebody, or of other images."""
        made: dict[str, Trace] = {}
        failed: dict[str, str] = {}
        for name in self.wanted.runs():
            try:
                made[name] = self._runs.make(name)
            except DbnetError as error:
                failed[name] = str(error)
        if failed:
            raise DbnetError(self._failed(failed))
        self._check_subject(made)
        changes = {name: self._against_old(name, trace) for name, trace in made.items()}
        rest = [name for name in self.old if name not in made]
        kept = {name: self.old[name] for name in rest if self._still_right(name, made)}
        write_traces(self.wanted.path, kept | made, force=True)
        return update_lines(self.wanted, changes, list(kept), [name for name in rest if name not in kept],
                            self.wanted.path.stat().st_size)

    def _failed(self, failed: Mapping[str, str]) -> str:
        """failed: name of a run -> why it could not be made."""
        count = len(self.wanted.runs())
        reasons = [f"{reason} ({', '.join(name for name in failed if failed[name] == reason)})"
                   for reason in dict.fromkeys(failed.values())]
        hint = "; name the runners that can with --runner" if len(failed) < count else ""
        return (f"{len(failed)} of {count} runs could not be made, so {self.wanted.path} was not written{hint}: "
                f"{'; '.join(reasons)}")

    def _check_subject(self, made: Mapping[str, Trace]) -> None:
        """Of the project's networks there is one set, which this version may have changed; of models there are many."""
        if self.wanted.candidate is None:
            return
        for name, old in self.old.items():
            reason = other_subject(old, made.get(name) or next(iter(made.values())))
            if reason is not None:
                raise DbnetError(f"{self.wanted.path} {reason.removeprefix('the baseline ')}; "
                                 f"remove it, or name another file")

    def _against_old(self, name: str, trace: Trace) -> RunChange | str:
        if name not in self.old:
            return NEW
        try:
            return compare_runs(self.old[name], trace)
        except DbnetError as error:
            return f"replaced: {error}"

    def _still_right(self, name: str, made: dict[str, Trace]) -> bool:
        """Whether an old run is of the same network and images as one of now, in whatever runner."""
        network = name.rpartition("-")[0]
        peer = next((trace for other, trace in made.items() if other.rpartition("-")[0] == network), None)
        return peer is not None and same_subject(self.old[name], peer)
