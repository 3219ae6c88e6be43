"""What `dbnet evaluate` is told about boxes, protocols and sweeps."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from dbnet.spec import BoxRule, BoxRuleName, BoxType, ScoreMode

#: Settings of `BoxRule` by their names on the command line.
BOX_SETTINGS = tuple(field.name for field in fields(BoxRule))
#: The protocol that a data set's numbers are published by.
OWN_PROTOCOL = {"icdar2015": "rrc", "mlt2017": "mlt2017", "ctw1500": "ctw1500", "totaltext": "totaltext",
                "td500": "td500"}
#: More would take hours, and the best of so many says nothing.
MAX_COMBINATIONS = 1000


def box_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each field of `BoxRule`; the command gets those that were given as one dict `boxes`."""

    @click.option("--box-rule", "rule", type=click.Choice(get_args(BoxRuleName)), help="Whose way from map to boxes.")
    @click.option("--box-type", type=click.Choice(get_args(BoxType)), help="Rotated rectangles or polygons.")
    @click.option("--binary-thresh", type=click.FloatRange(0, 1), metavar="P",
                  help="Pixels above it (mindocr: or at it) are text.")
    @click.option("--box-thresh", type=click.FloatRange(0, 1), metavar="P", help="Boxes that score less are dropped.")
    @click.option("--unclip-ratio", type=float, metavar="R", help="How far boxes grow.")
    @click.option("--max-candidates", type=click.IntRange(min=1), metavar="N", help="Contours looked at.")
    @click.option("--score-mode", type=click.Choice(get_args(ScoreMode)), help="Rule paddle: where a score is taken.")
    @click.option("--dilation/--no-dilation", default=None, help="Rule paddle: widen the bitmap by a pixel.")
    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        boxes = {name: value for name in BOX_SETTINGS if (value := given.pop(name)) is not None}
        if "rule" in boxes:
            _check_choices(boxes["rule"], boxes)
        return command(boxes=boxes, **given)

    return wrapped


def _check_choices(rule: str, given: Mapping[str, Any]) -> None:
    """A usage error for what only PaddleOCR's rule has."""
    odd = [option for option, is_odd in (("--score-mode slow", given.get("score_mode", "fast") != "fast"),
                                         ("--dilation", given.get("dilation", False))) if is_odd]
    if odd and rule != "paddle":
        raise click.UsageError(f"{odd[0]} means nothing for boxes by the rule {rule}; add --box-rule paddle, whose "
                               f"choice it is")


def chosen_boxes(own: BoxRule, given: Mapping[str, Any]) -> BoxRule:
    """The model's own rule with the settings that were given.

    Under another project's rule, or with another type of box, the thresholds start from that project's defaults. A
    usage error for settings that the rule does not have.
    """
    from dbnet.postprocess import default_boxes
    rule, box_type = given.get("rule", own.rule), given.get("box_type", own.box_type)
    _check_choices(rule, given)
    base = own if (rule, box_type) == (own.rule, own.box_type) else default_boxes(rule, box_type)
    return replace(base, **given)


def protocol_names(_context: click.Context, _parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """`a,b` and repeated options as one tuple; `all` stands for every protocol."""
    from evaluation.protocols.table import NAMES, PROTOCOLS
    names = tuple(name.strip().lower() for text in given for name in text.split(",") if name.strip())
    if given and not names:
        raise click.BadParameter(f"no name in it; choose from {', '.join(PROTOCOLS)} or all")
    for name in names:
        if name not in (*NAMES, "all"):
            raise click.BadParameter(f"unknown protocol {name!r}; choose from {', '.join(PROTOCOLS)} or all")
    return tuple(PROTOCOLS) if "all" in names else names


def jsonl_file(_context: click.Context, _parameter: click.Parameter, given: Path | None) -> Path | None:
    """Refuses other names: a slip must not turn somebody's file into ours."""
    if given is not None and given.suffix.lower() != ".jsonl":
        raise click.BadParameter(f"{given}: name a file that ends in .jsonl")
    return given


def sweep_settings(_context: click.Context, _parameter: click.Parameter,
                   given: Sequence[str]) -> dict[str, list[Any]]:
    """`NAME=V,V,...` or `NAME=START:STOP:STEP` of each --sweep: setting -> its values."""
    swept: dict[str, list[Any]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        name = {"box-rule": "rule"}.get(name.strip(), name.strip().replace("-", "_"))
        if not equals or name not in (*BOX_SETTINGS, "score"):
            raise click.BadParameter(f"{text!r}: write NAME=V,V,... or NAME=START:STOP:STEP, NAME one of "
                                     f"{', '.join(BOX_SETTINGS)}; for --results it is score")
        if name in swept:
            raise click.BadParameter(f"{name} is swept twice")
        swept[name] = _values(name, values)
    combinations = math.prod(map(len, swept.values()))
    if combinations > MAX_COMBINATIONS:
        raise click.BadParameter(f"{combinations} combinations, more than {MAX_COMBINATIONS}; take larger steps")
    return swept


def _values(name: str, text: str) -> list[Any]:
    parts = [part.strip() for part in text.split(":")]
    if len(parts) == 3:
        start, stop, step = (_value(name, part) for part in parts)
        if isinstance(start, (str, bool)) or not step > 0 or stop < start:
            raise click.BadParameter(f"{name}={text}: START:STOP:STEP wants numbers that lead upwards")
        steps = (stop - start) / step + 1e-6  # STOP included, whatever .1 is in binary
        if not steps < MAX_COMBINATIONS:
            raise click.BadParameter(f"{name}={text}: {steps:.3g} values, more than {MAX_COMBINATIONS}")
        return [round(start + i * step, 10) for i in range(int(steps) + 1)]
    values = [_value(name, part) for part in text.split(",") if part.strip()]
    if not values or len(parts) > 1:
        raise click.BadParameter(f"{name}={text}: write V,V,... or START:STOP:STEP")
    return list(dict.fromkeys(values))


def _value(name: str, text: str) -> Any:
    """One value of a setting, of the type that `BoxRule` gives it; its range is checked where it is used."""
    kind = float if name == "score" else get_type_hints(BoxRule)[name]
    text = text.strip()
    if kind is bool:
        kind, text = _switch, text.lower()
    elif kind not in (int, float):
        if text not in get_args(kind):
            raise click.BadParameter(f"{name}: {text!r} is none of {', '.join(get_args(kind))}")
        return text
    try:
        value = kind(text)
    except (ValueError, KeyError) as error:
        raise click.BadParameter(f"{name}: {text!r} is no value for it") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise click.BadParameter(f"{name}: {text!r} is no number to compute with")
    return value


def _switch(text: str) -> bool:
    return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}[text]


def combinations(boxes: BoxRule, swept: Mapping[str, Sequence[Any]]) -> list[BoxRule]:
    """Every combination of the swept settings, the others as in `boxes`."""
    if not swept:
        return []
    return [chosen_boxes(boxes, dict(zip(swept, values, strict=True))) for values in itertools.product(*swept.values())]
