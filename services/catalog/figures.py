"""The figures that a model's configuration gives: KV heads, and what the KV cache holds of a token."""

from collections.abc import Mapping
from typing import Any

#: bytes of one number
WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "fp8-kv": 1, "int8": 1, "int4": 0.5, "nvfp4": 0.5}
CACHE_WIDTH = 2  # keys and values of quantized weights are kept in bf16


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Keys and values of one token in every layer; 0 when the configuration does not say.

    131,072 for Llama 3 8B in bf16 (2 × 32 layers × 8 KV heads × 128 × 2 bytes).
    """
    return kv_values_per_token(config) * cache_width(dtype)


def kv_values_per_token(config: Mapping[str, Any]) -> int:
    """2 × layers × KV heads × head size: how many numbers the cache holds of one token."""
    heads, hidden = _number(config, "num_attention_heads"), _number(config, "hidden_size")
    head = _number(config, "head_dim") or (hidden // heads if heads else 0)
    return 2 * _number(config, "num_hidden_layers") * kv_heads(config) * head


def kv_heads(config: Mapping[str, Any]) -> int:
    """Heads that keys and values are kept for: tensor parallelism splits them."""
    return _number(config, "num_key_value_heads") or _number(config, "num_attention_heads") or 1


def cache_width(dtype: str) -> int:
    """Bytes of one number in the KV cache of a model of this dtype."""
    return max(CACHE_WIDTH, int(WIDTHS.get(dtype, CACHE_WIDTH)))


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return value if type(value) is int and value > 0 else 0
