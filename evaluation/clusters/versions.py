"""What has to be the same on the driver and on every node: other versions give other digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbnet.errors import DbnetError
from dbnet.onnx_providers import PROVIDERS
from dbnet.runner_names import RunnerName

#: framework -> the distributions that have it.
_DISTRIBUTIONS = {
    "torch": ("torch",), "mindspore": ("mindspore", "mindspore-gpu", "mindspore-ascend"), "openvino": ("openvino",),
    "onnxruntime": tuple(dict.fromkeys(each.package for each in PROVIDERS.values() if each.package)),
    "mindspore_lite": ("mindspore-lite",)}


def distributions_of(who: RunnerName) -> tuple[str, ...]:
    """Of the runner's framework; none where it is in another environment, or OpenCV, which is compared anyway."""
    return () if who.python is not None else _DISTRIBUTIONS.get(who.framework, ())


def check_same(here: Mapping[str, str | None], about: Mapping[str, Any], who: RunnerName,
               first: Mapping[str, Any] | None = None) -> None:
    """Raises DbnetError, with the node, the package and both versions, unless a worker has what the driver has. The
    driver need not have the framework, nor its build for the same cards; workers have the same as the `first` of them.

    here: `process.versions` of the driver. about: `Process.about`.
    """
    host, there = about["host"], about["versions"]
    for name, ours in here.items():
        theirs = there.get(name)
        title = who.framework if name == "framework" else name
        if theirs is None:
            what = "dbnet-parity" if title.startswith("dbnet-parity") else title
            raise DbnetError(f"node {host}: has no {what}, where it runs Ray; install the same as here on every node "
                             f"(here: {ours or 'none'})")
        if name == "framework" and ours is not None:
            ours, theirs = _public(ours), _public(theirs)
        if ours is not None and theirs != ours:
            raise _differs(host, title, theirs, f"and {ours} here")
    for name, version in ({} if first is None else first["versions"]).items():
        if there.get(name) != version:
            title = who.framework if name == "framework" else name
            raise _differs(host, title, there.get(name), f"and {version} on node {first['host'] if first else ''}")


def _differs(host: str, title: str, there: str | None, other: str) -> DbnetError:
    return DbnetError(f"node {host}: {title} is {there} there {other}; install the same on all, for other versions "
                      f"give other digits")


def _public(version: str) -> str:
    """Without what says which build it is: 2.13.0+cpu."""
    return version.partition("+")[0]
