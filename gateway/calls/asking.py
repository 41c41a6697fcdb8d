"""What a call asks: the checked body, the model it means, and the bytes that an engine is sent."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson

from gateway import json_body
from gateway.calls.errors import CallRefused
from services.inference.models import ModelFacts
from services.responses.keys import key_of
from services.responses.types import Key
from shared.contracts import caching, openai
from shared.contracts.bodies import sent
from shared.contracts.caching import CacheWish
from shared.contracts.openai import AnyBody, ChatBody, CompletionBody, EmbeddingBody, GenerateBody
from shared.contracts.serving import Mode

SMALL_BYTES: Final = 64 * 1024  #: a larger body is read in a thread: it would hold up every stream
PARAMETERS: Final = 4096  #: characters of the parameters that a call's row keeps
#: what a row does not keep: texts, and what it says elsewhere
UNKEPT: Final = frozenset(
    {"model", "messages", "prompt", "input", "stream", "stream_options", "tools", "response_format", "stop"}
)
PRIORITIES: Final = {"flex": 2, "priority": 8}  #: of `service_tier`, as a job's priority
PRIORITY: Final = 5
VLLM: Final = "vllm"  #: the engine that orders its waiting requests: a lower `priority` first, interactive is 0
VLLM_RANKS: Final = {2: 2, 8: -1}  #: by a job's priority; flex goes with the lines of batches


@dataclass(frozen=True)
class Endpoint:
    """One of OpenAI's routes that an engine answers."""

    name: str
    path: str
    body: type[AnyBody]
    mode: Mode


CHAT: Final = Endpoint("chat", "/v1/chat/completions", ChatBody, Mode.GENERATE)
COMPLETIONS: Final = Endpoint("completions", "/v1/completions", CompletionBody, Mode.GENERATE)
EMBEDDINGS: Final = Endpoint("embeddings", "/v1/embeddings", EmbeddingBody, Mode.EMBED)


@dataclass(frozen=True)
class Given:
    """A checked body."""

    body: AnyBody
    fields: Mapping[str, Any]  #: as they came, without nulls and without what only we read
    wish: CacheWish
    affinity: str | None  #: `prompt_cache_key`: calls that share it share a prefix
    priority: int


@dataclass(frozen=True)
class Ask:
    """A call that can be placed."""

    tenant_id: UUID
    endpoint: Endpoint
    given: Given
    model: ModelFacts
    key: Key | None  #: in the response cache; None: neither looked up nor kept

    @property
    def name(self) -> str:
        """The model as the caller calls it."""
        return self.given.body.model

    @property
    def stream(self) -> bool:
        """Whether the answer comes as events."""
        return isinstance(self.given.body, GenerateBody) and self.given.body.stream

    @property
    def include_usage(self) -> bool:
        """Whether the caller wants the usage chunk of a stream."""
        return isinstance(self.given.body, GenerateBody) and self.given.body.include_usage

    def data(self, kind: str) -> bytes:
        """The body for an engine of a kind. Usage is always asked for: that is how tokens are counted."""
        own: dict[str, Any] = {"model": self.model.served_as}
        if self.stream:
            own["stream_options"] = {"include_usage": True}
        if kind == VLLM and self.given.priority in VLLM_RANKS:
            own["priority"] = VLLM_RANKS[self.given.priority]
        return orjson.dumps({**self.given.fields, **own})

    def spec(self) -> dict[str, Any]:
        """What the call's row keeps: parameters, never texts."""
        known = {name: value for name, value in self.given.fields.items() if name not in UNKEPT}
        if len(orjson.dumps(known)) > PARAMETERS:  # a long logit_bias
            known = {name: value for name, value in known.items() if isinstance(value, bool | int | float)}
        about = {"model": self.name, "model_id": str(self.model.id), "endpoint": self.endpoint.path}
        return {**about, "stream": self.stream, "parameters": known}

    @classmethod
    def of(cls, tenant_id: UUID, endpoint: Endpoint, given: Given, model: ModelFacts) -> "Ask":
        """With the key of its answer."""
        key = key_of(
            given.body, tenant_id=tenant_id, digest=model.digest, adapter=model.adapter_digest, wish=given.wish
        )
        return cls(tenant_id, endpoint, given, model, key)


async def read(raw: bytes, endpoint: Endpoint) -> Given:
    """Check a body.

    Raises:
        InvalidJson, InvalidField: it is not JSON as we accept it.
        CallRefused: a parameter is unknown, cannot be honoured, or has a bad value.
    """
    if len(raw) > SMALL_BYTES:
        return await asyncio.to_thread(_read, raw, endpoint)
    return _read(raw, endpoint)


def _read(raw: bytes, endpoint: Endpoint) -> Given:
    fields = json_body.parse(raw)
    if not isinstance(fields, dict):
        raise CallRefused("The body must be a JSON object.", code="invalid_json")
    try:
        wish, rest = caching.take(fields)
        body = openai.parse(rest, endpoint.body)
    except openai.BadRequest as error:
        raise CallRefused(str(error), code=error.code, param=error.param) from error
    affinity = rest.get("prompt_cache_key")
    return Given(
        body,
        sent(rest),
        wish,
        affinity if isinstance(affinity, str) else None,
        PRIORITIES.get(str(rest.get("service_tier")), PRIORITY),
    )
