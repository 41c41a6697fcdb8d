"""What samples see of one another in training: nothing.

On a CPU that is transformers' own: its `sdpa`, with a block mask made of `position_ids` where rows are packed. On a
GPU a mask costs more than what it hides: attention of ours takes the bounds of packed samples instead
(`torch.nn.attention.varlen`), and rows that are not packed need none (see `collating`).
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, Final

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from workers.forge.refusing import Refused

PLAIN: Final = "sdpa"
VARLEN: Final = "modelyard-varlen"
LARGEST_HEAD: Final = 256  #: of flash attention's kernels
_WINDOWS: Final = ("sliding_window", "attention_chunk_size", "attn_logit_softcapping", "use_bidirectional_attention")


_PROBE: Final = 8  #: tokens of a sample that is tried

_kernel: Callable[..., Any] | None = None  #: found before layers are compiled, which import nothing


def choose(config: Any, *, gpu: bool) -> str:
    """transformers' word for the attention of a model: ours where it is plainly causal, on a GPU."""
    global _kernel  # noqa: PLW0603
    if not gpu or not _plainly_causal(config.get_text_config()):
        return PLAIN
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - CUDA's, and not quick to import

    grouped = "enable_gqa" in signature(varlen_attn).parameters  # torch 2.11 takes grouped heads unasked
    _kernel = partial(varlen_attn, enable_gqa=True) if grouped else varlen_attn
    return VARLEN


def attend(  # noqa: PLR0917 - transformers passes them so
    module: Any,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' interface of attention: [B, T, H, D] of queries, keys and values [B, H, T, D]."""
    bounds_N1 = kwargs.get("cu_seq_lens_q")
    if bounds_N1 is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return found
    assert _kernel is not None
    longest = kwargs["max_length_q"]
    found_THD = _kernel(
        *(each.squeeze(0).transpose(0, 1) for each in (query_BHTD, key_BHTD, value_BHTD)),
        bounds_N1,
        bounds_N1,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
    )
    return found_THD.unsqueeze(0), None


# Without a mask function of its name: transformers makes no mask then, and does not look through position_ids, for
# which it would wait for the GPU.
AttentionInterface.register(VARLEN, attend)


def check_apart(model: Any) -> None:
    """See that nothing of a packed sample reaches the next one: its gradient there is zero, to the bit.

    transformers' masks know packed samples, but not every model is made of attention with such a mask.

    Raises:
        Refused: `unsupported_packing`.
    """
    ids_1T = torch.arange(2 * _PROBE, device=model.device)[None] % model.config.get_text_config().vocab_size
    positions_1T = torch.arange(_PROBE, device=model.device).repeat(2)[None]
    seen: list[torch.Tensor] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, __, found: seen.append(found.requires_grad_()))
    try:
        logits_TV = model(input_ids=ids_1T, position_ids=positions_1T, use_cache=False).logits[0, _PROBE:]
    finally:
        hook.remove()
    (gradient_1TH,) = torch.autograd.grad(logits_TV.float().square().sum(), seen[:1])
    if gradient_1TH[0, :_PROBE].any():
        title = "The model's layers see from one packed sample into the next: train it without packing"
        raise Refused("unsupported_packing", title)


def _plainly_causal(config: Any) -> bool:
    heads, hidden = getattr(config, "num_attention_heads", None), config.hidden_size
    if not heads:
        return False
    size = getattr(config, "head_dim", None) or hidden // heads
    windows = any(getattr(config, name, None) for name in _WINDOWS)
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return size <= LARGEST_HEAD and not windows and layers == {"full_attention"} and not config.is_encoder_decoder
