"""Making a kit: one folder with all that an hour on an NPU host needs, and nothing that must be installed there.

run.py, lib/ (copies of our own modules), model.ckpt, images/ (the network's inputs), reference.trace (what the network
gives here), README.md, and kit.json with the size and digest of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from converters import ckpt_file
from converters.load import SourceOptions, load_model
from converters.weights import digest
from converters.writing import write_verified
from dbnet.errors import DbnetError, UnknownNetworkError
from dbnet.extras import installed
from dbnet.portable import copy_modules
from dbnet.preprocess import prepare, read_bytes
from dbnet.record import Record
from dbnet.runner_names import VARIANTS, parse_runner
from dbnet.running import runnable
from dbnet.spec import STAGES
from dbnet.sums import total
from dbnet.version import VERSION
from evaluation.pictures import decode
from evaluation.pipeline import naming
from parity.kit_run import REFERENCE, RESULT
from parity.kit_say import told_options
from parity.kit_start import sha256_of
from parity.kit_texts import README, typed
from parity.staged import StagedModel, open_staged
from parity.trace import PIXELS, Recorder, TracedImage
from parity.trace_file import write_traces
from parity.trace_record import maps_of
from parity.traced import about_of

#: Of kit.json.
KIT_VERSION = 1
#: Bytes of the result, so that it stays below 20 MB.
LIMIT = 19_000_000
#: What is imported there, and what there is to import it with.
ENTRIES, ALLOWED = ("parity.kit_run", "parity.kit_worker"), ("numpy", "mindspore")
#: Height and width of the small picture, in pixels of the input.
TINY = (64, 96)
#: Who makes the reference: the framework of the NPU, or whatever is installed.
RUNNERS = ("mindspore", "torch", "onnxruntime")


@dataclass(frozen=True)
class Kit:
    """folder: where it is. images: how many. size: bytes of all files. runner: who made the reference."""

    folder: Path
    images: int
    size: int
    runner: str
    digest: str


def make_kit(model: Path, images: Sequence[tuple[str, str]], folder: Path, options: SourceOptions | None = None,
             runner: str | None = None, force: bool = False,
             progress: Callable[[int, int], object] = lambda done, count: None) -> Kit:
    """Writes the folder, whole or not at all. images: (name, path). runner: who makes the reference, on the CPU.

    Raises DbnetError for a model that MindSpore cannot run, an image that cannot be read, or a folder that exists
    (unless `force`, which replaces a kit, but none with results).
    """
    check_folder(folder, force)
    side = _opened(model, options or SourceOptions(), runner)
    temporary = Path(tempfile.mkdtemp(prefix=".dbnet-kit-", dir=folder.absolute().parent))
    try:
        kit = _fill(temporary, side, images, typed(options or SourceOptions()), progress)
        os.chmod(temporary, 0o777 & ~_umask())
        _put(temporary, folder, force)
    except OSError as error:
        raise DbnetError(f"{folder}: could not be written ({error.strerror}); nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(entry[0] for entry in kit["files"].values())
    return Kit(folder, len(kit["images"]), size, side.runner.name, kit["digest"])


def check_folder(folder: Path, force: bool) -> None:
    """Raises DbnetError if a kit cannot or must not be written there."""
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise DbnetError(f"{parent}: no such folder; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DbnetError(f"{parent}: no permission to write here; choose another folder")
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise DbnetError(f"{folder}: is no folder; name another --out")
    if not force:
        raise DbnetError(f"{folder}: exists already; name another --out, or add --force to replace a kit")
    try:
        _check_kit(folder, set(os.listdir(folder)))
    except OSError as error:
        raise DbnetError(f"{folder}: cannot be read ({error.strerror}); name another --out") from error


def _check_kit(folder: Path, names: set[str]) -> None:
    """Raises DbnetError if a folder has anything in it that no kit brought."""
    if not names:
        return
    if not {"kit.json", "run.py"} <= names:
        raise DbnetError(f"{folder}: is no kit ({sorted(names)[0]}, ...), so it is not replaced; name another --out")
    if found := sorted(name for name in names if name.startswith(RESULT) or name.endswith(".trace.work")):
        raise DbnetError(f"{folder}: holds what a run gave ({found[0]}); carry it away, or name another --out")
    try:
        own = {"kit.json", *json.loads((folder / "kit.json").read_bytes())["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DbnetError(f"{folder}: is no kit (its kit.json is damaged), so it is not replaced; name another "
                         f"--out") from error
    folders = {str(parent) for name in own for parent in PurePosixPath(name).parents}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in (folders if path.is_dir() and not path.is_symlink() else own):
            raise DbnetError(f"{folder}: holds {name}, which is not the kit's; carry it away, or name another --out")


def _opened(path: Path, options: SourceOptions, runner: str | None) -> StagedModel:
    """The model, run from its weights. Raises DbnetError for one that MindSpore cannot run."""
    try:
        model = load_model(path, options)
    except UnknownNetworkError as error:
        raise DbnetError(f"{path}: is no network that is known here, so MindSpore cannot run it and there is no kit "
                         f"of it ({error})") from error
    if model.unread is not None:
        raise DbnetError(f"{path}: {model.unread}; so it runs by its own graph only, and there is no kit of it")
    who = None if runner is None else parse_runner(runner)
    if who is not None and (who.framework not in RUNNERS or who.variant not in (None, VARIANTS[who.framework][0])):
        raise DbnetError(f"--runner {who.here}: a kit's reference has every stage of the weights, computed here on the "
                         f"CPU in the plainest way; choose from {', '.join(RUNNERS)}, each also as NAME@PYTHON")
    chosen = runner or next((name for name in RUNNERS if installed(name)), None)
    if chosen is None:
        raise DbnetError("no framework to make the reference with: pip install 'dbnet-parity[onnxruntime]'")
    return open_staged(path, chosen, "cpu", options)


def _fill(folder: Path, side: StagedModel, images: Sequence[tuple[str, str]], options: Sequence[str],
          progress: Callable[[int, int], object]) -> dict[str, Any]:
    """Everything in its place; kit.json comes last. options: as they are typed."""
    assert side.model is not None
    spec = side.runner.spec
    about = about_of(side, spec.boxes)
    entries, tiny = _record(folder, side, about, images, progress)
    # Whoever runs it computes in float32, whatever the file's own type is.
    weights = {name: array for name, array in runnable(side.model.record.spec, side.model.weights).items()
               if name in side.model.weights}
    record = replace(Record.from_json(about["record"], "kit.json"), sha256=digest(weights))
    _write_weights(folder / "model.ckpt", weights, record)
    (folder / "lib").mkdir()
    copy_modules(folder / "lib", ENTRIES, ALLOWED)
    shutil.copyfile(Path(__file__).with_name("kit_start.py"), folder / "run.py")
    text = README.format(model=side.path.name, images=f"{len(entries)} image{'s'[:len(entries) > 1]}",
                         options=told_options(options), runner=side.runner.name,
                         version=side.runner.environment().get("version"), ours=VERSION)
    (folder / "README.md").write_text(text, encoding="utf-8")
    told = ("record", "origin", "file", "digest", "pixels", "boxes")
    kit = {"kit": KIT_VERSION, "version": VERSION, "spec": spec.name, "limit": LIMIT, "images": entries, "tiny": tiny,
           "options": list(options), "about": {key: about.get(key) for key in told}, "files": _digests(folder)}
    kit = json.loads(json.dumps(kit))
    kit["digest"] = hashlib.sha256(json.dumps(kit, sort_keys=True).encode()).hexdigest()
    (folder / "kit.json").write_text(json.dumps(kit, indent=1, sort_keys=True) + "\n", encoding="ascii")
    return kit


def _record(folder: Path, side: StagedModel, about: dict[str, Any], images: Sequence[tuple[str, str]],
            progress: Callable[[int, int], object]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Writes the inputs and what the network makes of them; what kit.json tells of the images, and of the small one."""
    (folder / "images").mkdir()
    stages = tuple(stage for stage in STAGES if stage in side.stages)
    recorder = Recorder(about, (PIXELS, *stages), "sampled", spill=folder, keep=("probability",))
    small = Recorder(about, (PIXELS, *stages), "full")
    entries: list[dict[str, Any]] = []
    tiny: dict[str, Any] = {}
    for number, (name, path) in enumerate(images):
        with naming(Path(path)):
            data = read_bytes(path)
            ready = prepare(decode(data, path, side.pixels.ignore_orientation), side.pixels)
            image = TracedImage(name, hashlib.sha256(data.tobytes()).hexdigest(), ready.original_size,
                                ready.resized_size, ready.tensor.shape)  # type: ignore[arg-type]
            maps = maps_of(side, ready.tensor, recorder.stages)
            if not number:
                part = _small_picture(ready.tensor, maps["probability"])
                whole = TracedImage("tiny", None, part.shape[2:], part.shape[2:], part.shape)  # type: ignore[arg-type]
                tiny = _put_image(folder, small, whole, maps_of(side, part, small.stages), "tiny")
            entries.append(_put_image(folder, recorder, image, maps, f"{number:05d}"))
        progress(number + 1, len(images))
    write_traces(folder / REFERENCE, {"reference": recorder.trace(), "reference.tiny": small.trace()})
    return entries, tiny


def _put_image(folder: Path, recorder: Recorder, image: TracedImage, maps: dict[str, np.ndarray],
               called: str) -> dict[str, Any]:
    recorder.add(image, maps)
    file = f"images/{called}.npy"
    np.save(folder / file, np.ascontiguousarray(maps[PIXELS], np.float32), allow_pickle=False)
    return {"name": image.name, "sha256": image.sha256, "size": image.size, "covered": image.covered,
            "shape": image.shape, "file": file}


def _small_picture(tensor: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """(1, 3, h, w): where an input has most text, at most TINY large."""
    height, width = (min(side, most) for side, most in zip(tensor.shape[2:], TINY, strict=True))
    places = [(top, left) for top in range(0, tensor.shape[2] - height + 1, 16)
              for left in range(0, tensor.shape[3] - width + 1, 16)]
    top, left = max(places, key=lambda place: total(
        probability[0, 0, place[0]:place[0] + height, place[1]:place[1] + width]))
    return np.ascontiguousarray(tensor[:, :, top:top + height, left:left + width])


def _write_weights(path: Path, weights: dict[str, np.ndarray], record: Record) -> None:
    def verify(written: Path) -> None:
        if digest(ckpt_file.read(written).tensors) != record.sha256:
            raise DbnetError(f"{path}: what was written is not what was meant; check the disk")
    write_verified(path, lambda stream: ckpt_file.write(stream, weights, record.to_json()), verify)


def _digests(folder: Path) -> dict[str, list[Any]]:
    """name -> [bytes, SHA-256] of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, sha256_of(str(path))] for path in files}


def _put(made: Path, folder: Path, force: bool) -> None:
    """In its place; a kit that was there goes when the new one is whole, and has got nothing else meanwhile."""
    check_folder(folder, force)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(made, folder)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
