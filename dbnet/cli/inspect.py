"""dbnet inspect"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from dbnet.cli.options import PathArgument, json_option, source_options, write_json
from dbnet.errors import DbnetError, UnknownNetworkError

LISTED = 8


@click.command()
@click.argument("file", type=PathArgument)
@json_option
@source_options
def inspect(file: Path, json_path: str | None, options: Any) -> None:
    """Say what FILE holds: network, semantics, dialect, tensors, digest; and what is wrong if it fits nothing.

    Exit code 1 if it fits no known network.
    """
    from converters.formats import detect
    from converters.inspect import inspect as run
    from parity.traced import is_traced
    if is_traced(file):
        _inspect_trace(file, json_path)
        return
    try:
        found = run(file, options)
    except UnknownNetworkError as error:
        if detect(file) != "onnx":
            raise
        raise DbnetError(f"{error}; it may run as it is: {_command(file, None)}") from error
    if json_path:
        write_json(json_path, found)
    if json_path != "-":
        _show(file, found)
    if found["spec"] is None:
        raise click.exceptions.Exit(1)


def _inspect_trace(file: Path, json_path: str | None) -> None:
    """What each run of a trace is of, or of one run that is named."""
    from parity.trace_file import read_traces, split_run
    from parity.trace_part import told_of
    from parity.traced import open_trace, side_of
    path, run = split_run(file)
    sides = [open_trace(file)] if run else [side_of(trace, path, name) for name, trace in read_traces(path).items()]
    if json_path:
        write_json(json_path, {"format": "trace", "runs": {
            side.run_name: side.told() | {"stages": list(side.recorded.stages),
                                          "images": [image.name for image in side.recorded.images]} for side in sides}})
    if json_path == "-":
        return
    click.echo(f"file        {path} (trace, {len(sides)} run{'s' if len(sides) > 1 else ''})")
    for side in sides:
        trace, about = side.recorded, side.recorded.about
        environment = side.runner.environment()
        boxes = [found for i in range(len(trace.images)) if (found := trace.boxes(i)) is not None]
        lines = [("run", side.run_name), ("model", f"{about.get('file')}: {side.runner.spec.name}"),
                 ("runner", f"{side.runner.name} {environment.get('version')} ({side.runner.device}), "
                            f"{environment.get('precision')}"),
                 ("machine", ", ".join(f"{key} {value}" for key, value in dict(about.get("machine") or {}).items())),
                 ("level", trace.level), ("stages", ", ".join(trace.stages)),
                 ("images", f"{len(trace.images)}: {_names([image.name for image in trace.images])}"),
                 ("boxes", f"{sum(map(len, boxes))} in {len(boxes)} images"),
                 *[("part", told) for told in (told_of(about),) if told]]
        for key, text in lines:
            click.echo("".join(c if c.isprintable() else "?" for c in f"{key:<11} {text}"))


def _show(file: Path, found: dict[str, Any]) -> None:
    lines = [("file", f"{file} ({found['format']})")]
    if found["spec"]:
        subset = "" if found["subset"] == "complete" else "  (inference subset: no head.thresh)"
        lines += [("spec", found["spec"] + subset), ("dialect", found["dialect"]),
                  ("semantics", ", ".join(f"{k}={v}" for k, v in found["semantics"].items())),
                  ("record", {None: "none: defaults are assumed where no note says else",
                              "matches": "present, digest matches",
                              "edited": "present, but the weights were changed after it was written"}[found["record"]])]
    else:
        near = found["nearest"]
        lines += [("is", text.removeprefix("is ")) for text in (found["recognised"],) if text]
        lines += [("backbone", f"{text}; no neck, no head (for dbnet train --pretrained)")
                  for text in (found["backbone"],) if text]
        lines.append(("fits", f"nothing; nearest is {near['spec']} in {near['dialect']} names"))
        if found["runs"]:
            family = found["runs"]["pixels"]
            why = f"; pixels {family}, for {found['runs']['because']}" if family else ""
            lines.append(("runs", f"perhaps as it is: {_command(file, family)}{why}"))
    dtypes = ", ".join(f"{count} {name}" for name, count in found["dtypes"].items())
    lines += [("tensors", f"{found['tensors']} ({dtypes})"), ("values", f"{found['parameters']:,}")]
    if found["sha256"]:
        lines.append(("sha256", found["sha256"]))
    for key in ("missing", "unexpected", "dropped"):
        if found[key]:
            lines.append((key, f"{len(found[key])}: {_names(found[key])}"))
    for key in ("misshapen", "wrong_dtype"):
        if found[key]:
            lines.append((key, f"{len(found[key])}: {_names([f'{n} {why}' for n, why in found[key].items()])}"))
    lines += [(what, f"{count}") for what, count in found["training"].items()]
    if found["progress"]:
        from converters.training_convert import told
        lines.append(("training", told(found["progress"])))
    lines += [("note", note) for note in found["notes"]]
    lines += [(key, _short(value)) for key, value in found["metadata"].items()]
    for key, text in lines:
        click.echo("".join(c if c.isprintable() else "?" for c in f"{key:<11} {text}"))


def _command(file: Path, family: str | None) -> str:
    """How to run an .onnx whose network is not known."""
    from dbnet.pixel_formats import CHOICES
    pixels = "" if family else f" --pixels NAME, NAME one of {CHOICES}"
    return f"dbnet detect IMAGES -m {shlex.quote(str(file))}{pixels}"


def _names(names: list[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f", and {rest} more" if rest > 0 else "")


def _short(value: object) -> str:
    text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) <= 200 else text[:197] + "..."
