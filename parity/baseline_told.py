"""What the upgrade alarm says: the verdict in one line, then what changed, what else did, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.compare_maps import Boxes
from parity.baseline import BOXES, UNCHANGED, RunChange
from parity.baseline_runs import WantedBaseline
from parity.models import StageRow
from parity.told import stage_table

#: For whoever means it. Which command that was, only the user knows: by path or by name, in some folder.
ACCEPT = "the same command with --update-baseline, and without -k"
#: Of what else changed, this much stands in the first line.
_FIRST = 3
#: What became of a run that the old file has not.
NEW = "new"
#: Said where these are not as they were recorded; measured, see docs/parity.md.
_THREADS = "with another number of threads PyTorch and MindSpore add in another order; ONNX Runtime does not"
_MACHINE = ("it was recorded on another machine, where numbers differ by that alone: keep a baseline for each kind of "
            "machine")


def headline(change: RunChange) -> str:
    """`changed though within tolerance: first at c2, >=3.1e-07 of the largest value; MindSpore 2.8.0 -> 2.9.0`."""
    if change.verdict == UNCHANGED:
        return UNCHANGED
    since = change.since[:_FIRST] + ([f"and {len(change.since) - _FIRST} more"] if len(change.since) > _FIRST else [])
    parts = [f"{change.verdict}: {_where(change)}", ", ".join(since) or "nothing else is known to have changed",
             *(["another machine"] if change.machine else [])]
    return "; ".join(parts)


def _where(change: RunChange) -> str:
    if change.first == BOXES:
        return f"no map changed, {boxes_told(change.boxes)}"
    beyond = next((row for row in change.rows if not row.passed), None)
    first = f"first at {change.rows[0].stage}, {_error(change.rows[0])}"
    if beyond is not None and beyond is not change.rows[0]:
        first = f"first at {beyond.stage}, {_error(beyond)}; changed {first}"
    if beyond is not None and beyond.comparison is not None:
        first = first.replace(_error(beyond), f"{_error(beyond)}, {beyond.comparison.tolerance:.0e} at most", 1)
    return first if change.boxes.same else f"{first}; {boxes_told(change.boxes)}"


def _error(row: StageRow) -> str:
    if row.comparison is None:
        return row.why
    least = ">=" if row.comparison.basis in ("sample", "statistics") else ""
    return f"{least}{row.comparison.max_rel:.1e} of the largest value"


def boxes_told(boxes: Boxes) -> str:
    """`11 of 12 boxes are the same, 1 moved (by 1.0 px at most), 0 lost, 0 new`."""
    if boxes.same:
        return f"all {boxes.a} boxes have their corners, and other scores"
    moved = f"{boxes.moved} moved{f' (by {boxes.max_shift:.1f} px at most)' if boxes.moved else ''}"
    return f"{boxes.identical} of {boxes.a} boxes are the same, {moved}, {boxes.lost} lost, {boxes.invented} new"


def told(change: RunChange, wanted: WantedBaseline) -> str:
    """All of it, the headline first."""
    lines = [headline(change)]
    if change.rows:
        lines += [stage_table(change.rows, width=100),
                  "(of the values and statistics that the baseline keeps: the largest error may be larger)"]
    images = {row.image for row in change.rows}
    if len(images) > 1 or wanted.images:
        lines.append(f"worst on {', '.join(sorted(images)[:3])}{', ...' if len(images) > 3 else ''}")
    lines += [f"not as it was recorded: {each}" for each in change.since]
    if not change.since:
        lines.append("versions, settings, processor and this suite's code are as they were recorded: does the run give "
                     "the same numbers twice? Compare again")
    if any(each.startswith(("threads ", "the cores ", "OMP_NUM_THREADS ")) for each in change.since):
        lines.append(_THREADS)
    if change.machine:
        lines.append(_MACHINE)
    return "\n".join([*lines, f"to accept it: {ACCEPT}"])


def update_lines(wanted: WantedBaseline, changes: Mapping[str, RunChange | str], kept: Sequence[str],
                 dropped: Sequence[str], size: int) -> list[str]:
    """What an update did. changes: of every run that was made, against the old one; one phrase where there is none.
    size: of the file in bytes."""
    lines = [f"{wanted.path}: written, {len(changes) + len(kept)} runs, {size / 1e6:.1f} MB"]
    same = [name for name, change in changes.items() if not isinstance(change, str) and change.verdict == UNCHANGED]
    new = [name for name, change in changes.items() if change == NEW]
    for name, change in changes.items():
        if name not in (*same, *new):
            lines.append(f"  {name}: {change if isinstance(change, str) else headline(change)}")
    for names, what in ((new, "new"), (same, "as they were"),
                        (kept, "kept as they were, since their runner is not run now"),
                        (dropped, "dropped, since they are of other weights, images or networks than those of now")):
        if names:
            lines.append(f"  {len(names)} {what}: {', '.join(names)}")
    return lines
