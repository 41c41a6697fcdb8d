"""Logits become figures of single tokens. B: sequences, T: positions, N: tokens, V: vocabulary."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from workers.forge.refusing import Refused

CHUNK = 2**22  # logits that are widened to fp32 at once: 16 MiB, the size at which a core is still fed by its cache
CPU_LOGITS = 2**24  # logits of a batch: 4096 tokens of 4096 words
CUDA_LOGITS = 2**28  # 2048 tokens of 128k words: 0.5 GiB of bf16
MOST_TOKENS = {"cpu": 4096, "cuda": 16384}  # of a batch, whatever the vocabulary: activations count too

Model = Any
"""A causal language model of transformers: untyped there, too."""


class Scores(NamedTuple):
    """One figure a token [N]: its negative log-likelihood and, beside a baseline, how far the two models are apart."""

    nll: torch.Tensor  #: nats, float32
    baseline_nll: torch.Tensor | None = None
    kl: torch.Tensor | None = None  #: KL(baseline ‖ candidate) of the whole distribution, nats
    agreed: torch.Tensor | None = None  #: whether both find the same token likeliest


def batch_tokens(device: str, vocabulary: int) -> int:
    """How many tokens go through a model at once on a device (`cpu`, `cuda`)."""
    logits = CUDA_LOGITS if device == "cuda" else CPU_LOGITS
    return max(64, min(MOST_TOKENS[device], logits // vocabulary))


def pieces(model: Model, ids_BT: torch.Tensor, *, size: int) -> Iterator[torch.Tensor]:
    """Logits [B, t, V] of positions in their order, `size` tokens of the batch at a time.

    A batch that is larger goes through the model in pieces that build on its cache of keys and values, so that a long
    context never has all its logits in memory. A model without such a cache is given the whole batch.
    """
    length = ids_BT.shape[1]
    step = max(1, size // ids_BT.shape[0])
    if length <= step:
        yield model(input_ids=ids_BT, use_cache=False).logits
        return
    cache = None
    for start in range(0, length, step):
        output = model(input_ids=ids_BT[:, start : start + step], past_key_values=cache, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            yield model(input_ids=ids_BT, use_cache=False).logits
            return
        yield output.logits


def score(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> Scores:
    """The negative log-likelihood of each target, computed in fp32."""
    return Scores(torch.cat([-_gather(log_p, target) for log_p, target in _chunks(logits_NV, targets_N)]))


def compare(candidate_NV: torch.Tensor, baseline_NV: torch.Tensor, targets_N: torch.Tensor) -> Scores:
    """Both models' likelihood of each target, and how far apart they are: all in fp32, from full logits."""
    found = []
    both = zip(_chunks(candidate_NV, targets_N), _chunks(baseline_NV, targets_N), strict=True)
    for (candidate_nV, targets_n), (baseline_nV, _) in both:
        nll_n, baseline_nll_n = -_gather(candidate_nV, targets_n), -_gather(baseline_nV, targets_n)
        agreed_n = candidate_nV.argmax(-1) == baseline_nV.argmax(-1)
        apart_nV = baseline_nV.sub(candidate_nV)
        kl_n = baseline_nV.exp_().mul_(apart_nV).sum(-1)
        found.append((nll_n, baseline_nll_n, kl_n, agreed_n))
    return Scores(*(torch.cat(column) for column in zip(*found, strict=True)))


def check_finite(values: torch.Tensor, name: str) -> None:
    """Refuse figures that came from logits which are infinite or no numbers.

    Raises:
        Refused: `non_finite_logits`, which names the model.
    """
    if not bool(values.isfinite().all()):
        title = "A model's logits are not finite"
        raise Refused("non_finite_logits", title, f"{name}: a weight or an activation overflows")


def _chunks(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    size = max(1, CHUNK // logits_NV.shape[-1])
    for logits_nV, targets_n in zip(logits_NV.split(size), targets_N.split(size), strict=True):
        yield torch.log_softmax(logits_nV, dim=-1, dtype=torch.float32), targets_n


def _gather(values_nV: torch.Tensor, targets_n: torch.Tensor) -> torch.Tensor:
    return values_nV.gather(-1, targets_n[:, None]).squeeze(-1)


Done = Callable[[int], None]
"""Told how many more samples are done."""
