"""dbnet train"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import PathArgument, json_option, write_json
from dbnet.cli.recipe_options import RecipeCommand, opt_option

if TYPE_CHECKING:
    from dbnet.recipe import Recipe
    from evaluation.training_setup import Ready

#: The exit code of a process of several, where another one tells what has happened.
_FAILED = 3


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
@click.option("--deterministic", is_flag=True, help="Compute the same each time, bit for bit; slower on GPUs.")
@click.option("--force", is_flag=True, help="Give up the training in train.ckpt_save_dir; its files are removed.")
@json_option
def train(recipe: str, overrides: Sequence[str], root: Path | None, backend: str | None, device: str | None,
          resume: str | None, max_steps: int | None, amp: Any, deterministic: bool, json_path: str | None,
          **others: Any) -> None:
    """Train a detector as a recipe says, as MindOCR's tools/train.py does, in PyTorch or MindSpore.

    Leaves in train.ckpt_save_dir: best and last checkpoints, those of the best epochs (e1, e2, ...), result.csv,
    curves.png and the effective recipe. SIGINT and SIGTERM finish the step, save, and end with exit code 3; --resume
    goes on from there, or from what the other backend has saved.

    With system.distribute: True several processes share one training: torchrun --nproc_per_node=N -m dbnet train ...
    (PyTorch), msrun --worker_num=N --local_worker_num=N python -m dbnet train ... or mpirun (MindSpore).
    """
    from dbnet.recipe import read_recipe
    read = read_recipe(recipe, overrides)
    if root is not None:
        _check_root(read.origins)
        read = read.with_root(root)
    from dbnet.cli.train_print import Printed, print_outcome
    from dbnet.launch import find_launch, is_scheduler
    from dbnet.loader import Loader
    from evaluation.training_peers import PeerError
    from evaluation.training_setup import Request, prepare
    from evaluation.training_team import choose_backend, joined, launch_of
    going_on = _going_on(read, resume, others["pretrained"], others["force"])
    if is_scheduler():
        choose_backend(backend, launch_of(read))  # raises what its workers raise, which would keep it waiting
        importlib.import_module("ms_models.compat").serve()
        return
    request = Request(resume=going_on, last_step=max_steps, precision=amp, **others)
    try:
        with (ending_on_signals(3.0 if find_launch() else 0.0) as stopped,
              joined(read, backend, device, deterministic) as team, Printed(team.rank == 0) as report):
            ready = prepare(read, request, report, stopped, team)
            report.begin(ready)
            training = ready.training
            with (contextlib.closing(training.folder),
                  Loader(training.data, training.plan.batch_size, ready.workers) as loader):
                training.run(loader)
    except PeerError as error:
        if error.is_told:
            raise click.exceptions.Exit(_FAILED) from error
        raise
    if team.rank:
        return
    if json_path:
        write_json(json_path, _outcome(read.name, ready))
    if json_path != "-":
        print_outcome(training)


def _going_on(recipe: Recipe, option: str | None, pretrained: Path | None, force: bool) -> bool | Path:
    """What `Request.resume` is to be. option: of --resume, before which the recipe's own settings step back."""
    from evaluation.training_folder import Folder
    from evaluation.training_setup import resume_of
    resume = resume_of(recipe) if option is None else Path(option) if option else True
    if not resume:
        return False
    name, end = "--resume", "give one of them"
    if option is None:
        path = next(path for path in ("model.resume", "train.resume") if recipe.get(path))
        name, end = recipe.where(path), f"give one of them (-o {path}=False)"
    if force and Folder(Path(recipe.get("train.ckpt_save_dir")), "torch").is_gone_on_with(resume):
        raise click.UsageError(f"{name} goes on with the training in train.ckpt_save_dir, --force gives it up; {end}")
    if pretrained:
        raise click.UsageError(f"{name} and --pretrained name weights to begin with both; {end}")
    return resume


def _check_root(origins: dict[str, str]) -> None:
    for section in ("train", "eval"):
        if origins.get(f"{section}.dataset.dataset_root") == "command line":
            raise click.UsageError(f"--root and -o {section}.dataset.dataset_root=... name a folder both; give one of "
                                   f"them")


@contextlib.contextmanager
def ending_on_signals(deaf_for: float = 0.0) -> Iterator[Callable[[], str | None]]:
    """Yields what says the name of the signal that has asked for the end, if one has; another one ends at once.

    deaf_for: seconds in which there is no other one: a launcher hands on what its processes may have heard already.
    """
    asked: list[str] = []
    heard = 0.0

    def hear(number: int, _frame: FrameType | None) -> None:
        nonlocal heard
        if asked and time.monotonic() - heard >= deaf_for:
            raise KeyboardInterrupt
        if asked:
            return
        heard = time.monotonic()
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
            "processes": training.peers.size, "epochs": journal.epoch, "steps": journal.step,
            "updates": training.trainer.steps,
            "overflows": training.trainer.overflows, "best": best, "last": str(folder.last), "folder": str(folder.path),
            "rows": [asdict(row) for row in journal.rows], "lines": [ready.title, *ready.lines]}
