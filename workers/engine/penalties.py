"""Sparse changes of the scores: penalties for what was said, biases, and endings that must not come yet.

Formulas: OpenAI's for presence and frequency, which count generated tokens alone; CTRL's (Keskar et al. 2019) for
repetition, which counts the prompt as well. The repetition penalty comes first, as in vLLM.

Shape suffixes: B rows of the batch, V vocabulary, N changes of all rows, each of another (row, column).
"""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import torch

Change = tuple[int, Sequence[int], Sequence[float]]  #: row, columns, what is added to them


class Tally:
    """How often a sequence has generated each token; tokens of the prompt are there with 0."""

    def __init__(self, prompt: Iterable[int]) -> None:
        self._places = {token: place for place, token in enumerate(dict.fromkeys(prompt))}
        self._tokens = array("q", self._places)
        self._counts = array("f", bytes(4 * len(self._places)))

    def add(self, tokens: Iterable[int]) -> None:
        """Count generated tokens."""
        for token in tokens:
            place = self._places.setdefault(token, len(self._tokens))
            if place == len(self._tokens):
                self._tokens.append(token)
                self._counts.append(0.0)
            self._counts[place] += 1

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def tokens(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Every token once. A view: drop it before the next `add`."""
        return np.frombuffer(self._tokens, np.int64)

    @property
    def counts(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """How often, in the order of `tokens`. A view as well."""
        return np.frombuffer(self._counts, np.float32)


def penalise(
    scores_BV: torch.Tensor, rows: Sequence[int], tallies: Sequence[Tally], penalties: Sequence[Sequence[float]]
) -> None:
    """Lower the scores of what was said; `penalties` holds (presence, frequency, repetition) of each row."""
    sizes = [len(tally) for tally in tallies]
    if not sum(sizes):
        return
    device = scores_BV.device
    row_N = torch.from_numpy(np.repeat(np.asarray(rows), sizes)).to(device)
    column_N = torch.from_numpy(np.concatenate([tally.tokens for tally in tallies])).to(device)
    count_N = torch.from_numpy(np.concatenate([tally.counts for tally in tallies])).to(device)
    of_row = np.repeat(np.asarray(penalties, np.float32).T, sizes, axis=1)
    presence_N, frequency_N, repetition_N = torch.from_numpy(of_row).to(device)
    score_N = scores_BV[row_N, column_N]
    score_N = torch.where(score_N > 0, score_N / repetition_N, score_N * repetition_N)
    scores_BV[row_N, column_N] = score_N - frequency_N * count_N - presence_N * (count_N > 0)


def add(scores_BV: torch.Tensor, changes: Sequence[Change]) -> None:
    """Add to single scores; −∞ makes a token impossible. One (row, column) may come several times."""
    device = scores_BV.device
    row_N = torch.tensor([row for row, columns, _ in changes for _ in columns], device=device)
    column_N = torch.tensor([column for _, columns, _ in changes for column in columns], device=device)
    values = [value for _, _, values in changes for value in values]
    value_N = torch.tensor(values, dtype=scores_BV.dtype, device=device)
    scores_BV.index_put_((row_N, column_N), value_N, accumulate=True)
