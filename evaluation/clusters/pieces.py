"""Images cut into pieces for workers that may be lost, and results put together in the images' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dbnet.errors import DbnetError, short

#: Images of a piece, at most: what the loss of a worker costs.
MOST = 8
#: Images between the first one that is not done and the last one that was handed out, for each worker.
AHEAD = 8 * MOST
#: Workers that may be lost over a piece before its images go one by one, and then over each image.
WHOLE, ALONE = 2, 2
#: In place of all results: the images are not on the worker's node, or others are in their place.
ABSENT = "absent"


@dataclass(frozen=True)
class Piece:
    """Images `first` to `last`, which is not among them. lost: workers that were lost over it, as it is now. told: how.
    """

    first: int
    last: int
    lost: int = 0
    told: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Failed:
    """In place of an image's result: why there is none. What comes after it is not wanted any more."""

    message: str


class Pieces:
    """The images 0 to `count`, for about so many workers. most: images of a piece.

    called: the name of an image, for errors. What `next` gives comes back by `done`, by `lost` if its worker was lost,
    or by `back` if nothing was done with it.
    """

    def __init__(self, count: int, workers: int, called: Callable[[int], str] = str, most: int = MOST):
        self._end, self._workers, self._called, self._most = count, max(1, workers), called, max(1, most)
        self._fresh = self._given = 0
        self._again: deque[Piece] = deque()
        self._results: dict[int, Any] = {}

    @property
    def left(self) -> int:
        """Images without a result that has been given."""
        return self._end - self._given

    def next(self, idle: bool = True) -> Piece | None:
        """The next one to be worked on; None if there is none, or none yet.

        idle: nothing else is under way where it goes. Only there a piece may be done over which a worker was lost: of
        two pieces one after the other it is not known which of them was the end of a worker.
        """
        self._again = deque(piece for piece in self._again if piece.first < self._end)
        for piece in self._again:
            if idle or not piece.lost:
                self._again.remove(piece)
                return piece
        if self._fresh >= self._end or self._fresh - self._given >= AHEAD * self._workers:
            return None
        # Smaller ones towards the end, so that no worker has a whole piece left when the others are through.
        size = max(1, min(self._most, (self._end - self._fresh) // (3 * self._workers)))
        piece = Piece(self._fresh, min(self._fresh + size, self._end))
        self._fresh = piece.last
        return piece

    def done(self, piece: Piece, results: Sequence[Any]) -> None:
        """One for each image; a `Failed` is the last, whatever images would follow."""
        for image, result in enumerate(results, piece.first):
            self._results.setdefault(image, result)
            if isinstance(result, Failed):
                self._end = min(self._end, image + 1)

    def back(self, piece: Piece) -> None:
        """Nothing was done with it."""
        self._again.appendleft(piece)

    def lost(self, piece: Piece, how: str) -> None:
        """A worker was lost over it: it is done again, in the end image by image.

        Raises DbnetError, naming the image, if every worker is lost over it.
        """
        piece = Piece(piece.first, piece.last, piece.lost + 1, (*piece.told, how))
        if len(piece) == 1 and piece.lost >= ALONE:
            many = f"{piece.lost} workers were lost over it, one after the other"
            raise DbnetError(f"{self._called(piece.first)}: {many} ({short(piece.told[-1])}); leave it out, or look at "
                             f"it in one process: dbnet detect")
        if len(piece) > 1 and piece.lost >= WHOLE:
            self._again.extendleft(reversed([Piece(i, i + 1) for i in range(piece.first, piece.last)]))
        else:
            self._again.appendleft(piece)

    def told(self, piece: Piece) -> str:
        """Its images, for people: `8 images (a.jpg to h.jpg) are`."""
        if len(piece) == 1:
            return f"1 image ({self._called(piece.first)}) is"
        return f"{len(piece)} images ({self._called(piece.first)} to {self._called(piece.last - 1)}) are"

    def unreadable(self, image: int, message: str) -> None:
        """An image that was not given away yet: no worker need see it."""
        self._results.setdefault(image, Failed(message))
        self._end = min(self._end, image + 1)

    def ready(self) -> Iterator[Any]:
        """The results that are there, in the images' order. Raises DbnetError at one that failed."""
        while self._given in self._results:
            result = self._results.pop(self._given)
            if isinstance(result, Failed):
                raise DbnetError(result.message)
            self._given += 1
            yield result
