"""OpenAI's answer objects, whole and in chunks, as bytes. Chunks are built by hand: there is one for every token."""

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import uuid4

import orjson

from workers.engine.errors import EngineError
from workers.engine.generation import FinishReason, Flight, Piece

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. Subclasses say how a choice looks."""

    model: str
    id: str = field(default_factory=lambda: uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    prefix: ClassVar[str]
    object: ClassVar[str]
    chunk_object: ClassVar[str]

    def whole(self, texts: list[str], reasons: list[FinishReason], flight: Flight) -> bytes:
        """The body of a response that is not streamed."""
        choices = [
            self.choice(index, text, reason) for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return orjson.dumps(self._head(self.object) | {"choices": choices, "usage": usage(flight)})

    def opening(self, *, with_usage: bool) -> bytes:  # noqa: ARG002 - a chat begins with its role
        """The chunk that comes before any text, if there is one."""
        return b""

    def chunks(self, pieces: list[Piece], *, with_usage: bool) -> bytes:
        """Server-sent events of the news of one step."""
        return b"".join(self._event([self.delta(piece)], with_usage=with_usage) for piece in pieces)

    def last(self, flight: Flight) -> bytes:
        """The chunk of `stream_options.include_usage`."""
        head = self._head(self.chunk_object) | {"choices": [], "usage": usage(flight)}
        return b"data: " + orjson.dumps(head) + b"\n\n"

    def choice(self, index: int, text: str, reason: FinishReason) -> dict[str, Any]:
        """A finished choice."""
        raise NotImplementedError

    def delta(self, piece: Piece) -> dict[str, Any]:
        """A choice's news."""
        raise NotImplementedError

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"{self.prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _event(self, choices: list[dict[str, Any]], *, with_usage: bool) -> bytes:
        head = self._head(self.chunk_object) | {"choices": choices}
        if with_usage:  # OpenAI's chunks then carry a null until the last
            head["usage"] = None
        return b"data: " + orjson.dumps(head) + b"\n\n"


@dataclass(frozen=True, slots=True)
class CompletionAnswer(Answer):
    """`text_completion`."""

    prefix = "cmpl"
    object = "text_completion"
    chunk_object = "text_completion"

    def choice(self, index: int, text: str, reason: FinishReason | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self.choice(piece.index, piece.text, piece.finish_reason)


@dataclass(frozen=True, slots=True)
class ChatAnswer(Answer):
    """`chat.completion`."""

    prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self, *, with_usage: bool) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": 0, "delta": delta, "finish_reason": None}], with_usage=with_usage)

    def choice(self, index: int, text: str, reason: FinishReason) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def delta(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {"index": piece.index, "delta": delta, "finish_reason": piece.finish_reason}


def usage(flight: Flight) -> dict[str, int]:
    """OpenAI's usage object."""
    prompt, completion = flight.prompt_tokens, flight.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def error_event(error: EngineError) -> bytes:
    """How a stream fails after it began: OpenAI's clients raise on it."""
    return b"data: " + orjson.dumps(error.body()) + b"\n\n"
