"""-c and -o, written as MindOCR's tools take them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

_SETTING = re.compile(r"[A-Za-z_][\w.\[\]+-]*=")


class RecipeCommand(click.Command):
    """A command that takes `-c=FILE` like argparse, and any number of settings behind one -o: `-o a.b=1 c.d=2`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(spread(args)))


def spread(args: Sequence[str]) -> Iterator[str]:
    """`-o a=1 b=2` as `-o a=1 -o b=2`, and `-c=x`, `-o=x` as `-c x`, `-o x`; nothing behind `--`."""
    taking, literal = 0, False  # taking: 1 right behind an -o, 2 behind the first setting that it takes
    for arg in args:
        literal = literal or arg == "--"
        short = re.match(r"-([co])=(.*)", arg, re.DOTALL)
        if literal:
            yield arg
        elif short is not None:
            yield f"-{short[1]}"
            yield short[2]
            taking = 2 if short[1] == "o" else 0
        elif arg in ("-o", "--opt"):
            yield arg
            taking = 1
        elif taking == 2 and _SETTING.match(arg):
            yield "-o"
            yield arg
        else:
            yield arg
            taking = 2 if taking == 1 else 0


def opt_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """-o KEY=VALUE ...; the command gets them as `overrides`."""
    return click.option("-o", "--opt", "overrides", multiple=True, metavar="KEY=VALUE ...",
                        help="Change settings of the recipe, e.g. -o eval.dataset.dataset_root=/data. VALUE is YAML.")(
        command)
