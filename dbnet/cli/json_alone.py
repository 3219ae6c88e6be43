"""--json whose file may be left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from dbnet.cli.options import json_checked


class JsonAlone(click.Command):
    """A command whose --json may stand alone: what follows is its file only if it ends in .json, or is -."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        following = [*args[1:], ""][:len(args)]
        alone = [after for arg, after in zip(args, following, strict=True)
                 if arg == "--json" and not (after == "-" or after.lower().endswith(".json"))]
        try:
            return super().parse_args(ctx, [
                "--json=-" if arg == "--json" and after in alone else arg
                for arg, after in zip(args, following, strict=True)])
        except click.UsageError as error:
            if "extra argument" in error.message and any(after and not after.startswith("-") for after in alone):
                raise click.UsageError(f"{error.message}; a file of --json ends in .json, any other is written "
                                       f"--json=FILE", error.ctx) from error
            raise


def json_alone(command: Callable[..., Any]) -> Callable[..., Any]:
    """--json; the command gets `json_path`, checked, None where it is not given."""
    return click.option("--json", "json_path", metavar="[FILE.json]", callback=json_checked,
                        help="Write as JSON, to a file that ends in .json (any other: --json=FILE); "
                             "alone: to standard output.")(command)
