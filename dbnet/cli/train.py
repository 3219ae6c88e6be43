"""dbnet train"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import PathArgument, json_option, write_json
from dbnet.cli.recipe_options import RecipeCommand, opt_option

if TYPE_CHECKING:
    from evaluation.training_setup import Ready


@click.command(cls=RecipeCommand)
@click.option("--config", "-c", "recipe", metavar="RECIPE", required=True,
              help="A recipe: MindOCR's YAML, or a name of dbnet recipe list.")
@opt_option
@click.option("--root", type=PathArgument, help="dataset_root of train and eval: the folder above their paths.")
@click.option("--backend", type=click.Choice(["torch", "mindspore"]), help="Default: the one that is installed.")
@click.option("--device", help="cpu, cuda:0, ascend, ...; default: the best present.")
@click.option("--resume", is_flag=False, flag_value="", metavar="[FILE]",
              help="Go on with the training in train.ckpt_save_dir, or with FILE, of either backend.")
@click.option("--pretrained", type=PathArgument, metavar="FILE",
              help="Weights to begin with, in any format: a detector, or a backbone.")
@click.option("--workers", type=click.IntRange(min=0), metavar="N",
              help="Processes that prepare images; 0: none. Default: train.loader.num_workers, at most one per core.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="In place of system.seed.")
@click.option("--max-steps", type=click.IntRange(min=1), metavar="N",
              help="End after N batches, those before --resume included.")
@click.option("--step-function", type=click.Choice(["paper", "mindocr"]),
              help="paper (default): sigmoid(k (P - T)); mindocr: sigmoid(k P - T).")
@click.option("--mining", type=click.Choice(["mindocr", "batch"]), default="mindocr", show_default=True,
              help="Hard negatives of each image (mindocr), or of the whole batch (MhLiao/DB, PaddleOCR).")
@click.option("--amp", type=click.Choice(["O0", "O2", "bf16"]), help="In place of system.amp_level.")
@click.option("--save-every", type=click.FloatRange(min=0), default=120.0, show_default=True, metavar="SECONDS",
              help="How much of the training a crash may cost.")
@click.option("--force", is_flag=True, help="Give up the training in train.ckpt_save_dir; its files are removed.")
@json_option
def train(recipe: str, overrides: Sequence[str], root: Path | None, resume: str | None, max_steps: int | None,
          amp: Any, json_path: str | None, **others: Any) -> None:
    """Train a detector as a recipe says, as MindOCR's tools/train.py does, in PyTorch or MindSpore.

    Leaves in train.ckpt_save_dir: best and last checkpoints, those of the best epochs (e1, e2, ...), result.csv,
    curves.png and the effective recipe. SIGINT and SIGTERM finish the step, save, and end with exit code 3; --resume
    goes on from there, or from what the other backend has saved.
    """
    from dbnet.recipe import read_recipe
    read = read_recipe(recipe, overrides)
    if root is not None:
        _check_root(read.origins)
        read = read.with_root(root)
    if resume == "" and others["force"]:
        raise click.UsageError("--resume goes on with the training in train.ckpt_save_dir, --force gives it up; give "
                               "one of them")
    if resume is not None and others["pretrained"]:
        raise click.UsageError("--resume and --pretrained name weights to begin with both; give one of them")
    from dbnet.cli.train_print import Printed, print_outcome
    from dbnet.loader import Loader
    from evaluation.training_setup import Request, prepare
    request = Request(resume=False if resume is None else Path(resume) if resume else True, last_step=max_steps,
                      precision=amp, **others)
    with ending_on_signals() as stopped, Printed() as report:
        ready = prepare(read, request, report, stopped)
        report.begin(ready)
        training = ready.training
        with Loader(training.data, training.plan.batch_size, ready.workers) as loader:
            training.run(loader)
    if json_path:
        write_json(json_path, _outcome(read.name, ready))
    if json_path != "-":
        print_outcome(training)


def _check_root(origins: dict[str, str]) -> None:
    for section in ("train", "eval"):
        if origins.get(f"{section}.dataset.dataset_root") == "command line":
            raise click.UsageError(f"--root and -o {section}.dataset.dataset_root=... name a folder both; give one of "
                                   f"them")


@contextlib.contextmanager
def ending_on_signals() -> Iterator[Callable[[], str | None]]:
    """Yields what says the name of the signal that has asked for the end, if one has; another one ends at once."""
    asked: list[str] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)
        # Not click.echo: the signal may have come while standard error is being written to.
        os.write(2, f"\n{asked[0]}: finishes the step, saves and ends; once more ends at once\n".encode())

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(recipe: str, ready: Ready) -> dict[str, Any]:
    """For --json."""
    training = ready.training
    plan, journal, folder = training.plan, training.journal, training.folder
    best = None
    if journal.best is not None:
        best = {"epoch": journal.best[0], "by": journal.by, "score": abs(journal.best[1]),
                "file": str(folder.find_best())}
    return {"recipe": recipe, "backend": journal.backend, "device": str(training.trainer.device),
            "spec": plan.spec.name, "precision": plan.precision, "seed": plan.seed, "images": journal.images,
            "epochs": journal.epoch, "steps": journal.step, "updates": training.trainer.steps,
            "overflows": training.trainer.overflows, "best": best, "last": str(folder.last), "folder": str(folder.path),
            "rows": [asdict(row) for row in journal.rows], "lines": [ready.title, *ready.lines]}
