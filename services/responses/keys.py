"""What makes two requests one: the canonical request, and the key made of it.

Left out is what does not change the answer's text: the model's name (its digest is there), streaming, bookkeeping. A
default that is spelled out is the same as one that is not; under temperature 0 the sampling parameters mean nothing.
Free JSON (a schema, a tool's parameters) keeps its order: grammars and chat templates read it in order.
"""

import hashlib
import json
from typing import Any, Final
from uuid import UUID

from services.responses.types import Key
from shared.contracts.caching import CacheWish
from shared.contracts.openai import AnyBody, ChatBody, CompletionBody, EmbeddingBody, GenerateBody

VERSION: Final = 1  #: of the canonical form
UNREAD: Final = frozenset({"model", "stream", "stream_options"})
GREEDY: Final = frozenset({"top_p", "top_k", "min_p", "seed"})  #: without effect when the likeliest token is taken
PLAIN: Final = CacheWish()


def key_of(
    body: AnyBody, *, tenant_id: UUID, digest: str, adapter: str | None = None, wish: CacheWish = PLAIN
) -> Key | None:
    """The key of a checked request; None when it is neither looked up nor kept.

    `digest` is the base model's, `adapter` the adapter's where one answers.
    """
    if wish.mode == "off" or (wish.mode == "auto" and not deterministic(body)):
        return None
    # ensure_ascii: a lone surrogate inside free JSON has no UTF-8
    parts = [VERSION, str(tenant_id), digest, adapter, type(body).__name__, canonical(body)]
    told = json.dumps(parts, separators=(",", ":")).encode()
    return Key(tenant_id, digest, adapter, hashlib.sha256(told).hexdigest())


def deterministic(body: AnyBody) -> bool:
    """Whether the same request gives the same answer every time."""
    return isinstance(body, EmbeddingBody) or body.deterministic


def canonical(body: AnyBody) -> list[tuple[str, Any]]:
    """The fields that the answer hangs on, in one spelling, sorted by name."""
    fields = body.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=set(UNREAD))
    match body:
        case ChatBody():
            _chat(fields, body)
        case CompletionBody():
            fields["prompt"] = body.prompts
        case EmbeddingBody():
            fields["input"] = body.inputs
    if isinstance(body, GenerateBody):
        _generate(fields, body)
    return sorted((name, value) for name, value in fields.items() if value not in (None, [], {}))


def _generate(fields: dict[str, Any], body: GenerateBody) -> None:
    fields["stop"] = list(body.stops)
    fields["logit_bias"] = sorted(body.logit_bias.items())
    if body.top_k < 0:
        del fields["top_k"]
    if body.response_format is not None and body.response_format.type == "text":
        del fields["response_format"]
    if body.temperature == 0:
        for name in GREEDY:
            fields.pop(name, None)


def _chat(fields: dict[str, Any], body: ChatBody) -> None:
    fields.pop("max_completion_tokens", None)
    fields["max_tokens"] = body.limit
    fields["top_logprobs"] = body.top_logprobs_wanted  # 0 and null are told apart by `logprobs`
    if not body.tools or body.tool_choice == "auto":
        fields.pop("tool_choice", None)
    for message, given in zip(fields["messages"], body.messages, strict=True):
        if isinstance(given.content, list) and len(given.content) == 1:
            message["content"] = given.text  # several parts may be joined by the template, each in its own way
