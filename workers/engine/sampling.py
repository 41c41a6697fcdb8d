"""How the next token of each sequence is chosen, with parameters of its own for every sequence of a batch.

transformers' continuous batching asks a list of logits processors to rewrite the scores and then takes the
argmax (`do_sample=False`). `Sampler` stands in for that list: it leaves greedy rows alone and, for the
others, draws the token itself and raises its score to infinity, so that the argmax is the sample. Parameters
reach the device in the rows of one int32 tensor that the batch carries anyway (`prepare_tensor_args`), which
also works across ranks.

The draw is the inverse of the cumulative distribution at one uniform number, and that number is a function of
the sequence's seed and position alone: neither the other rows of the batch nor a preemption can change it.

Shape suffixes: B rows of this step, S rows that are sampled, V vocabulary, K candidates kept, P parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

_MASK = (1 << 64) - 1
_SHORTLIST = 128  # nearly always enough for top_p; sorting a vocabulary of 4,096 instead halves the speed
_PARAMETERS = ("temperature", "top_p", "uniform", "top_k")  # rows of the argument tensor, in this order


@dataclass(frozen=True, slots=True)
class Sampling:
    """One sequence's wishes. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep every token."""

    temperature: float
    top_k: int
    top_p: float
    seed: int


class _State(Protocol):
    """What is read of transformers' `RequestState`."""

    position_offset: int  #: tokens of prompt and output already in the cache or in this step
    logit_processor_kwargs: Mapping[str, Any]


class _Row(Protocol):
    """What is read of transformers' `FutureRequestState`."""

    has_new_token: bool
    state: _State


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) of 24 bits, fixed by its arguments (splitmix64, Steele et al. 2014)."""
    bits = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return float((bits ^ (bits >> 31)) >> 40) * 2.0**-24  # 24 bits: exact in float32


class Sampler:
    """Stands in for transformers' `ContinuousBatchingLogitsProcessorList` (5.17), whose interface this is."""

    do_processing = True
    tensors_required = len(_PARAMETERS)

    def __init__(self) -> None:
        self.tokens_generated = 0  #: rows that got a new token since the start, of every sequence

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        if not isinstance(kwargs.get("sampling"), Sampling):
            raise TypeError("a request carries `sampling`, an instance of Sampling, and nothing else")

    def fill_defaults(self, arguments_P1: torch.Tensor) -> None:
        arguments_P1.zero_()  # temperature 0: a row without parameters is greedy

    def prepare_tensor_args(self, requests_in_batch: Sequence[_Row], arg_storage: torch.Tensor) -> torch.Tensor:
        states = [row.state for row in requests_in_batch if row.has_new_token]
        self.tokens_generated += len(states)
        wishes = [(state.logit_processor_kwargs["sampling"], state.position_offset) for state in states]
        rows = (
            [sampling.temperature for sampling, _ in wishes],
            [sampling.top_p for sampling, _ in wishes],
            [uniform(sampling.seed, position) for sampling, position in wishes],
        )
        floats = torch.tensor(rows, dtype=torch.float32).view(torch.int32)
        top_k = torch.tensor([[sampling.top_k for sampling, _ in wishes]], dtype=torch.int32)
        arg_storage[:, : len(states)] = torch.cat([floats, top_k]).to(arg_storage.device)
        return arg_storage

    def __call__(self, _input_ids: torch.Tensor, scores_BV: torch.Tensor, arguments_PB: torch.Tensor) -> torch.Tensor:
        arguments_PB = arguments_PB[:, : scores_BV.size(0)]
        temperature_B, top_p_B, uniform_B = arguments_PB[:3].contiguous().view(torch.float32)
        top_k_B = arguments_PB[3]
        sampled_B = temperature_B > 0
        limited_B = sampled_B & ((top_k_B > 0) | (top_p_B < 1))
        for rows, limited in ((limited_B, True), (sampled_B & ~limited_B, False)):
            row_S = rows.nonzero().squeeze(1)
            if row_S.numel() == 0:
                continue
            logits_SV = scores_BV[row_S] / temperature_B[row_S, None]
            if limited:
                token_S = _draw_limited(logits_SV, uniform_B[row_S], top_k_B[row_S].long(), top_p_B[row_S])
            else:
                token_S = _draw(logits_SV.softmax(-1), uniform_B[row_S])
            scores_BV[row_S, token_S] = torch.inf
        return scores_BV


def _draw(weight_SV: torch.Tensor, uniform_S: torch.Tensor) -> torch.Tensor:
    """The first column whose cumulative weight exceeds `uniform` of the total; never one of weight zero."""
    cumulative_SV = weight_SV.cumsum(-1)
    total_S = cumulative_SV[:, -1]
    below_total_S = torch.nextafter(total_S, torch.zeros_like(total_S))
    target_S = torch.minimum(uniform_S * total_S, below_total_S)
    return torch.searchsorted(cumulative_SV, target_S[:, None], right=True).squeeze(1)


def _draw_limited(
    logits_SV: torch.Tensor, uniform_S: torch.Tensor, top_k_S: torch.Tensor, top_p_S: torch.Tensor
) -> torch.Tensor:
    """Draw among the `top_k` best, and of them the fewest that hold `top_p` of their probability, at least one."""
    weight_SV = logits_SV.softmax(-1)
    vocabulary = weight_SV.size(-1)
    top_k_S = torch.where(top_k_S > 0, top_k_S, vocabulary).clamp(max=vocabulary)
    weight_SK, column_SK = weight_SV.topk(min(_SHORTLIST, vocabulary), dim=-1)
    if not ((top_k_S <= _SHORTLIST) | (weight_SK.sum(-1) >= top_p_S)).all():
        weight_SK, column_SK = weight_SV.sort(dim=-1, descending=True)
    rank_K = torch.arange(weight_SK.size(-1), device=logits_SV.device)
    weight_SK = weight_SK.masked_fill(rank_K >= top_k_S[:, None], 0.0)
    total_S = torch.where(top_k_S < vocabulary, weight_SK.sum(-1), 1.0)
    before_SK = weight_SK.cumsum(-1) - weight_SK
    weight_SK = weight_SK.masked_fill((before_SK >= (top_p_S * total_S)[:, None]) & (rank_K > 0), 0.0)
    return column_SK.gather(1, _draw(weight_SK, uniform_S)[:, None]).squeeze(1)
