"""The calls in the OpenAPI document: bodies from the contracts that check them, examples of both ways to answer."""

from typing import Any

from pydantic import BaseModel

from shared.contracts.caching import FIELD, CacheWish
from shared.contracts.openai import ChatBody, CompletionBody, EmbeddingBody

_CHAT = {"model": "yard-tiny", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
_COMPLETION = {"model": "yard-tiny", "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
_EMBEDDING = {"model": "yard-tiny", "input": ["first text", "second text"], "encoding_format": "float"}


def _inlined(schema: Any, known: dict[str, Any]) -> Any:
    """The schema without references: the document's own components are FastAPI's."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(known[schema["$ref"].rpartition("/")[2]], known)
        return {name: _inlined(each, known) for name, each in schema.items() if name not in {"$defs", "discriminator"}}
    return [_inlined(each, known) for each in schema] if isinstance(schema, list) else schema


def _request(body: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    schema = body.model_json_schema(by_alias=True)
    made = _inlined(schema, schema.get("$defs", {}))
    made["properties"][FIELD] = CacheWish.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": made, "example": example}}}}


CHAT = _request(ChatBody, _CHAT)
COMPLETION = _request(CompletionBody, _COMPLETION)
EMBEDDING = _request(EmbeddingBody, _EMBEDDING)

_OBJECT = {"schema": {"type": "object"}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "OpenAI's object, or its chunks as events; `x-job-id` names the call's job, `x-cache` is hit,"
        " miss, bypass or coalesced",
        "content": {
            "application/json": _OBJECT
            | {
                "example": {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 1767225600,
                    "model": "yard-tiny",
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": "Hello.", "refusal": None},
                            "logprobs": None,
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
                }
            },
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}
VECTORS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "OpenAI's list of embeddings; `x-job-id` names the call's job",
        "content": {
            "application/json": _OBJECT
            | {
                "example": {
                    "object": "list",
                    "model": "yard-tiny",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, -0.8]}],
                    "usage": {"prompt_tokens": 2, "total_tokens": 2},
                }
            }
        },
    }
}
