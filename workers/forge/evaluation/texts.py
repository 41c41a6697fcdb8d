"""Perplexity, KL divergence and top-1 agreement. S: sequences, B: those of a batch, L: length, t: positions, V: words.

Every token of a sequence but its first is predicted from those before it in the same sequence. Perplexity is exp of the
mean negative log-likelihood over all predicted tokens of all sequences, which are packed and equally long.
KL(baseline ‖ candidate) and agreement are means over the same tokens, from both models' logits of the same batch.
Where embeddings are padded to different heights (Qwen 2.5's to 151,936 or 152,064 rows for one vocabulary), the rows
that only one model has stand for no token: they are left out before anything is computed.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from workers.forge.evaluation.subjects import Runner
from workers.forge.evaluation.tokens import Done, Scores, batch_tokens, check_finite, compare, pieces, score
from workers.forge.refusing import Refused

_MOST_NATS = 700.0  # a token; exp of more is no float


class Found(NamedTuple):
    """Sums over the predicted tokens of one sequence, in nats; the last three beside a baseline."""

    tokens: int
    nll: float
    baseline_nll: float | None = None
    kl: float | None = None
    agreed: float | None = None  #: a number of tokens


def measure(ids_SL: NDArray[np.int32], *, candidate: Runner, baseline: Runner | None = None, done: Done) -> list[Found]:
    """What was found in every sequence, in their order; `done` is told each batch's number of sequences.

    Both models see the same batch, and no more than a batch's logits are held.

    Raises:
        Refused: `non_finite_logits`, with the model's name.
    """
    found: list[Found] = []
    size = min(_room(runner) for runner in (candidate, baseline) if runner)
    for ids_BL in batches(ids_SL, size):
        found += _measured(ids_BL, candidate, baseline, size=size)
        done(len(ids_BL))
    return found


def batches(ids_SL: NDArray[np.int32], size: int) -> Sequence[torch.Tensor]:
    """The sequences as they go through a model: as many at once as there is room for, `size` tokens."""
    rows = max(1, size // ids_SL.shape[1])
    split: Sequence[torch.Tensor] = torch.from_numpy(ids_SL.astype(np.int64)).split(rows)
    return split


def metrics(found: Sequence[Found]) -> tuple[dict[str, float], dict[str, float] | None]:
    """Figures of the candidate, and of the baseline where there is one.

    Raises:
        Refused: `non_finite_logits`, when a perplexity is beyond any number.
    """
    tokens = sum(each.tokens for each in found)
    candidate = {"perplexity": _perplexity(sum(each.nll for each in found), tokens)}
    beside = [(each.baseline_nll, each.kl, each.agreed) for each in found]
    sums = [sum(value for value in column if value is not None) for column in zip(*beside, strict=True)]
    if any(value is None for value in beside[0]):
        return candidate, None
    baseline = {"perplexity": _perplexity(sums[0], tokens)}
    candidate |= {
        "ppl_increase": candidate["perplexity"] / baseline["perplexity"] - 1,
        "kl_divergence": max(0.0, sums[1] / tokens),  # rounding makes the least of nothing
        "agreement": sums[2] / tokens,
    }
    return candidate, baseline


def probe(ids_SL: NDArray[np.int32], runner: Runner) -> None:
    """Send the first batch through one model alone, so that what it takes can be seen."""
    size = _room(runner)
    for _ in _streamed(batches(ids_SL, size)[0], runner, size=size):
        pass


def _measured(ids_BL: torch.Tensor, candidate: Runner, baseline: Runner | None, *, size: int) -> Iterator[Found]:
    parts = list(_scored(ids_BL, candidate, baseline, size=size))
    columns = [_sums(column) for column in zip(*parts, strict=True) if column[0] is not None]
    for nll, *beside in zip(*columns, strict=True):
        yield Found(ids_BL.shape[1] - 1, nll, *beside)


def _sums(parts_Bt: Sequence[torch.Tensor]) -> list[float]:
    """One sum a row."""
    sums: list[float] = torch.cat(list(parts_Bt), dim=1).sum(1, dtype=torch.float64).tolist()
    return sums


def _scored(ids_BL: torch.Tensor, candidate: Runner, baseline: Runner | None, *, size: int) -> Iterator[Scores]:
    """Scores [B, t] of positions in their order."""
    streams = [_streamed(ids_BL, runner, size=size) for runner in (candidate, baseline) if runner]
    start = 1
    for logits in zip(*streams, strict=True):
        targets_Bt = ids_BL[:, start : start + logits[0].shape[1]].to(logits[0].device)
        start += logits[0].shape[1]
        if not targets_Bt.numel():  # the last piece was one token, which nothing follows
            return
        words = min(each.shape[-1] for each in logits)
        flat = [each[:, : targets_Bt.shape[1], :words].flatten(0, 1).to(targets_Bt.device) for each in logits]
        targets_N = targets_Bt.flatten()
        scores = compare(flat[0], flat[1], targets_N) if baseline else score(flat[0], targets_N)
        check_finite(scores.nll, candidate.name)
        if baseline and scores.baseline_nll is not None and scores.kl is not None:
            check_finite(scores.baseline_nll, baseline.name)
            check_finite(scores.kl, f"{candidate.name} beside {baseline.name}")
        yield Scores(*(each if each is None else each.view_as(targets_Bt) for each in scores))


def _streamed(ids_BL: torch.Tensor, runner: Runner, *, size: int) -> Iterator[torch.Tensor]:
    return pieces(runner.model, ids_BL.to(runner.device), size=size)


def _room(runner: Runner) -> int:
    return batch_tokens(runner.device.type, runner.reader.vocabulary)


def _perplexity(nll: float, tokens: int) -> float:
    mean = nll / tokens
    if mean > _MOST_NATS:
        raise Refused("non_finite_logits", "A perplexity is beyond any number", f"{mean:.4g} nats a token")
    return math.exp(mean)
