"""From a chat to its text: what a template is given, and a process of its own that renders it (`rendering`)."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import orjson

from shared.contracts.openai import Message, Tool
from workers.engine import rendering
from workers.engine.errors import InvalidRequest, UnsupportedParameter

_PATIENCE_S = 10.0  # until a process that does not even mind its timer is killed
_STREAM_BYTES = 2**20


class Renderer:
    """Renders chats in another process, one after the other (some 0.2 ms each). Lives on the event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def render(self, template: str, context: dict[str, Any]) -> str:
        """The text of a chat.

        Raises InvalidRequest, which names `messages`, when the template refuses it, fails, or takes too long.
        """
        order = orjson.dumps({"template": template, "context": context})
        async with self._turn:
            try:
                answer = await asyncio.wait_for(self._exchange(order), _PATIENCE_S)
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                self.close()
                raise _refused("it does not come to an end, or needs too much memory") from None
            except BaseException:
                self.close()  # an answer that nobody read would go to the next chat
                raise
        if "error" in answer:
            raise _refused(answer["error"])
        return answer["text"]

    def start(self) -> None:
        """Start the process now: its imports take 0.1 s that the first chat need not wait for."""
        if self._process is None:
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen([sys.executable, "-I", rendering.__file__], stdin=theirs.fileno())
            self._channel = ours

    def close(self) -> None:
        """End the process; the next chat starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._streams is None:
                self._channel.close()
            else:
                self._streams[1].close()
        self._process, self._streams = None, None

    async def _exchange(self, order: bytes) -> dict[str, str]:
        self.start()
        if self._streams is None:
            self._streams = await asyncio.open_connection(sock=self._channel, limit=_STREAM_BYTES)
        reader, writer = self._streams
        writer.write(len(order).to_bytes(4, "big") + order)
        await writer.drain()
        size = int.from_bytes(await reader.readexactly(4), "big")
        answer: dict[str, str] = orjson.loads(await reader.readexactly(size))
        return answer


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"The chat template refuses this chat: {why}.", param="messages")


def template_of(tokenizer: Any, *, with_tools: bool) -> str:
    """The model's own template; some models have another one for tools.

    Raises InvalidRequest without one, UnsupportedParameter when it does not know tools.
    """
    tools: list[dict[str, Any]] | None = [{}] if with_tools else None
    try:
        template: str = tokenizer.get_chat_template(tools=tools)
    except ValueError:
        raise InvalidRequest("The model has no chat template.", param="messages") from None
    if with_tools and "tools" not in template:
        raise UnsupportedParameter("The model's chat template knows no tools.", param="tools")
    return template


def context_of(tokenizer: Any, template: str, messages: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
    """What transformers' `apply_chat_template` gives to a template, up to where the assistant speaks."""
    knows_developers = "developer" in template
    return {
        **tokenizer.special_tokens_map,
        "messages": [_turn(message, knows_developers=knows_developers) for message in messages],
        "tools": [tool.model_dump(exclude_none=True) for tool in tools] or None,
        "documents": None,
        "add_generation_prompt": True,
    }


def _turn(message: Message, *, knows_developers: bool) -> dict[str, Any]:
    role = "system" if message.role == "developer" and not knows_developers else message.role
    turn: dict[str, Any] = {"role": role, "content": message.text}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _spoken(call.function.name, call.function.arguments)}
            for call in message.tool_calls
        ]
    return turn


def _spoken(name: str, arguments: str) -> dict[str, Any]:
    """Templates want the arguments as an object, OpenAI sends them as text."""
    with suppress(ValueError, RecursionError):
        if isinstance(spoken := json.loads(arguments), dict):
            return {"name": name, "arguments": spoken}
    return {"name": name, "arguments": arguments}
