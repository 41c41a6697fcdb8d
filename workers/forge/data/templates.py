"""Chat templates, rendered in another process: a template is a program that came with a model."""

import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
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
_GROUP = 32  # chats of one order: 40 µs for each instead of 75


class ChatRefused(Exception):
    """The template refuses a chat, fails, or takes too long."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a template shows: messages as it knows them, and the tools that it is told of."""

    messages: Sequence[Mapping[str, Any]]
    answered: bool  #: false: up to where the assistant speaks
    tools: Sequence[Mapping[str, Any]] | None = None


class Renderer:
    """A model's chat template; `template` is None where it has none. Its process ends with it, at the latest."""

    def __init__(self, tokenizer: Any) -> None:
        self.template = _template_of(tokenizer)
        self.template_with_tools = _template_of(tokenizer, tools=[{}])  #: some models have another one
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
        return self._alone(Scene([turn._asdict() for turn in chat], answered))

    def render_all(self, scenes: Sequence[Scene]) -> list[str | ChatRefused]:
        """The text of every scene, or why it has none.

        Raises:
            Refused: as `render` does.
        """
        found: list[str | ChatRefused] = []
        for _, alike in groupby(scenes, key=self._template_for):
            same = list(alike)
            for start in range(0, len(same), _GROUP):
                found += self._together(same[start : start + _GROUP])
        return found

    def _together(self, scenes: Sequence[Scene]) -> Iterator[str | ChatRefused]:
        """One that hangs or kills the process must not cost the others: what has no answer is asked for alone."""
        order = {"template": self._template_for(scenes[0]), "contexts": [self._context(scene) for scene in scenes]}
        try:
            answers = self._exchange(order)["answers"]
        except ChatRefused:
            answers = []
        for at, scene in enumerate(scenes):
            try:
                yield answers[at]["text"] if at < len(answers) and "text" in answers[at] else self._alone(scene)
            except ChatRefused as error:
                yield error

    def _alone(self, scene: Scene) -> str:
        began = monotonic()
        try:
            answer = self._exchange({"template": self._template_for(scene), "context": self._context(scene)})
            if "error" in answer:
                raise ChatRefused(answer["error"])
        except ChatRefused as error:
            self._lost_s += monotonic() - began
            if self._lost_s > _LOST_S:
                raise Refused("unsupported_model", "The model's chat template takes too long", str(error)) from None
            raise
        text: str = answer["text"]
        return text

    def _template_for(self, scene: Scene) -> str | None:
        return self.template_with_tools if scene.tools else self.template

    def _context(self, scene: Scene) -> dict[str, Any]:
        return {
            **self._tokens,
            "messages": scene.messages,
            "tools": scene.tools,
            "documents": None,
            "add_generation_prompt": not scene.answered,
        }

    def _exchange(self, order: dict[str, Any]) -> dict[str, Any]:
        raw = orjson.dumps(order)
        try:
            channel = self._started()
            channel.sendall(len(raw).to_bytes(4, "big") + raw)
            answer: dict[str, Any] = orjson.loads(_read(channel, int.from_bytes(_read(channel, 4), "big")))
        except OSError:  # a timeout, or a broken pipe: it hangs, or has died
            self._stop()
            raise ChatRefused("it does not come to an end, or needs too much memory") from None
        except orjson.JSONDecodeError:
            raise ChatRefused("it makes what is no Unicode") from None
        return answer

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


def _template_of(tokenizer: Any, *, tools: list[dict[str, Any]] | None = None) -> str | None:
    try:
        template: str = tokenizer.get_chat_template(tools=tools)
    except ValueError:
        return None
    return template
