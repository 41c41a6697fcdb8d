"""Answers as engines give them."""

from typing import Any

import orjson

from services.responses.types import Stored

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chat(*texts: str, **choice: Any) -> Stored:
    """A chat's answer with one choice a text; `choice` goes into each."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
        | choice
        for index, text in enumerate(texts)
    ]
    head = {"id": "chatcmpl-old", "object": "chat.completion", "created": 1, "model": "digest"}
    return Stored(orjson.dumps(head | {"choices": choices, "usage": USAGE}))


def completion(*texts: str, **choice: Any) -> Stored:
    """A completion's answer with one choice a text."""
    choices = [
        {"index": index, "text": text, "logprobs": None, "finish_reason": "length"} | choice
        for index, text in enumerate(texts)
    ]
    head = {"id": "cmpl-old", "object": "text_completion", "created": 1, "model": "digest"}
    return Stored(orjson.dumps(head | {"choices": choices, "usage": USAGE}))


def embedding() -> Stored:
    """An embedding's answer."""
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]
    return Stored(orjson.dumps({"object": "list", "data": data, "model": "digest", "usage": USAGE}))
