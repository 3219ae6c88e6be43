"""The `dbnet` command. Commands are named as strings and imported when they run, so that `dbnet --help` is quick.

Exit codes of every command: 0 done or same, 1 a negative verdict, 2 usage, 3 could not do it.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from dbnet.cli.ending import exit_code_of
from dbnet.version import VERSION

#: command -> (module:function, one line of help). The help stands here so that listing imports nothing.
COMMANDS = {
    "convert": ("dbnet.cli.convert:convert", "Convert weights between .ckpt, .pth, .onnx and .safetensors."),
    "export": ("dbnet.cli.export:export", "Write a model for a runtime, and compare it there."),
    "inspect": ("dbnet.cli.inspect:inspect", "Say what a weight file holds."),
    "compare": ("dbnet.cli.compare:compare", "Compare two models: stages, causes, boxes, scores; a report."),
    "trace": ("dbnet.cli.trace:trace", "Record what a model computes, for a comparison on another machine."),
    "kit": ("dbnet.cli.kit:kit", "Make a folder for an hour on a host with an Ascend NPU."),
    "interop": ("dbnet.cli.interop:interop", "Write what msprobe and Polygraphy read."),
    "evaluate": ("dbnet.cli.evaluate:evaluate", "Score a model on a data set."),
    "bench": ("dbnet.cli.bench:bench", "Measure models in several runners: speed, memory, score, parity."),
    "report": ("dbnet.cli.report:report", "Join benchmarks or parts of a run; check figures; find regressions."),
    "precision": ("dbnet.cli.precision:precision", "Say what half precision does to a model: layers, boxes, scores."),
    "train": ("dbnet.cli.train:train", "Train a detector as a recipe says, in PyTorch or MindSpore."),
    "data": ("dbnet.cli.data:data", "Convert, check and show data sets as they were published."),
    "recipe": ("dbnet.cli.recipe:recipe", "Show a recipe (MindOCR's YAML), or list those of this package."),
    "detect": ("dbnet.cli.detect:detect", "Find the texts in images: boxes, and pictures of them."),
    "fetch": ("dbnet.cli.fetch:fetch", "Fetch published weights by name, or list them."),
    "specs": ("dbnet.cli.specs:specs", "List the known networks with their sizes."),
    "demo": ("dbnet.cli.demo:demo", "Convert, run and compare an embedded model; write a report."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, message="dbnet-parity %(version)s")
def cli() -> None:
    """Move DBNet text detectors between MindSpore, PyTorch and ONNX, and prove that they are still the same."""


def main() -> None:
    """Runs the command line and turns every failure into one line and an exit code."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this; files must not get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    sys.exit(exit_code_of(_run))


def _run() -> None:
    from dbnet.shadow import check_shadowing
    check_shadowing()
    # Not cli.main(): it would answer a closed pipe with exit code 1, which is a verdict here.
    with cli.make_context("dbnet", sys.argv[1:], obj=sys.argv[1:]) as context:
        cli.invoke(context)


if __name__ == "__main__":
    main()
