"""OpenAI's answer objects, whole and in chunks, as bytes. Chunks are built by hand: there is one for every token."""

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from uuid import uuid4

import orjson

from workers.engine.errors import EngineError
from workers.engine.flight import Flight, Piece
from workers.engine.records import TokenLogprob
from workers.engine.tools import Listener, Toolbox

DONE = b"data: [DONE]\n\n"

Spell = Callable[[int], bytes]  #: what a token writes


class Answer:
    """One response. Subclasses say how a choice looks."""

    prefix: ClassVar[str]
    object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str, *, spell: Spell | None = None) -> None:
        """With `spell` the answer shows log probabilities."""
        self._id, self._created, self._model = f"{self.prefix}-{uuid4().hex}", int(time.time()), model
        self._spell = spell

    def whole(self, pieces: Sequence[Piece], flight: Flight) -> bytes:
        """The body of a response that is not streamed; `pieces` has one for each choice, complete."""
        choices = [self.choice(piece) for piece in pieces]
        return orjson.dumps(self._head(self.object) | {"choices": choices, "usage": usage(flight)})

    def opening(self, size: int, *, with_usage: bool) -> bytes:  # noqa: ARG002 - a chat begins with its role
        """The chunks that come before any text, if there are some."""
        return b""

    def chunks(self, pieces: Sequence[Piece], *, with_usage: bool) -> bytes:
        """Server-sent events of the news of one step."""
        news = [self.delta(piece) for piece in pieces]
        return b"".join(self._event(choice, with_usage=with_usage) for choice in news if choice is not None)

    def last(self, flight: Flight) -> bytes:
        """The chunk of `stream_options.include_usage`."""
        body = self._head(self.chunk_object) | {"choices": [], "usage": usage(flight)}
        return b"data: " + orjson.dumps(body) + b"\n\n"

    def choice(self, piece: Piece) -> dict[str, Any]:
        """A finished choice."""
        raise NotImplementedError

    def delta(self, piece: Piece) -> dict[str, Any] | None:
        """A choice's news, if it has any to show."""
        raise NotImplementedError

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _event(self, choice: dict[str, Any], *, with_usage: bool) -> bytes:
        body = self._head(self.chunk_object) | {"choices": [choice]}
        if with_usage:  # OpenAI's chunks then carry a null until the last
            body["usage"] = None
        return b"data: " + orjson.dumps(body) + b"\n\n"


class CompletionAnswer(Answer):
    """`text_completion`."""

    prefix = "cmpl"
    object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, model: str, *, spell: Spell | None = None) -> None:
        super().__init__(model, spell=spell)
        self._offsets: dict[int, int] = {}  # characters before the next token, by choice

    def choice(self, piece: Piece) -> dict[str, Any]:
        logprobs = self._logprobs(piece, self._spell) if self._spell is not None else None
        return {"index": piece.index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish_reason}

    def delta(self, piece: Piece) -> dict[str, Any] | None:
        return self.choice(piece)

    def _logprobs(self, piece: Piece, spell: Spell) -> dict[str, Any]:
        """The chosen token is always among `top_logprobs`; offsets count from where the completion begins."""
        tokens = [_text(spell, entry.token) for entry in piece.logprobs]
        offsets, at = [], self._offsets.get(piece.index, 0)
        for token in tokens:
            offsets.append(at)
            at += len(token)
        self._offsets[piece.index] = at
        tops = [{_text(spell, token): value for token, value in reversed(entry.top)} for entry in piece.logprobs]
        return {
            "tokens": tokens,
            "token_logprobs": [entry.logprob for entry in piece.logprobs],
            "top_logprobs": [
                {token: entry.logprob} | top for token, top, entry in zip(tokens, tops, piece.logprobs, strict=True)
            ],
            "text_offset": offsets,
        }


class ChatAnswer(Answer):
    """`chat.completion`."""

    prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, model: str, *, spell: Spell | None = None, box: Toolbox | None = None) -> None:
        """`box` says how calls of tools are written, and so read."""
        super().__init__(model, spell=spell)
        self._box = box or Toolbox()
        self._listeners: dict[int, Listener] = {}

    def opening(self, size: int, *, with_usage: bool) -> bytes:
        delta = {"role": "assistant", "content": ""}
        choices = [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None} for index in range(size)]
        return b"".join(self._event(choice, with_usage=with_usage) for choice in choices)

    def choice(self, piece: Piece) -> dict[str, Any]:
        text, calls = self._heard(piece)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
        if calls:
            message["tool_calls"] = calls
        return {"index": piece.index, "message": message} | self._end(piece, calls)

    def delta(self, piece: Piece) -> dict[str, Any] | None:
        text, calls = self._heard(piece)
        delta: dict[str, Any] = {"content": text} if text else {}
        if calls:
            delta["tool_calls"] = [{"index": index} | call for index, call in enumerate(calls)]
        if not delta and piece.finish_reason is None and not piece.logprobs:
            return None
        return {"index": piece.index, "delta": delta} | self._end(piece, calls)

    def _heard(self, piece: Piece) -> tuple[str, list[dict[str, Any]]]:
        listener = self._listeners.get(piece.index)
        if listener is None:
            listener = self._listeners[piece.index] = Listener(self._box)
        text = listener.push(piece.text)
        if piece.finish_reason is None:
            return text, []
        rest, calls = listener.end()
        return text + rest, [call.body() for call in calls]

    def _end(self, piece: Piece, calls: Sequence[Any]) -> dict[str, Any]:
        logprobs = None
        if self._spell is not None:
            content = [_with_alternatives(self._spell, entry) for entry in piece.logprobs]
            logprobs = {"content": content, "refusal": None}
        reason = "tool_calls" if calls and piece.finish_reason == "stop" else piece.finish_reason
        return {"logprobs": logprobs, "finish_reason": reason}


def usage(flight: Flight) -> dict[str, Any]:
    """OpenAI's usage object."""
    prompt, completion = flight.prompt_tokens, flight.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": flight.cached_tokens},
    }


def error_event(error: EngineError) -> bytes:
    """How a stream fails after it began: OpenAI's clients raise on it."""
    return b"data: " + orjson.dumps(error.body()) + b"\n\n"


def _with_alternatives(spell: Spell, entry: TokenLogprob) -> dict[str, Any]:
    top = [_entry(spell, token, logprob) for token, logprob in entry.top]
    return _entry(spell, entry.token, entry.logprob) | {"top_logprobs": top}


def _entry(spell: Spell, token: int, logprob: float) -> dict[str, Any]:
    return {"token": _text(spell, token), "logprob": logprob, "bytes": list(spell(token))}


def _text(spell: Spell, token: int) -> str:
    """A token's text; bytes that are a part of a character are shown as U+FFFD."""
    return spell(token).decode(errors="replace")
