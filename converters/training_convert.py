"""A whole training from .ckpt to .pth and back, so that the other framework goes on with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converters.dialects import DIALECTS, native_dialect
from converters.formats import read_file, target_format
from converters.load import SourceOptions, default_record
from converters.training_file import TrainingFile, holds_training, understood, write_state
from converters.training_state import PREFIXES
from converters.weights import digest
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import with_semantics
from dbnet.training import AVERAGE, MOMENTS, PENDING, learned
from dbnet.writing import check_target


@dataclass
class TrainingConversion:
    """What was moved. progress: see `progress_of`. carries_record: the target does. weights: how many; sha256: their
    digest."""

    source: TrainingFile
    target: Path
    format: str
    dialect: str
    progress: dict[str, Any]
    carries_record: bool
    weights: int
    sha256: str
    remarks: list[str] = field(default_factory=list)


def convert_training(source: str | Path, target: str | Path, options: SourceOptions | None = None,
                     force: bool = False) -> TrainingConversion:
    """Weights, moments, average, pending gradients, counters and journal, bit for bit.

    A file of others, which carries no record, becomes one that carries none either, so that what it leaves open stays
    open, unless `options` say what it means. Raises DbnetError; the target is then untouched.
    """
    source, target, options = Path(source), Path(target), options or SourceOptions()
    kind = target_format(target)
    if kind not in ("ckpt", "pth"):
        raise DbnetError(f"{target}: {target.suffix} files hold weights only, no training; name the target .ckpt or "
                         f".pth, or leave out --with-optimizer")
    check_target(target, source, force)
    file = read_file(source)
    if not holds_training(file):
        raise DbnetError(f"{source}: holds no training that could be moved; leave out --with-optimizer")
    training = understood(source, file, options)
    progress = progress_of(training)
    if progress is None:
        raise DbnetError(f"{source}: holds no state of an optimizer beside its weights; leave out --with-optimizer")
    _require_whole(training)
    dialect = native_dialect(target.suffix.lower()).name
    default = default_record(dialect, training.record.spec)
    bare = training.bare and not options.semantics and training.record == default
    remarks = [] if progress["epoch"] is not None else [
        "it does not say after which epoch it was saved, so dbnet train --resume will not take it"]
    if training.bare and not bare and DIALECTS[training.dialect].project == "MindOCR" \
            and "step_function" not in options.semantics:
        spec = with_semantics(training.record.spec, {"step_function": "mindocr"})
        training.record = replace(training.record, spec=spec)
        remarks.append("recorded with MindOCR's step function; --set step_function=paper says otherwise")
    write_state(target, training.record, training.state, training.about, bare)
    weights = {p.name: training.state[p.name] for p in parameters(training.record.spec)}
    return TrainingConversion(training, target, kind, dialect, progress, not bare, len(weights), digest(weights),
                              remarks)


def _require_whole(training: TrainingFile) -> None:
    """Raises DbnetError if only some parameters have what the file keeps of each."""
    spec, state = training.record.spec, training.state
    for prefix in PREFIXES:
        wanted = parameters(spec) if prefix == AVERAGE else learned(spec)
        missing = [p.name for p in wanted if prefix + p.name not in state]
        if missing and len(missing) < len(wanted):
            raise DbnetError(f"{training.path}: {prefix.rstrip('.')} is there for {len(wanted) - len(missing)} of "
                             f"{len(wanted)} parameters only (not for {missing[0]}): no training here goes on from "
                             f"that; take its weights alone, without --with-optimizer")


def progress_of(training: TrainingFile) -> dict[str, Any] | None:
    """Where a training stands, as plain values; None for what the file does not say, and for a file that says nothing.

    optimizer: of `dbnet.train_settings`. step: updates. epoch: those that are complete; batch: of the next one, of
    batches. pending: batches whose gradients wait. average: whether it keeps one. loss_scale, overflows. seed, backend.
    """
    state, about = training.state, training.about
    first = learned(training.record.spec)[0].name
    kinds = [name for name, prefixes in MOMENTS.items() if prefixes and all(p + first in state for p in prefixes)]

    def number(name: str, kind: type) -> Any:
        return kind(state[name].item()) if name in state else None

    def said(name: str, kind: type = int) -> Any:
        value = about.get(name)
        return value if type(value) is kind else None

    epoch = said("epoch") if about else number("epoch_num", int)
    if not about and not kinds and epoch is None:
        return None
    return {"optimizer": kinds[0] if kinds else "sgd", "step": number("global_step", int), "epoch": epoch,
            "batch": said("batch"), "batches": said("batches"),
            "pending": (number("accumulation_step", int) or 0) if PENDING + first in state else 0,
            "average": AVERAGE + first in state, "loss_scale": number("loss_scale", float),
            "overflows": number("overflows", int), "seed": said("seed"), "backend": said("backend", str)}


def told(progress: dict[str, Any]) -> str:
    """One phrase."""
    words = [progress["optimizer"]]
    if progress["step"] is not None:
        words.append(f"{progress['step']} steps")
    if progress["epoch"] is not None:
        words.append(f"{progress['epoch']} epochs" + (
            f" and {progress['batch']} of {progress['batches']} batches" if progress["batch"] else ""))
    words += ["averaged weights (EMA)"] * progress["average"]
    words += [f"gradients of {progress['pending']} batches"] * bool(progress["pending"])
    if progress["loss_scale"] not in (None, 1.0):
        words.append(f"loss scale {progress['loss_scale']:g}")
    return ", ".join(words)


def describe(conversion: TrainingConversion) -> list[str]:
    """What the command prints: one line for the result, one for where the training stands, then what to know."""
    source = conversion.source
    record = "" if conversion.carries_record else [
        "without a record, as its source: the recipe says what the network computes"]
    return [f"{source.path.name} ({source.dialect}) -> {conversion.target.name} ({conversion.dialect}): "
            f"{source.record.spec.name}, the whole training, {len(source.state)} entries, bit for bit",
            f"training: {told(conversion.progress)}", *record, *source.notes, *conversion.remarks]
