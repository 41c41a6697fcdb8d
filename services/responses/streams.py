"""Whole answers and streams, one made of the other: OpenAI's chats, completions and embeddings.

A stored answer is given as if it were new: `id` and `created` are fresh, `model` is the caller's name for it, `usage`
is what the engine once counted. As a stream it begins with the role, comes in pieces, and ends with its usage (when
asked) and `[DONE]`.
"""

import time
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final
from uuid import uuid4

import orjson

from services.responses.types import Stored

DONE: Final = b"data: [DONE]\n\n"
PIECE: Final = 48  #: characters of text in one event of a replayed stream
ENDED: Final = frozenset({"stop", "length", "tool_calls", "function_call"})  #: reasons of an answer that is whole
CHAT_CHUNK: Final = "chat.completion.chunk"
WHOLE: Final = {CHAT_CHUNK: "chat.completion", "text_completion": "text_completion"}

Json = dict[str, Any]


def whole(stored: Stored, *, model: str) -> bytes:
    """The answer as one body."""
    return orjson.dumps(_fresh(stored.json(), model))


def replayed(stored: Stored, *, model: str, include_usage: bool) -> Iterator[bytes]:
    """The answer as server-sent events, `[DONE]` included."""
    answer = _fresh(stored.json(), model)
    choices, usage = answer.pop("choices"), answer.pop("usage")
    chat = answer["object"] == WHOLE[CHAT_CHUNK]
    head = answer | {"object": CHAT_CHUNK if chat else answer["object"]}
    tail: Json = {"usage": None} if include_usage else {}  # OpenAI's chunks then carry a null until the last
    for news in chain.from_iterable(map(_chat_news if chat else _text_news, choices)):
        yield _event(head | {"choices": [news]} | tail)
    if include_usage:
        yield _event(head | {"choices": [], "usage": usage})
    yield DONE


def kept(body: bytes) -> Stored | None:
    """A whole answer to be kept; None when one of its choices was cut off."""
    if b'"finish_reason"' in body and any(c.get("finish_reason") not in ENDED for c in orjson.loads(body)["choices"]):
        return None
    return Stored(body)


def assembled(events: bytes) -> Stored | None:
    """The whole answer that a stream was; None when it broke off, failed, or had no usage chunk."""
    answer: Json | None = None
    choices: dict[int, Json] = {}
    for line in events.split(b"\n"):
        data = line[5:].strip() if line.startswith(b"data:") else b""
        if data == b"[DONE]":
            return _finished(answer, choices)
        if not data:
            continue
        chunk = orjson.loads(data)
        if "error" in chunk or chunk.get("object") not in WHOLE:
            return None
        if answer is None:
            head = {name: value for name, value in chunk.items() if name not in {"choices", "usage"}}
            answer = head | {"object": WHOLE[chunk["object"]], "usage": None}
        answer["usage"] = chunk.get("usage") or answer["usage"]
        for news in chunk["choices"]:
            _add(choices.setdefault(news["index"], {"index": news["index"], "logprobs": None}), news)
    return None


def _finished(answer: Json | None, choices: dict[int, Json]) -> Stored | None:
    if answer is None or not answer["usage"] or not choices:
        return None
    if any(choice.get("finish_reason") not in ENDED for choice in choices.values()):
        return None
    usage = answer.pop("usage")
    ordered = [choices[index] for index in sorted(choices)]
    return Stored(orjson.dumps(answer | {"choices": ordered, "usage": usage}))


def _add(choice: Json, news: Json) -> None:
    """Put one event's news of a choice to what is known of it."""
    for name, value in news.items():
        if name == "delta":
            message = choice.setdefault("message", {"role": "assistant", "content": None, "refusal": None})
            _grow(message, value)
        elif name == "text":
            choice["text"] = choice.get("text", "") + value
        elif name == "logprobs" and value is not None:
            known = choice["logprobs"] = choice["logprobs"] or {}
            for kind, entries in value.items():
                known[kind] = (known.get(kind) or []) + entries if entries else known.get(kind, entries)
        elif value is not None:
            choice[name] = value


def _grow(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value or ():
                _call(message.setdefault("tool_calls", []), call)
        elif name == "role" or not isinstance(value, str):
            message[name] = value if value is not None else message.get(name)
        elif value or name != "content":
            message[name] = (message.get(name) or "") + value
        else:
            message[name] = message.get(name) or ""


def _call(calls: list[Json], news: Json) -> None:
    """A tool call's news: named by its place, its arguments come in pieces."""
    while len(calls) <= news["index"]:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[news["index"]], news.get("function") or {}
    call["id"] = news.get("id") or call["id"]
    call["function"]["name"] = function.get("name") or call["function"]["name"]
    call["function"]["arguments"] += function.get("arguments") or ""


def _chat_news(choice: Json) -> Iterator[Json]:
    """The events of one choice of a chat."""
    message = dict(choice["message"])
    index, logprobs, calls = choice["index"], choice.get("logprobs"), message.pop("tool_calls", None)
    text = message.pop("content")
    opening = {"role": message.pop("role"), "content": None if text is None else ""}
    yield {"index": index, "delta": opening, "finish_reason": None}
    for name, said in message.items():  # what an engine says beside its text
        if said:
            yield {"index": index, "delta": {name: said}, "finish_reason": None}
    for piece in _pieces(text or "", whole_=bool(logprobs)):
        news = {"index": index, "delta": {"content": piece}, "finish_reason": None}
        yield news | {"logprobs": logprobs} if logprobs else news
    if calls:
        numbered = [{"index": number, **call} for number, call in enumerate(calls)]
        yield {"index": index, "delta": {"tool_calls": numbered}, "finish_reason": None}
    yield {"index": index, "delta": {}} | _end(choice)


def _text_news(choice: Json) -> Iterator[Json]:
    """The events of one choice of a completion."""
    index, logprobs = choice["index"], choice.get("logprobs")
    for piece in _pieces(choice["text"], whole_=bool(logprobs)):
        yield {"index": index, "text": piece, "logprobs": logprobs, "finish_reason": None}
    yield {"index": index, "text": "", "logprobs": None} | _end(choice)


def _end(choice: Json) -> Json:
    return {name: choice[name] for name in ("finish_reason", "stop_reason") if name in choice}


def _pieces(text: str, *, whole_: bool) -> list[str]:
    """The text in pieces; in one when log probabilities go with it, because they count tokens."""
    if whole_:
        return [text]
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def _fresh(answer: Json, model: str) -> Json:
    """The answer as if it were given now. An embedding has neither id nor time."""
    if "id" in answer:
        answer["id"] = f"{answer['id'].partition('-')[0]}-{uuid4().hex}"
    if "created" in answer:
        answer["created"] = int(time.time())
    answer["model"] = model
    return answer


def _event(chunk: Json) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
