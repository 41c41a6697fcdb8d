"""How much memory there is for keys and values, and how much the engine holds."""

from collections.abc import Sequence
from typing import Any

import psutil
import torch

from shared.contracts.engine import EngineConfig

_CPU_TOKENS = 32 * 1024  # what a CPU engine keeps of keys and values when nothing else is said
_CPU_BYTES = 4 * 2**30  # and the most that it takes for them, because the host is not the engine's alone


def block_size_of(config: EngineConfig) -> int:
    """Tokens of one KV block. Flash attention with a block table wants pages of 256."""
    return config.block_size or (32 if config.device == "cpu" else 256)


def batch_tokens_of(config: EngineConfig) -> int:
    """Prompt and decode tokens of one step."""
    return config.max_batch_tokens or (512 if config.device == "cpu" else 4096)


def blocks_for(config: EngineConfig, text: Any, dtype: torch.dtype) -> int:
    """KV blocks of the model's own cache: always said, because 5.17 would take nine tenths of the host's memory.

    `text` is the model's text configuration. Call it when the weights are loaded.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    block = block_size_of(config) * _bytes_per_token(text, dtype, ranks=config.tensor_parallel)
    if config.device == "cpu":
        context = config.context_length or text.max_position_embeddings
        wanted = max(_CPU_TOKENS, context) // block_size_of(config) + 1
        left = min(_CPU_BYTES, int(psutil.virtual_memory().available * config.kv_fraction / config.tensor_parallel))
        return max(2, min(wanted, left // block))
    left, _total = torch.cuda.mem_get_info()
    return max(2, int(left * config.kv_fraction) // block)


def blocks_for_adapter(config: EngineConfig, context_length: int, *, base: int) -> int:
    """KV blocks of one adapter: one whole context, and on CPU as much as a quarter of the model's own."""
    whole = -(-context_length // block_size_of(config)) + 1
    return min(base, whole if config.device == "cuda" else max(whole, base // 4))


def held(config: EngineConfig, pids: Sequence[int]) -> int:
    """Bytes resident on the host (CPU) or reserved on its devices (GPU), of all ranks, which are alike."""
    if config.device == "cuda":
        return int(torch.cuda.memory_reserved()) * config.tensor_parallel
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:  # a rank that just ended
            continue
    return total


def _bytes_per_token(text: Any, dtype: torch.dtype, *, ranks: int) -> int:
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * max(1, heads // ranks) * width * dtype.itemsize)
