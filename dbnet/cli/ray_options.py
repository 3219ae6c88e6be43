"""--ray: the same command on a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click


class AddressType(click.ParamType):
    """auto, local, HOST:PORT or ray://HOST:PORT, see `evaluation.clusters.connecting`."""

    name = "address"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "[auto|local|HOST:PORT|ray://HOST:PORT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from evaluation.clusters.connecting import AddressError, check_address
        try:
            return check_address(value)
        except AddressError as error:
            self.fail(str(error), param, ctx)


def ray_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ray and --ray-workers; the command gets them as one `ray: OnRay | None`."""

    @click.option("--ray", "address", type=AddressType(),
                  help="Share the images out among the workers of a Ray cluster: the same digits, and a lost worker "
                       "costs a few images. local starts one of this machine's cores; auto is the one that runs here.")
    @click.option("--ray-workers", "workers", type=click.IntRange(min=1), metavar="N",
                  help="So many workers at most, each with --threads threads (1), or a card of its own.  [default: as "
                       "many as have room]")
    @functools.wraps(command)
    def wrapped(address: str | None, workers: int | None, **given: Any) -> Any:
        if address is None:
            if workers is not None:
                raise click.UsageError("--ray-workers means nothing without --ray")
            return command(ray=None, **given)
        from evaluation.clusters.connecting import OnRay
        return command(ray=OnRay(address, workers), **given)

    return wrapped
