"""What a model asks of its devices, read from its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.jobs.plan import Needs
from shared.db.models import Model

#: bytes of one number
WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
CACHE_WIDTH = 2  # keys and values of quantized weights are kept in bf16
#: an engine outlives its first job, so it gets room for other people's sequences
LEAST_TOKENS = 8192


@dataclass(frozen=True)
class ModelFacts:
    """The figures of a model version that planning and checking need. Bytes and tokens."""

    id: UUID
    name: str
    digest: str
    dtype: str
    weight_bytes: int
    context_length: int
    kv_bytes_per_token: int
    kv_heads: int

    def needs(self, tokens: int) -> Needs:
        """What an engine for sequences of `tokens` tokens needs."""
        held = min(self.context_length, max(tokens, LEAST_TOKENS))
        return Needs(
            weight_bytes=self.weight_bytes,
            kv_bytes_per_token=self.kv_bytes_per_token,
            tokens=held,
            dtype=self.dtype if self.dtype in WIDTHS else None,
            kv_heads=self.kv_heads,
        )


def facts(model: Model) -> ModelFacts:
    """The figures of a registered model."""
    text = model.config.get("text_config")
    config = text if isinstance(text, dict) else model.config
    return ModelFacts(
        id=model.id,
        name=model.name,
        digest=model.digest,
        dtype=model.dtype,
        weight_bytes=model.bytes,
        context_length=model.context_length,
        kv_bytes_per_token=kv_bytes_per_token(config, model.dtype),
        kv_heads=_kv_heads(config),
    )


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Keys and values of one token in every layer; 0 when the configuration does not say.

    2 × layers × KV heads × head size × bytes: 131,072 for Llama 3 8B in bf16 (32 × 8 × 128).
    """
    heads, hidden = _number(config, "num_attention_heads"), _number(config, "hidden_size")
    head = _number(config, "head_dim") or (hidden // heads if heads else 0)
    width = max(CACHE_WIDTH, WIDTHS.get(dtype, CACHE_WIDTH))
    return 2 * _number(config, "num_hidden_layers") * _kv_heads(config) * head * width


def _kv_heads(config: Mapping[str, Any]) -> int:
    return _number(config, "num_key_value_heads") or _number(config, "num_attention_heads") or 1


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return value if type(value) is int and value > 0 else 0
