"""Which rows are trained on when: by the seed and the step alone.

The order of an epoch and its batches are the same however many devices share them and however small the micro-batches
are, so that a run goes on with the next samples after any of that has changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from torch.utils.data import Dataset, Sampler

from workers.forge.tuning.samples import Row

NOTHING: Final = -1  #: number of the row that stands where a device has none


@dataclass
class Order(Sampler[list[int]]):
    """Numbers of the rows of one device's micro-batches, in the order of an epoch.

    A batch's rows go to micro-batches by their length, the longest first: less padding, and what does not fit into the
    memory shows in the first step. The last batch of an epoch is smaller where the rows do not divide; every device
    has as many micro-batches as the others, of `NOTHING` if need be.
    """

    lengths: Sequence[int]  #: tokens of every row
    batch_size: int
    micro_batch_size: int
    seed: int
    rank: int = 0
    devices: int = 1
    epoch: int = field(default=0, compare=False)

    def __len__(self) -> int:
        """Micro-batches of a device in an epoch."""
        full, rest = divmod(len(self.lengths), self.batch_size)
        together = self.micro_batch_size * self.devices
        return full * (self.batch_size // together) + -(-rest // together)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.lengths)).tolist()
        for start in range(0, len(order), self.batch_size):
            yield from self._micro_batches(order[start : start + self.batch_size])

    def _micro_batches(self, batch: list[int]) -> Iterator[list[int]]:
        batch.sort(key=lambda number: -self.lengths[number])
        together = self.micro_batch_size * self.devices
        for start in range(0, len(batch), together):
            mine = batch[start : start + together][self.rank :: self.devices]
            yield mine or [NOTHING]


class Rows(Dataset[Row]):
    """Rows by their numbers."""

    def __init__(self, rows: Sequence[Row], *, padding: int) -> None:
        self._rows = rows
        self._nothing = Row(ids_T=np.array([padding], dtype=np.int32), loss_T=np.array([False]), lengths=(1,))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Row:
        return self._nothing if number == NOTHING else self._rows[number]
