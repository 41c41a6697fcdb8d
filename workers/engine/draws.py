"""Drawing a token at random.

The draw is the inverse of the cumulative distribution at one uniform number, and that number is a function of
the sequence's seed and position alone: neither the other rows of the batch nor a preemption can change it. Gumbel noise
would need a number for each token of the vocabulary instead of one, and a generator's state for each sequence.

Shape suffixes: S rows that are sampled, V vocabulary, K candidates kept.
"""

import torch

_MASK = (1 << 64) - 1
_SHORTLIST = 128  # nearly always enough for top_p; sorting a vocabulary of 4,096 instead halves the speed


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) of 24 bits, fixed by its arguments (splitmix64, Steele et al. 2014)."""
    bits = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return float((bits ^ (bits >> 31)) >> 40) * 2.0**-24  # 24 bits: exact in float32


def draw(weight_SV: torch.Tensor, uniform_S: torch.Tensor) -> torch.Tensor:
    """The first column whose cumulative weight exceeds `uniform` of the total; never one of weight zero.

    Where weights are no numbers, because a model overflowed, it is the last column: its row alone is spoilt.
    """
    cumulative_SV = weight_SV.cumsum(-1)
    total_S = cumulative_SV[:, -1]
    below_total_S = torch.nextafter(total_S, torch.zeros_like(total_S))
    target_S = torch.minimum(uniform_S * total_S, below_total_S)
    column_S = torch.searchsorted(cumulative_SV, target_S[:, None], right=True).squeeze(1)
    return column_S.clamp_(max=weight_SV.size(-1) - 1)


def draw_limited(
    logits_SV: torch.Tensor,
    uniform_S: torch.Tensor,
    *,
    top_k_S: torch.Tensor,
    top_p_S: torch.Tensor,
    min_p_S: torch.Tensor,
) -> torch.Tensor:
    """Draw among the `top_k` best that have `min_p` of the best one's probability.

    Of these the fewest take part that hold `top_p` of what they have together, at least one.
    """
    weight_SV = logits_SV.softmax(-1)
    vocabulary = weight_SV.size(-1)
    top_k_S = torch.where((top_k_S > 0) & (top_k_S < vocabulary), top_k_S, torch.inf)
    limits_3S = torch.stack([top_k_S, top_p_S, min_p_S])
    weight_SK, column_SK = weight_SV.topk(min(_SHORTLIST, vocabulary), dim=-1)
    token_S = _draw_among(weight_SK, column_SK, uniform_S, limits_3S)
    enough_S = top_k_S.isinf() & (min_p_S == 0) & (weight_SK.sum(-1) >= top_p_S)
    enough_S |= (top_k_S <= _SHORTLIST) | (weight_SK[:, -1] < min_p_S * weight_SK[:, 0])
    if not enough_S.all():  # which of both a row takes depends on the row alone
        late = (~enough_S).nonzero().squeeze(1)
        weight_SV, column_SV = weight_SV[late].sort(dim=-1, descending=True)
        token_S[late] = _draw_among(weight_SV, column_SV, uniform_S[late], limits_3S[:, late])
    return token_S


def _draw_among(
    weight_SK: torch.Tensor, column_SK: torch.Tensor, uniform_S: torch.Tensor, limits_3S: torch.Tensor
) -> torch.Tensor:
    """Draw among candidates, the heaviest first; the limits are top_k (none is ∞), top_p and min_p."""
    top_k_S, top_p_S, min_p_S = limits_3S
    rank_K = torch.arange(weight_SK.size(-1), device=weight_SK.device)
    least_S = min_p_S * weight_SK[:, 0]
    weight_SK = weight_SK.masked_fill((rank_K >= top_k_S[:, None]) | (weight_SK < least_S[:, None]), 0.0)
    total_S = torch.where(top_k_S.isinf() & (min_p_S == 0), 1.0, weight_SK.sum(-1))
    before_SK = weight_SK.cumsum(-1) - weight_SK
    weight_SK = weight_SK.masked_fill((before_SK >= (top_p_S * total_S)[:, None]) & (rank_K > 0), 0.0)
    return column_SK.gather(1, draw(weight_SK, uniform_S)[:, None]).squeeze(1)
