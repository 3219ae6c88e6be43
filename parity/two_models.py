"""Two models of a user's, compared when the first test asks: what `pytest parity/ --reference A --candidate B` runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from converters.choices import for_each
from converters.load import SourceOptions
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.runner_names import parse_runner
from evaluation.compare_maps import MapComparison, Side, compare_maps
from evaluation.detecting_inputs import Inputs, find_images
from parity.exported import with_pixels_of_the_other
from parity.models import ModelComparison, compare_models, map_tolerance
from parity.photographs import Photograph
from parity.staged import StagedModel, open_staged
from parity.trace_compare import TraceComparison, compare_traced, sources_of
from parity.traced import TracedModel, is_traced, open_trace

#: The picture that is drawn where no images are given: a seed, height and width in pixels.
DRAWN = (3, 352, 512)
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """reference, candidate: model files. images: files, folders and globs. limit: the first images of each only.
    runners: who runs the two, None for the format's own framework. device: for both, where their
    runner does not say it itself; None is the CPU.
    """

    reference: Path
    candidate: Path
    images: tuple[str, ...] = ()
    limit: int | None = None
    runners: tuple[str | None, str | None] = (None, None)
    device: str | None = None
    options: SourceOptions = field(default_factory=SourceOptions)

    def device_of(self, runner: str | None) -> str | None:
        """For a side that this runner runs."""
        return self.device if runner is not None and parse_runner(runner).says_device else self.device or "cpu"


class TwoModels:
    """Opens and compares when first asked for, and remembers what came of it, an error too."""

    def __init__(self, wanted: Wanted):
        self.wanted = wanted
        self._done: dict[Hashable, Any] = {}

    def sides(self) -> tuple[StagedModel, StagedModel]:
        """Reference and candidate. Raises DbnetError as `open_staged` does."""
        return self._once("sides", self._open)

    def stages(self) -> ModelComparison:
        """Stage by stage, on the first of the images that can be read or on a drawn one. Raises DbnetError."""
        if self.is_traced:
            return self._traced().stages
        return self._once("stages", lambda: compare_models(*self.sides(), self._pictures()))

    @property
    def is_traced(self) -> bool:
        """Whether one of the two is a trace, whose images are compared, wherever they are at hand."""
        return is_traced(self.wanted.reference) or is_traced(self.wanted.candidate)

    def on_images(self, given: str | None) -> MapComparison:
        """Maps and boxes of the images of one file, folder or glob; with a trace, of its own. Raises DbnetError."""
        if self.is_traced or given is None:
            return self._traced().maps
        return self._once(("images", given), lambda: self._compare_on(find_images([given])))

    def _once(self, what: Hashable, work: Callable[[], T]) -> T:
        if what not in self._done:
            try:
                self._done[what] = work()
            except MemoryError:
                self._done[what] = DbnetError("there is not enough memory; take smaller images or another runner")
            except DbnetError as error:
                self._done[what] = error
        found = self._done[what]
        if isinstance(found, DbnetError):
            raise found
        result: T = found
        return result

    def _traced(self) -> TraceComparison:
        return self._once("traced", self._compare_traced)

    def _compare_traced(self) -> TraceComparison:
        given = self.wanted.images
        sides = self.sides()
        rules = [side.rule if isinstance(side, TracedModel) else side.runner.spec.boxes for side in sides]
        return compare_traced(*sides, (rules[0], rules[1]), sources_of(find_images(given).files if given else []),
                              self.wanted.limit)

    def _open(self) -> tuple[StagedModel, StagedModel]:
        wanted = self.wanted
        if self.is_traced:
            first, second = (open_trace(path) if is_traced(path) else
                             open_staged(path, runner, wanted.device_of(runner), wanted.options)
                             for path, runner in zip((wanted.reference, wanted.candidate), wanted.runners, strict=True))
            return first, second
        a, b = for_each(wanted.options, *(
            partial(open_staged, path, runner, wanted.device_of(runner))
            for path, runner in zip((wanted.reference, wanted.candidate), wanted.runners, strict=True)))
        return with_pixels_of_the_other(a, b)

    def _pictures(self) -> list[Photograph]:
        given = self.wanted.images
        return pictures_of(find_images(given).files if given else [])

    def _compare_on(self, found: Inputs) -> MapComparison:
        a, b = self._once("runners", lambda: [Side(side.for_images(), side.runner.spec.boxes) for side in self.sides()])
        images = list(zip(found.names, found.files, strict=True))[:self.wanted.limit]
        result = compare_maps(a, b, images, tolerance=map_tolerance(*self.sides()))
        if self.wanted.limit is None:
            result.failed[:0] = [f"{path}: {problem}" for path, problem in found.refused]
        return result


def pictures_of(files: Sequence[str]) -> list[Photograph]:
    """The first image that can be read, else a drawn one."""
    for file in files:
        try:
            return [Photograph.read(file)]
        except DbnetError:  # told where its boxes are compared
            continue
    note = "none of the images can be read: the stages are compared on a drawn picture" if files else ""
    return [Photograph.of(draw(*DRAWN)[0], note)]
