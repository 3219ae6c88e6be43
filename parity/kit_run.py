"""`python run.py` in a kit: preflight, then step after step while there is time, then the result.

Runs where there is NumPy and MindSpore and nothing else of ours than the copies beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dbnet.errors import DbnetError
from dbnet.running import Device, parse_device
from dbnet.writing import check_target
from parity import kit_preflight
from parity.kit_hour import Hour
from parity.kit_plan import FIRST_STEP, Step, counted, steps_of, told_seconds
from parity.kit_result import judged, told_timing, unchanged, write_result
from parity.kit_say import prepare, say, say_error, told_options
from parity.kit_store import Work, work_of
from parity.trace import Trace
from parity.trace_file import is_trace, read_traces

#: Minutes of an hour that are used unless told otherwise.
MINUTES = 50.0
RESULT = "result.trace"
#: What ends it in good order.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REFERENCE = "reference.trace"


def run(folder: str, arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 1 not within tolerance, 2 usage, 3 could not do it, 128 + n ended by signal n."""
    began = time.monotonic()
    args = _arguments(arguments)
    came: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_DFL)  # the second time it is meant at once
        came.append(number)
        raise KeyboardInterrupt

    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # which is what nohup is for
            signal.signal(number, stop)
    prepare()
    try:
        return _run(Path(folder), args, began, came)
    except DbnetError as error:
        say_error(str(error))
        return 3
    except KeyboardInterrupt:
        say_error("ended before anything was done")
        return 128 + came[0]


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("run.py", description="Runs a text detector on an Ascend NPU, the most valuable "
                                     "first, and writes what came out into one small file. Started again, it goes on; "
                                     "without --force nothing that was done is lost.")
    parser.add_argument("--device", type=_device, help="Ascend, Ascend:1, ..., or CPU  [default: Ascend]")
    parser.add_argument("--minutes", type=_minutes, default=MINUTES, metavar="M",
                        help="the time that there is; what no longer fits is left out  [default: %(default)g]")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the result  [default: {RESULT} beside run.py]")
    parser.add_argument("--force", action="store_true", help="begin again where the work so far is "
                             "of another device, of other versions or options; replace a file that is no result")
    parser.add_argument("--preflight", action="store_true", help="only look whether it can be done")
    parser.add_argument("--rehearse", action="store_true", help="everything on the CPU, as --device CPU")
    parser.add_argument("--jit-level", choices=["O0", "O1", "O2"], help="MindSpore's  [default: its own choice]")
    parser.add_argument("--any-cann", action="store_true", help="go on with a CANN that MindSpore does not list")
    args = parser.parse_args(arguments)
    if args.rehearse and args.device is not None and args.device.kind != "cpu":
        parser.error("--rehearse runs on the CPU; leave out --device")
    args.device = args.device or Device("cpu" if args.rehearse else "ascend")
    return args


def _device(text: str) -> Device:
    try:
        device = parse_device(text)
    except DbnetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if device.kind not in FIRST_STEP:
        raise argparse.ArgumentTypeError(f"{text!r} is neither Ascend nor CPU, which a kit is for")
    return device


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")
    return minutes


def _run(folder: Path, args: argparse.Namespace, began: float, came: list[int]) -> int:
    kit = json.loads((folder / "kit.json").read_bytes())
    device: Device = args.device
    result = _result(folder, kit, args)
    if not args.preflight:
        _check_time(args.minutes, device)
    count = len(kit["images"])
    say(f"{kit['about']['file']}: {kit['spec']}, {count} image{'s'[:count > 1]}; kit {kit['digest'][:16]}")
    identity = _preflight(kit, folder, result, args, began + 60 * args.minutes)
    if args.preflight:
        _check_work(result, kit, identity, args.force)
        say("ready: nothing was started")
        return 0
    work = Work(result, kit["digest"])
    try:
        for line in work.begin(identity, args.force):
            say(line)
        steps = steps_of(len(kit["images"]), device.kind)
        hour = Hour(kit, folder, work, identity["device"], args.jit_level, began + 60 * args.minutes,
                    FIRST_STEP[device.kind])
        _go(hour, steps)
        code = _conclude(folder, kit, result, work, steps, hour.told)
    except KeyboardInterrupt:
        say_error(f"ended by {signal.Signals(came[0]).name}; what was done is kept in {work.folder}, and the same "
                  f"command goes on where it stopped")
        return 128 + came[0]
    finally:
        work.close()
    if came:
        say_error(f"ended by {signal.Signals(came[0]).name}; the same command goes on where it stopped")
        return 128 + came[0]
    if code is None:
        more = f" (and {len(hour.told) - 1} more, above)" if len(hour.told) > 1 else ""
        raise DbnetError(f"nothing was recorded, so there is no result: {hour.told[0] if hour.told else ''}{more}")
    return code if code or not hour.broken else 3


def _conclude(folder: Path, kit: dict[str, Any], result: Path, work: Work, steps: Sequence[Step],
              told: Sequence[str]) -> int | None:
    """Writes the result and prints the verdict: 0, or 1 if it is negative; None if nothing was recorded."""
    runs, notes = write_result(result, work, steps, kit, told)
    if not runs:
        return None
    return _report(runs, read_traces(folder / REFERENCE), [*notes, *told], result, kit.get("options", []))


def _go(hour: Hour, steps: Sequence[Step]) -> None:
    try:
        hour.run(steps)
    except KeyboardInterrupt:
        say_error("ending")
    except DbnetError as error:  # what was done before must come into the result
        hour.stopped(str(error))
    finally:
        hour.close()


def _result(folder: Path, kit: dict[str, Any], args: argparse.Namespace) -> Path:
    """Where the result goes. Raises DbnetError before anything is started if it must not go there."""
    result: Path = args.out if args.out is not None else folder / RESULT
    if result.exists() and any((folder / name).resolve() == result.resolve() for name in (*kit["files"], "kit.json")):
        raise DbnetError(f"{result}: is a file of this kit; name another --out")
    ours = is_trace(result) and work_of(result).is_dir()
    check_target(result, force=args.force or ours or args.preflight)
    return result.absolute()


def _check_work(result: Path, kit: dict[str, Any], identity: dict[str, Any], force: bool) -> None:
    """Raises DbnetError if the work so far is of something else: it must not be learnt when the hour has begun."""
    if work_of(result).exists():
        work = Work(result, kit["digest"])
        try:
            work.other(identity, force)
        finally:
            work.close()


def _check_time(minutes: float, device: Device) -> None:
    least = FIRST_STEP[device.kind]
    if 60 * minutes < least:
        raise DbnetError(f"--minutes {minutes:g} is too little: to start MindSpore and compile for one small picture "
                         f"may take {told_seconds(least)}; give more, nothing was started")


def _preflight(kit: dict[str, Any], folder: Path, result: Path, args: argparse.Namespace,
               until: float) -> dict[str, Any]:
    device: Device = args.device
    text = "cpu" if device.kind == "cpu" else f"{device.kind}:{device.index}"
    checks, identity = kit_preflight.look(kit, folder, result, device, text, args.any_cann, os.environ, until)
    for check in [*checks, *kit_preflight.settings_told(device.kind, args.jit_level)]:
        say(f"  {check.name:10}{check.told}{'   <- not like this' if check.problem else ''}")
    kit_preflight.refuse(checks)
    return identity | {"jit_level": args.jit_level}


def _report(runs: dict[str, Trace], reference: dict[str, Trace], notes: Sequence[str], result: Path,
            options: Sequence[str]) -> int:
    """Prints the verdict; 1 if it is negative."""
    say("")
    found = judged(runs, reference)
    for one in found:
        say(one.told())
    for name, run in runs.items():
        if name.endswith(".tiny"):
            continue
        if "timing" in run.about:
            say(f"{name:14} {told_timing(run.about['timing'])}")
        if "repeated" in run.about:
            same, different = (run.about["repeated"][key] for key in ("same", "different"))
            say(f"{name:14} again in another process: {counted(same)} with the same bits"
                + (f", {counted(different)} with others ({', '.join(different[:3])})" if different else ""))
    for note in [*notes, *unchanged(runs)]:
        say(f"note: {note}")
    size = result.stat().st_size / 1e6
    say(f"{result}: {size:.1f} MB to carry back; at home, RUN one of {', '.join(runs)}: "
        f"dbnet compare {shlex.quote(result.name)}:RUN MODEL --images IMAGES{told_options(options)}")
    return 0 if all(one.passed for one in found) else 1
