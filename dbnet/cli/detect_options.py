"""What `dbnet detect` is told about what to write and who runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dbnet.errors import DbnetError


def kind_names(_context: click.Context, _parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """`a,b` and repeated options as one tuple, in the order of `evaluation.detecting_files.KINDS`."""
    from evaluation.detecting_files import KINDS
    names = {name.strip().lower() for text in given for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(KINDS))
    if unknown or (given and not names):
        what = f"unknown: {', '.join(unknown)}" if unknown else "no name in it"
        raise click.BadParameter(f"{what}; choose from {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in names)


def chosen_kinds(report_only: bool, only: tuple[str, ...], no_pictures: bool, no_overlay: bool,
                 crops: bool) -> tuple[str, ...]:
    """What to write into the folder. report_only: there is none, and options that need one are a usage error."""
    if no_pictures and "pictures" in only:
        raise click.UsageError("--no-pictures and --only pictures contradict each other")
    if report_only:
        files = [kind for kind in only if kind != "json"] or (["crops"] if crops else [])
        if files:
            raise click.UsageError(f"{files[0]} need a folder: beside --json, name it by --out")
        return ()
    from evaluation.detecting_files import KINDS
    wanted = set(only) or set(KINDS) - {"crops"}
    wanted |= {"crops"} if crops else set()
    wanted -= {"pictures"} if no_pictures else set()
    if not wanted:
        raise click.UsageError("nothing is left to write")
    if no_overlay and "pictures" not in wanted and not no_pictures:
        raise click.UsageError("--no-overlay is about pictures, and none are wanted")
    return tuple(kind for kind in KINDS if kind in wanted)


def chosen_runner(runner: str, device: str | None, model: Path | None = None) -> str | None:
    """The runner for `auto`: ONNX Runtime for the CPU, which is also the best device where no accelerator's driver is
    installed; None leaves the choice to the file's format. model: one that only one runtime reads has no other choice.
    """
    if runner != "auto":
        return runner
    from dbnet.extras import installed
    from dbnet.running import driver_version, parse_device
    from evaluation.weightless import is_weightless
    if model is not None and is_weightless(model):
        return None
    on_cpu = parse_device(device).kind == "cpu" if device else not (driver_version("gpu") or driver_version("ascend"))
    return "onnxruntime" if on_cpu and installed("onnxruntime") else None


def check_report_apart(folder: Path, json_path: str | None) -> None:
    """Raises DbnetError if --json is to lie in the folder of results, which has a JSON of its own."""
    if json_path not in (None, "-") and Path(str(json_path)).resolve().is_relative_to(folder.resolve()):
        raise DbnetError(f"{json_path}: lies in the output folder, which has its own detections.json; name "
                         f"another file")
