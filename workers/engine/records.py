"""What the generation thread notes of a sequence for whoever answers its request: log probabilities, cached tokens.

Log probabilities are those of the model's own distribution: before temperature, penalties, biases, grammar and limits
(vLLM's `raw_logprobs`, and OpenAI's).

Shape suffixes: B rows of the batch, V vocabulary, L rows whose log probabilities are wanted, K alternatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token, and the likeliest ones in its place, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class Record:
    """Written by the generation thread before it delivers a token, read on the loop afterwards."""

    logprobs: list[TokenLogprob] = field(default_factory=list)
    cached_tokens: int = 0  #: of the prompt, found in the KV cache
    error: str | None = None  #: why its answer is worth nothing


def measure(scores_BV: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Log probabilities `logprob_LV` of some rows; call it before anything rewrites the scores."""
    return scores_BV[torch.tensor(rows, device=scores_BV.device)].log_softmax(-1)


def note(logprob_LV: torch.Tensor, token_L: torch.Tensor, records: Sequence[Record], tops: Sequence[int]) -> None:
    """Append the chosen tokens, each with as many alternatives as its request wants."""
    most = min(max(tops), logprob_LV.size(1))
    chosen_L = logprob_LV.gather(1, token_L[:, None]).squeeze(1).tolist()
    value_LK, column_LK = logprob_LV.topk(most, dim=-1)
    values, columns = value_LK.tolist(), column_LK.tolist()
    for at, (record, token, top) in enumerate(zip(records, token_L.tolist(), tops, strict=True)):
        alternatives = tuple(zip(columns[at][:top], values[at][:top], strict=True))
        record.logprobs.append(TokenLogprob(token, chosen_L[at], alternatives))
