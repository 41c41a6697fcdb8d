"""Chat templates, rendered in another process: a template is a program that came with a model."""

import socket
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from workers.forge.data.reading import Chat
from workers.forge.refusing import Refused

#: The engines' own process, with its limits of time and memory; it is started by its path and imports nothing of ours.
_PROGRAM = Path(__file__).parents[2] / "engine" / "rendering.py"
_PATIENCE_S = 10.0  # until a process that does not even mind its timer is killed
_LOST_S = 20.0  # on chats that came to nothing; one that loops takes a second


class ChatRefused(Exception):
    """The template refuses a chat, fails, or takes too long."""


class Renderer:
    """A model's chat template; `template` is None where it has none. Its process ends with it, at the latest."""

    def __init__(self, tokenizer: Any) -> None:
        self.template = _template_of(tokenizer)
        self._tokens = dict(tokenizer.special_tokens_map)
        self._lost_s = 0.0
        self._channel: socket.socket | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def render(self, chat: Chat, *, answered: bool) -> str:
        """The text of a chat; without an answer, up to where the assistant speaks.

        Raises:
            ChatRefused: with the reason.
            Refused: `unsupported_model`, when chats that came to nothing have taken too long altogether.
        """
        context = {
            **self._tokens,
            "messages": [turn._asdict() for turn in chat],
            "tools": None,
            "documents": None,
            "add_generation_prompt": not answered,
        }
        began = monotonic()
        try:
            return self._exchange(orjson.dumps({"template": self.template, "context": context}))
        except ChatRefused as error:
            self._lost_s += monotonic() - began
            if self._lost_s > _LOST_S:
                raise Refused("unsupported_model", "The model's chat template takes too long", str(error)) from None
            raise

    def _exchange(self, order: bytes) -> str:
        try:
            channel = self._started()
            channel.sendall(len(order).to_bytes(4, "big") + order)
            answer = orjson.loads(_read(channel, int.from_bytes(_read(channel, 4), "big")))
        except OSError:  # a timeout, or a broken pipe: it hangs, or has died
            self._stop()
            raise ChatRefused("it does not come to an end, or needs too much memory") from None
        except orjson.JSONDecodeError:
            raise ChatRefused("it makes what is no Unicode") from None
        if "error" in answer:
            raise ChatRefused(answer["error"])
        text: str = answer["text"]
        return text

    def _started(self) -> socket.socket:
        if self._channel is None:
            ours, theirs = socket.socketpair()
            with theirs:
                process = subprocess.Popen([sys.executable, "-I", str(_PROGRAM)], stdin=theirs.fileno())
            ours.settimeout(_PATIENCE_S)
            self._channel, self._end = ours, weakref.finalize(self, _ended, process, ours)
        return self._channel

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._channel = self._end = None


def _ended(process: "subprocess.Popen[bytes]", channel: socket.socket) -> None:
    with suppress(OSError):
        channel.close()
    process.kill()
    process.wait()


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        fresh = channel.recv(min(size - len(data), 2**20))
        if not fresh:
            raise ConnectionResetError
        data += fresh
    return bytes(data)


def _template_of(tokenizer: Any) -> str | None:
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError:
        return None
    return template
