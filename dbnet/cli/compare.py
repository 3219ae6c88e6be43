"""dbnet compare"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dbnet.cli.options import PathArgument, json_option, print_table, source_options, write_json

LISTED = 20


@click.command()
@click.argument("a", type=PathArgument)
@click.argument("b", type=PathArgument)
@click.option("--weights", is_flag=True, required=True, help="Compare tensor by tensor, bit for bit.")
@json_option
@source_options
def compare(a: Path, b: Path, weights: bool, json_path: str | None, options: Any) -> None:
    """Compare two weight files of any format under canonical names. Exit code 1 if they differ.

    A different semantic (such as stem_pool) is a difference: equal names do not make equal numbers.
    """
    from converters.compare_weights import compare_weights
    first, second = _loaded(a, b, options)
    result = compare_weights(first, second)
    if json_path:
        write_json(json_path, {
            "same": result.same, "identical": result.identical, "different": [d.__dict__ for d in result.different],
            "only_a": result.only_a, "only_b": result.only_b, "semantics": result.semantics,
            "sha256": [first.record.sha256, second.record.sha256]})
    if json_path != "-":
        _show(result)
    if not result.same:
        raise click.exceptions.Exit(1)


def _loaded(a: Path, b: Path, options: Any) -> list[Any]:
    """Both models. --part and --take choose in a file that leaves a choice, as long as one of the two does."""
    from dataclasses import replace

    from converters.load import NoChoiceError, load_model
    loaded, refused = [], None
    for path in (a, b):
        try:
            loaded.append(load_model(path, options))
        except NoChoiceError as error:
            if refused is not None:
                raise refused from None
            refused = error
            loaded.append(load_model(path, replace(options, part=None, take=None)))
    return loaded


def _show(result: Any) -> None:
    if result.same:
        click.echo(f"same: {result.identical} tensors, bit for bit, and the same semantics")
        return
    click.echo(f"different: {len(result.different)} tensors differ, {result.identical} are identical, "
               f"{len(result.only_a)} only in A, {len(result.only_b)} only in B")
    for key, (ours, theirs) in result.semantics.items():
        click.echo(f"semantics: {key} is {ours} in A, {theirs} in B")
    for side, names in (("A", result.only_a), ("B", result.only_b)):
        if names:
            click.echo(f"only in {side}: {', '.join(names[:LISTED])}{' ...' if len(names) > LISTED else ''}")
    if result.different:
        worst = sorted(result.different, key=lambda d: -(d.max_rel if d.max_rel is not None else float("inf")))
        print_table("", ("tensor", "why", "max abs", "max rel"),
                    [(d.name, d.why, _number(d.max_abs), _number(d.max_rel)) for d in worst[:LISTED]], right=(2, 3))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
