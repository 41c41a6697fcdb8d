"""From runs of token ids to rows of one length."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# T tokens of a row


class Packer:
    """Cuts what comes in, end to end, into rows of `length` tokens; what does not fill one stays in `rest`."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._waiting: deque[tuple[int, Sequence[int]]] = deque()
        self.waiting_tokens = 0
        self.used: set[int] = set()  #: owners of at least one token in a row

    def add(self, owner: int, ids: Sequence[int]) -> None:
        """Append a run."""
        if ids:
            self._waiting.append((owner, ids))
            self.waiting_tokens += len(ids)

    def row(self) -> NDArray[np.int32] | None:
        """The next row; None until there are `length` tokens."""
        if self.waiting_tokens < self._length:
            return None
        row_T = np.empty(self._length, np.int32)
        filled = 0
        while filled < self._length:
            owner, ids = self._waiting.popleft()
            part = ids[: self._length - filled]
            row_T[filled : filled + len(part)] = part
            filled += len(part)
            self.used.add(owner)
            if len(part) < len(ids):
                self._waiting.appendleft((owner, ids[len(part) :]))
        self.waiting_tokens -= self._length
        return row_T

    def rest(self) -> list[tuple[int, Sequence[int]]]:
        """The runs that are in no row; they are gone from here."""
        rest = list(self._waiting)
        self._waiting.clear()
        self.waiting_tokens = 0
        return rest


def padded(ids: Sequence[int], length: int, *, pad: int) -> NDArray[np.int32]:
    """One run as a row, filled up on the right. The run is not longer than the row."""
    row_T = np.full(length, pad, np.int32)
    row_T[: len(ids)] = ids
    return row_T
