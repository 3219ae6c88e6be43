"""A model in MindSpore Lite: .mindir as `dbnet export --target lite` and converter_lite make it, or .ms.

Not run: MindSpore Lite has no wheel for the machines that there were. Everything before its first call was: the file,
its sidecar, sizes and shapes. Calls as its documentation of 2.0 to 2.7 has them (`mindspore_lite.Model`, `Context`).
This module needs NumPy alone until then: it is copied for the interpreters of other environments.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.extras import installed
from dbnet.pixel_formats import AnySpec
from dbnet.running import check_images, check_stages, driver_version, parse_device, told_logits
from dbnet.seeded import seeded_images
from dbnet.spec import check_size
from evaluation.few_sizes import MOST, Size, padded_run, told_size

#: Beside a converted model, which carries nothing itself: model.mindir -> model.lite.json.
SIDECAR = "lite.json"
VERSION = 1
#: Suffix -> its name in mindspore_lite.ModelType.
_TYPES = {".mindir": "MINDIR", ".ms": "MINDIR_LITE"}
#: The size of the image that a file is tried with, if it takes any.
_TRIED = (64, 96)


@dataclass(frozen=True)
class Told:
    """What the sidecar tells a runner. sizes: (height, width) that the model was compiled for, none where any will do.
    batch: images at once. device: for which it was converted. file: sha256 of the model that it belongs to, None where
    that is made by hand and not by the script. data: all of it, for `evaluation.lite_sidecar`.
    """

    sizes: tuple[Size, ...]
    batch: int
    device: Literal["ascend", "cpu"]
    precision: str
    logits: bool
    file: str | None
    data: dict[str, Any]


def read_told(model: Path) -> Told | None:
    """Of a converted model; None if no sidecar lies beside it. Raises DbnetError if it cannot be used."""
    path = model.with_name(f"{model.stem}.{SIDECAR}")
    again = "write it again: dbnet export --target lite"
    try:
        if not path.is_file():
            return None
        data = json.loads(path.read_bytes())
        if data["version"] != VERSION:
            raise DbnetError(f"{path}: has version {short(data['version'], 20)}, this dbnet reads {VERSION}; update "
                             f"dbnet-parity")
        sizes = tuple((_number(height), _number(width)) for height, width in data["sizes"])
        if len(sizes) > MOST or data["device"] not in ("ascend", "cpu"):
            raise ValueError(f"{len(sizes)} sizes for {short(data['device'], 20)}")
        logits = {"probability": False, "logits": True}[data["delivery"]["output"]]
        file = data.get("file")
        if file is not None and not isinstance(file, str):
            raise ValueError(f"{short(file, 20)} is no sha256")
        return Told(sizes, _number(data["batch"]), data["device"], str(data["precision"]), logits, file, data)
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); {again}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DbnetError(f"{path}: is damaged ({type(error).__name__}: {short(error)}); {again}") from error


def _number(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 16:
        raise ValueError(f"{short(value, 20)} is no number of pixels or images")
    return value


class LiteRunner:
    """A model file in MindSpore Lite, see `evaluation.runners.Runner`. It gives the stage `probability` alone.

    device: `cpu`, `ascend:0`; default what the file was converted for. threads: of the CPU. stages: None is the
    probability. An image of a size that the file was not compiled for is padded up to the next one and its map cut
    back. shape: of the input, (N, 3, H, W), None where any, or several, will do. digest: sha256 of the file.

    Raises DbnetError for a file that is no model of MindSpore Lite, another device than it was converted for, and
    without the package, in this order; and if MindSpore Lite refuses it.
    """

    name = "mindspore_lite"
    title = "mindspore_lite"
    at_once = 1

    def __init__(self, source: str | Path | bytes, spec: AnySpec, device: str | None = None,
                 stages: tuple[str, ...] | None = ("probability",), threads: int | None = None,
                 concurrent: bool = False):
        self.stages = ("probability",) if stages is None else check_stages(stages)
        if self.stages != ("probability",):
            wanted = next(stage for stage in self.stages if stage != "probability")
            raise DbnetError(f"no stage {wanted} in MindSpore Lite: its file gives the probability map; use --runner "
                             f"mindspore")
        self.path = model_file(source)
        sidecar = read_told(self.path)
        self.spec, self.threads, self._sidecar = spec, threads, sidecar
        self._batch = sidecar.batch if sidecar else None
        self.sizes: tuple[Size, ...] = sidecar.sizes if sidecar else ()
        self._device = parse_device(device or (sidecar.device if sidecar else "cpu"))
        self.device = "cpu" if self._device.kind == "cpu" else f"{self._device.kind}:{self._device.index}"
        if self._device.kind == "gpu" or (sidecar and sidecar.device != self._device.kind):
            made = f"was converted for {sidecar.device}" if sidecar else "runs on cpu or ascend"
            raise DbnetError(f"{self.path}: {made}, not for {self._device.kind}; choose another --device")
        self.digest = digest_of(self.path)
        self.notes = self._belongs()
        if len(self.sizes) > 1:
            self.notes += [f"runs at {', '.join(map(told_size, self.sizes))} only: other images are padded to the next "
                           f"size"]
        self._lite = _package()
        self._open()
        self.logits = sidecar.logits if sidecar else self._try()

    def _belongs(self) -> list[str]:
        """A note where the sidecar does not say whose it is. Raises DbnetError if it is another file's."""
        if self._sidecar is None or self._sidecar.file == self.digest:
            return []
        beside = f"{self.path.stem}.{SIDECAR}"
        if self._sidecar.file is not None:
            raise DbnetError(f"{self.path}: is not the file that {beside} beside it was written for (its sha256 is "
                             f"another); copy both of one export, or export again")
        return [f"{beside} does not say that it belongs to {self.path.name}, for the script beside it was not run to "
                f"its end there; what it says of pixels, sizes and logits is believed"]

    def _open(self) -> None:
        lite = self._lite
        try:
            context = lite.Context()
            context.target = [self._device.kind]
            if self._device.kind == "ascend":
                context.ascend.device_id = self._device.index
            elif self.threads:
                context.cpu.thread_num = self.threads
            self._model = lite.Model()
            self._model.build_from_file(str(self.path), getattr(lite.ModelType, _TYPES[self.path.suffix]), context)
            shapes = [list(one.shape) for one in self._model.get_inputs()]
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise DbnetError(f"{self.path}: MindSpore Lite refuses it on {self.device}: {short(error)}") from error
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
            raise DbnetError(f"{self.path}: takes {shapes}, not one colour image (N, 3, H, W)")
        fixed = [side if side > 0 else None for side in shapes[0]]
        self._batch = self._batch or fixed[0]
        if not self.sizes and fixed[2] and fixed[3]:
            check_size(fixed[2], fixed[3])
            self.sizes = ((fixed[2], fixed[3]),)
        only = self.sizes[0] if len(self.sizes) == 1 else (None, None)
        self.shape = (self._batch, 3, *only)

    def _try(self) -> bool:
        """Whether a file that nothing is known of gives logits: by the values of one seeded image."""
        height, width = self.sizes[0] if self.sizes else _TRIED
        found = self._computed(seeded_images(self._batch or 1, height, width))
        note = told_logits(found, self.path)
        self.notes += [] if note is None else [note]
        return note is not None

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The probability (N, 1, H, W) of (N, 3, H, W) float32 images, sides multiples of 32 px. Raises DbnetError
        otherwise, for an image that is larger than every size of the file, and for another number of images.
        """
        images = check_images(images)
        batch = self._batch or len(images)
        if len(images) % batch:
            raise DbnetError(f"{self.path}: takes {batch} images at once, not {len(images)}; export it for one image")
        parts = [images[i:i + batch] for i in range(0, len(images), batch)]
        if self.sizes:
            maps = [padded_run(self._computed, part, self.sizes, str(self.path)) for part in parts]
        else:
            maps = [self._computed(part) for part in parts]
        found = np.concatenate(maps)
        if self.logits:
            small = np.exp(-np.abs(found))
            found = np.where(found >= 0, 1, small) / (1 + small)
        return {"probability": found}

    def _computed(self, images: np.ndarray) -> np.ndarray:
        """The map as the file gives it, of images of a size that it takes."""
        try:
            inputs = self._model.get_inputs()
            if list(inputs[0].shape) != list(images.shape):
                self._model.resize(inputs, [list(images.shape)])
                inputs = self._model.get_inputs()
            inputs[0].set_data_from_numpy(np.ascontiguousarray(images))
            outputs = [one.get_data_to_numpy() for one in self._model.predict(inputs)]
        except (RuntimeError, TypeError, ValueError, MemoryError) as error:
            raise DbnetError(f"{self.path}: MindSpore Lite failed on {self.device} at {images.shape}: "
                             f"{short(error)}") from error
        wanted = (len(images), 1, *images.shape[2:])
        if len(outputs) != 1 or outputs[0].shape != wanted:
            raise DbnetError(f"{self.path}: gives {[one.shape for one in outputs]} for images of shape {images.shape}, "
                             f"not one map {wanted}")
        return np.array(outputs[0], np.float32)

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, precision as it was converted, threads."""
        return {
            "framework": self.name, "version": str(getattr(self._lite, "__version__", "unknown")),
            "numpy": np.__version__, "device": self.device, "device_name": None,
            "driver": driver_version(self._device.kind), "hf32": None, "tf32": None, "jit_level": None,
            "precision": self._sidecar.precision if self._sidecar else "the file's own",
            "threads": self.threads or "its own choice", "sizes": [list(size) for size in self.sizes]}


def model_file(source: str | Path | bytes) -> Path:
    """Raises DbnetError unless it is a model file."""
    if isinstance(source, bytes):
        raise DbnetError("MindSpore Lite runs a file that is made for it: dbnet export MODEL OUT.mindir --target lite")
    path = Path(source)
    if path.suffix not in _TYPES:
        raise DbnetError(f"{path}: MindSpore Lite runs files that are called .mindir or .ms; make one: dbnet export "
                         f"{path.name} OUT.mindir --target lite")
    if not path.is_file():
        raise DbnetError(f"{path}: no such file; give a model that converter_lite has made")
    return path


def digest_of(path: Path) -> str:
    """sha256 of a file. By hand, for Python 3.10 in other environments."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _package() -> Any:
    if not installed("mindspore_lite"):
        raise DbnetError("mindspore_lite is not installed: its wheel comes with MindSpore Lite, for some Pythons on "
                         "Linux (mindspore.cn/lite, Downloads); a .mindir of ours also runs with --runner "
                         "mindspore:mindir")
    try:
        return importlib.import_module("mindspore_lite")
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise DbnetError(f"mindspore_lite is installed but does not import ({short(error)}); source CANN's set_env.sh, "
                         f"or install it again") from error
