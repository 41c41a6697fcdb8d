"""Rows become the tensors of a micro-batch.

B rows, T tokens of the longest, N samples in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from workers.forge.tuning.samples import Row

IGNORED: Final = -100  #: a label without a loss (torch's `ignore_index`)
BOUNDS: Final = 64  #: numbers of bounds are multiples of it: fewer shapes to compile; the last ones repeat
COUNTS: Final = "counts"  #: key of a batch's `Counts`


@dataclass(frozen=True)
class Counts:
    """What a micro-batch holds, counted where it is made: a GPU would have to be waited for."""

    tokens: int  #: padding apart
    targets: int  #: tokens that the loss is of
    squares: int  #: sum over samples of their length²: what attention computes


@dataclass(frozen=True)
class Collator:
    """Pads rows at their end.

    No mask says what is padding: nothing that attends to what comes before it sees what comes after. Of packed rows
    `position_ids` begin anew with each sample, from which transformers makes its block mask. With `flat`, a
    micro-batch is one row of B × `length` tokens, with the bounds of its samples (`cu_seq_lens_q`), as kernels for
    samples of different lengths take them; what is left over is samples of its own.
    """

    padding: int  #: token id
    packed: bool
    length: int  #: tokens of a row at most
    flat: bool = False
    multiple: int = 1  #: T is a multiple of it

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Tensors of a micro-batch: input_ids and labels [B, T], int64."""
        labels = [_labels(row) for row in rows]
        counts = _count(rows, labels)
        if self.flat:
            return self._flat(rows, labels) | {COUNTS: counts}
        width = -(-max(len(row.ids_T) for row in rows) // self.multiple) * self.multiple
        batch = {
            "input_ids": _padded([row.ids_T for row in rows], width, self.padding),
            "labels": _padded(labels, width, IGNORED),
        }
        if self.packed:
            batch["position_ids"] = _padded([_positions(row.lengths) for row in rows], width, 0)
        return batch | {COUNTS: counts}

    def _flat(self, rows: Sequence[Row], labels: list[NDArray[np.int64]]) -> dict[str, Any]:
        total = len(rows) * self.length
        lengths = [length for row in rows for length in row.lengths]
        left = total - sum(lengths)
        lengths += [self.length] * (left // self.length) + [left % self.length] * (left % self.length > 0)
        bounds_N1 = torch.full((-(-(len(lengths) + 1) // BOUNDS) * BOUNDS,), total, dtype=torch.int32)
        bounds_N1[: len(lengths) + 1] = torch.tensor([0, *lengths]).cumsum(0)
        return {
            "input_ids": _padded([np.concatenate([row.ids_T for row in rows])], total, self.padding),
            "labels": _padded([np.concatenate(labels)], total, IGNORED),
            "position_ids": torch.from_numpy(_positions(lengths))[None],
            "cu_seq_lens_q": bounds_N1,
            "cu_seq_lens_k": bounds_N1,
            "max_length_q": self.length,
            "max_length_k": self.length,
        }


def _labels(row: Row) -> NDArray[np.int64]:
    """Ids where there is a loss. Nothing predicts the first token of a sample, least of all the sample before it."""
    labels_T = np.where(row.loss_T, row.ids_T, IGNORED).astype(np.int64)
    labels_T[_starts(row.lengths)] = IGNORED
    return labels_T


def _count(rows: Sequence[Row], labels: Sequence[NDArray[np.int64]]) -> Counts:
    return Counts(
        tokens=sum(len(row.ids_T) for row in rows),
        targets=sum(int((labels_T != IGNORED).sum()) for labels_T in labels),
        squares=sum(length * length for row in rows for length in row.lengths),
    )


def _positions(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(length) for length in lengths])


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)


def _padded(parts: Sequence[NDArray[Any]], width: int, value: int) -> torch.Tensor:
    padded_BT = np.full((len(parts), width), value, dtype=np.int64)
    for row, part in zip(padded_BT, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(padded_BT)
