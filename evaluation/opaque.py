"""Any text detector's .onnx as it is: an image goes in, a probability map of its size comes out, more is not known.

What the file leaves open is told, never guessed in silence: whose pixels it takes, which output is the map, and whether
that holds probabilities or logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from converters.formats import detect
from converters.load import NoChoiceError, SourceOptions
from converters.onnx_foreign import ForeignModel
from converters.onnx_outline import Outline, family_of, read_outline
from dbnet.errors import DbnetError, UnknownNetworkError, shown
from dbnet.pixel_formats import CHOICES, EXACT, FAMILIES, AnySpec, OpaqueSpec, S, pixel_choice, told
from dbnet.record import Record
from dbnet.runner_names import RunnerName, parse_runner
from dbnet.running import check_images
from dbnet.seeded import seeded_images
from dbnet.spec import STRIDE, PixelFormat
from evaluation.elsewhere_onnx import onnxruntime_of
from evaluation.graph_files import check_fixed_shape
from evaluation.onnx_maps import as_map, chosen, holds_logits, sigmoid
from evaluation.onnx_runner import OnnxRuntimeRunner, inputs_told

#: What images come in, and maps go out.
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
#: The size of the image that a file is tried with, if it takes any: small, and a multiple of every usual stride.
_TRIED = (128, 256)


# Opening --------------------------------------------------------------------------------------------------------------


def open_unknown(path: Path, error: UnknownNetworkError, options: SourceOptions, otherwise: AnySpec | None,
                 runner: str | None, device: str | None, stages: tuple[str, ...] | None, threads: int | None,
                 concurrent: bool) -> Any:
    """A file that fits no known network, as `error` says, if it is an .onnx or a .mindir. otherwise: see `open_runner`.

    Raises `error` for other files, and if the user said what network it is (NoChoiceError where that is all that is
    wrong); DbnetError if it cannot run as it is, or nobody knows its pixels.
    """
    form = detect(path)
    if form not in ("onnx", "mindir") or any((options.semantics, options.take, options.part)):
        raise error
    if options.spec or options.dialect:
        raise NoChoiceError(str(error), "spec", "dialect") from error
    who = parse_runner(runner or ("onnxruntime" if form == "onnx" else "mindspore:mindir"))
    if form == "onnx" and who.framework != "onnxruntime":
        raise DbnetError(f"{error}; as it is it runs in ONNX Runtime only, not in {who.here}") from error
    if form == "mindir" and who.here not in ("mindspore:mindir", "mindspore_lite"):
        raise DbnetError(f"{error}; as it is it runs with --runner mindspore:mindir only, not in {who.here}") from error
    if stages not in (None, ("probability",)):
        wanted = next(stage for stage in stages if stage != "probability")
        raise DbnetError(f"{error}; as it is it gives the probability map, and no stage {wanted}") from error
    outline = read_outline(path) if form == "onnx" else None
    spec, notes = _spec_of(path, outline, error, options, otherwise)
    try:
        if outline is None:
            opened = _mindir(path, spec, who, device, threads, options)
        else:
            opened = OpaqueRunner(path, outline, spec, options, device, threads, concurrent, ort=onnxruntime_of(who),
                                  provider=who.variant)
    except NoChoiceError:
        raise
    except DbnetError as failure:
        raise DbnetError(f"{failure} (it {str(error).removeprefix(f'{path}: ')})") from failure
    opened.notes = [f"{path.name}: its network is not known here, it runs as it is", *notes, *opened.notes]
    return opened


def _mindir(path: Path, spec: OpaqueSpec, who: RunnerName, device: str | None, threads: int | None,
            options: SourceOptions) -> Any:
    """A .mindir by its own graph, which has one output."""
    from evaluation.opening import Asked, mindir_runner
    if options.output is not None:
        raise NoChoiceError(f"{path}: has one output, so none is chosen; leave out --map-output", "output")
    opened = mindir_runner(path, spec, Asked(who, device, ("probability",), threads, False, options))
    logits = getattr(opened, "logits", any("a sigmoid is applied" in note for note in opened.notes))
    opened.spec = replace(opened.spec, output="probability", sigmoid=logits)
    return opened


def _spec_of(path: Path, outline: Outline | None, error: DbnetError, options: SourceOptions,
             otherwise: AnySpec | None) -> tuple[OpaqueSpec, list[str]]:
    """Pixels and boxes, and what tells so."""
    choice = pixel_choice(options.pixels) if options.pixels is not None else None
    recognised = family_of(outline) if outline is not None else None
    notes = []
    if outline is not None and outline.record is not None:
        own = Record.from_json(outline.record, str(path)).spec
        base = own.pixels, own.boxes
        notes = [f"pixels are those of its record; its weights are not as they were written, so they were not compared "
                 f"with the record's digest ({told(own.pixels)})"]
    elif recognised is not None:
        family, why = recognised
        base = FAMILIES[family]
        notes = [f"pixels are taken to be {family}'s, for {why}; --pixels says otherwise"]
    elif choice is not None and choice.family is not None:
        base = FAMILIES[choice.family]
    elif otherwise is not None:
        base = otherwise.pixels, otherwise.boxes
    else:
        way = "to run it as it is, say which pixels it takes: --pixels NAME" if choice is None else \
            f"to run it as it is, a NAME is missing in --pixels {choice.text}: write NAME,{choice.text}"
        raise DbnetError(f"{error}; {way}, NAME one of {CHOICES}") from error
    spec = OpaqueSpec(*base, output="", sigmoid=False)
    if choice is None:
        return spec, notes
    return choice.of(spec), [] if choice.family else notes


def fitted(spec: S, options: SourceOptions, shape: Sequence[int | None]) -> tuple[S, list[str]]:
    """`spec` with pixels of the size of a file that takes no other, if its resize rule gives exactly one size.

    shape: of the file's input, (N, 3, H, W). Under other rules, and where the user said a size, nothing is changed:
    images of another size are refused when they come.
    """
    size = (shape[2] or spec.pixels.size[0], shape[3] or spec.pixels.size[1])
    if size == spec.pixels.size or spec.pixels.resize not in EXACT or not any(shape[2:]):
        return spec, []
    if options.pixels is not None and "size" in pixel_choice(options.pixels).changes:
        return spec, []
    way = "stretched to" if spec.pixels.resize == "stretch" else "padded to"
    return (replace(spec, pixels=replace(spec.pixels, size=size)),
            [f"images are {way} {size[0]} x {size[1]}, the size that the file takes, not {spec.pixels.size[0]} x "
             f"{spec.pixels.size[1]}"])


def check_locations(path: Path, outline: Outline) -> None:
    """Raises DbnetError if the file wants weights from outside its folder, by a path or by a link, or from a file that
    is not there.
    """
    for location in sorted(outline.locations):
        parts = PurePosixPath(location.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in location or "\0" in location:
            raise DbnetError(f"{path}: wants weights from {shown(location)}, which is not in its folder; such a file "
                             f"is not opened")
        wanted = path.parent / location
        try:
            if not wanted.is_file():
                raise DbnetError(f"{path}: keeps its weights in {shown(location)}, which is not beside it; copy that "
                                 f"file too")
            if not wanted.resolve().is_relative_to(path.parent.resolve()):
                raise DbnetError(f"{path}: wants weights from {shown(location)}, a link to elsewhere; put the file "
                                 f"itself in its place")
        except OSError as error:  # a name too long
            raise DbnetError(f"{path}: wants weights from {shown(location)}: {error.strerror}") from error


def digest_of(path: Path, outline: Outline) -> str:
    """sha256 of the file, and of the files that hold its weights."""
    total = hashlib.sha256()
    for part in (path, *(path.parent / location for location in sorted(outline.locations))):
        with part.open("rb") as stream:
            if not outline.locations:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


# Running --------------------------------------------------------------------------------------------------------------


class OpaqueRunner(OnnxRuntimeRunner):
    """An .onnx whose outputs bear anybody's names. It gives the stage `probability` alone.

    It takes one image, channels first or last, in 16, 32 or 64 bits. outline: of the file. spec: pixels and boxes, or
    the network where that is known. read: what its graph says, if that was read. Each image runs by itself, whatever
    batches the file takes. Unless the graph says it, the output is found by running one seeded image: it has one
    channel of the size of the image; see `evaluation.onnx_maps`. Raises DbnetError if ONNX Runtime refuses the file, or
    there is no such input or output.
    """

    def __init__(self, path: Path, outline: Outline, spec: AnySpec, options: SourceOptions, device: str | None = None,
                 threads: int | None = None, concurrent: bool = False, read: ForeignModel | None = None, *,
                 ort: Any = None, provider: str | None = None):
        check_locations(path, outline)
        super().__init__(path, spec, device, ("probability",), threads, concurrent, ort=ort, provider=provider)
        spec, fit = fitted(spec, options, self.shape)
        read = read if options.output in (None, read and read.output) else None
        self._channel = read.channel if read else None
        output, found = self._try(spec.pixels, read.output if read else options.output)
        self._output = output
        self._sigmoid, why = holds_logits(outline, output, found)
        if read is not None:
            self._sigmoid, why = read.logits, "holds logits: a sigmoid is applied" if read.logits else ""
        self.spec = replace(spec, output=output, sigmoid=self._sigmoid) if isinstance(spec, OpaqueSpec) else spec
        self.digest = digest_of(path, outline)
        self.notes = [*fit, *self.notes, *([f"{output} {why}"] if why else [])]

    def _check_graph(self, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """Finds the input."""
        inputs = self._session.get_inputs()
        given = f"{self._where}: takes {inputs_told(inputs)}"
        if len(inputs) != 1:
            raise DbnetError(f"{given}; only a file that takes one image and nothing else runs here")
        image = self._input = inputs[0]
        if image.type not in _TYPES:
            raise DbnetError(f"{given}; only images of floats run here, normalised outside of the file")
        sides = [side if isinstance(side, int) else None for side in image.shape]
        self._last = len(sides) == 4 and sides[3] == 3 and sides[1] != 3
        if len(sides) != 4 or sides[3 if self._last else 1] not in (3, None):
            raise DbnetError(f"{given}, not one colour image (N, 3, H, W)")
        batch, *sides = [sides[i] for i in ((0, 3, 1, 2) if self._last else (0, 1, 2, 3))]
        if batch not in (1, None):
            raise DbnetError(f"{given}: exactly {batch} images at once; export it for one image, or any number")
        if any(side is not None and side % STRIDE for side in sides[1:]):
            raise DbnetError(f"{given}; sides must be multiples of {STRIDE} here")
        self.shape = (None, 3, *sides[1:])
        return ("probability",)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The probability (N, 1, H, W) of (N, 3, H, W) float32 images, sides multiples of 32 px.

        Raises DbnetError otherwise, and if the file gives a map of another size.
        """
        images = check_images(images)
        check_fixed_shape(self._where, self.shape, images.shape)
        count, _, height, width = images.shape
        maps = np.empty((count, 1, height, width), np.float32)
        for i in range(count):
            result = self._computed([self._output], self._fed(images[i:i + 1]))[0]
            found = as_map(result, height, width, self._channel)
            if isinstance(found, str):
                raise DbnetError(f"{self._where}: {self._output} {found}")
            maps[i, 0] = sigmoid(found) if self._sigmoid else found
        return {"probability": maps}

    def exchanged(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """As of any file in ONNX Runtime, of one image: the output as it comes, before any sigmoid of ours."""
        images = check_images(images)
        check_fixed_shape(self._where, self.shape, images.shape)
        fed = self._fed(images)
        return {self._input.name: fed}, {self._output: self._computed([self._output], fed)[0]}

    def environment(self) -> dict[str, Any]:
        """As of any file in ONNX Runtime, the precision whatever its graph says; and which output is the map, and
        whether a sigmoid is applied to it.
        """
        return {**super().environment(), "precision": "the file's own", "output": self._output,
                "sigmoid": self._sigmoid}

    def _fed(self, image: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) float32 as the file takes it."""
        image = image.transpose(0, 2, 3, 1) if self._last else image
        return np.ascontiguousarray(image, _TYPES[self._input.type])

    def _try(self, pixels: PixelFormat, wanted: str | None) -> tuple[str, np.ndarray]:
        """Runs a seeded image: the name of the output that is the map, and what it gave, (H, W) float32."""
        outputs = [output.name for output in self._session.get_outputs() if output.type in _TYPES]
        if wanted is not None and wanted not in outputs:
            told = f"{self._where}: has no output {wanted!r}; choose from {', '.join(outputs)}"
            if len(outputs) < 2 or not isinstance(self.spec, OpaqueSpec):  # it is known without
                raise NoChoiceError(told, "output")
            raise DbnetError(told)
        outputs = [wanted] if wanted is not None else outputs
        if not outputs:
            raise DbnetError(f"{self._where}: has no output of floats, so no probability map")
        size, results = self._tried(outputs, pixels)
        (height, width), channel = size, self._channel
        maps = {name: as_map(result, height, width, channel) for name, result in zip(outputs, results, strict=True)}
        arrays = {name: map_ for name, map_ in maps.items() if isinstance(map_, np.ndarray)}
        if not arrays:
            raise DbnetError(f"{self._where}: gives no probability map: " +
                             "; ".join(f"{name} {problem}" for name, problem in maps.items()))
        name = chosen(list(arrays), self._where)
        if not np.isfinite(arrays[name]).all():
            raise DbnetError(f"{self._where}: {name} holds NaN or Inf for an ordinary image, so it is no probability "
                             f"map; is the file damaged?")
        if len(self._session.get_outputs()) > 1 and wanted is None:
            self.notes.append(f"of its outputs {', '.join(output.name for output in self._session.get_outputs())} the "
                              f"probability map is taken to be {name}; --map-output says otherwise")
        return name, arrays[name]

    def _tried(self, outputs: Sequence[str], pixels: PixelFormat) -> tuple[tuple[int, int], list[np.ndarray]]:
        """A small image if any size will do; if ONNX Runtime fails on it, one of the size that images will have."""
        usual = [max(round(side / STRIDE), 1) * STRIDE for side in pixels.size]
        sizes = [tuple(fixed or side for fixed, side in zip(self.shape[2:], tried, strict=True))
                 for tried in (_TRIED, usual)]
        for height, width in dict.fromkeys(sizes):
            try:
                return (height, width), self._computed(outputs, self._fed(seeded_images(1, height, width)))
            except DbnetError:
                if (height, width) == sizes[-1]:
                    raise
        raise AssertionError("the last size is returned or raised")
