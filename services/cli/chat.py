"""`modelyard chat MODEL [PROMPT]`: one answer, or a conversation, written as the model says it."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from services.cli.calling import command
from services.cli.client import CallError, Client
from services.cli.output import AsJson, emit, note

PATH = "/v1/chat/completions"
PATIENCE_S = 180.0  # for the first piece, which may wait for an engine to load, and between two pieces

app = typer.Typer(add_completion=False)

Message = dict[str, str]


class BrokenOff(CallError):
    """The answer broke off."""

    code = "broken_off"


@command(app)
def chat(
    client: Client,
    *,
    model: Annotated[str, typer.Argument(help="A model's name, alias, or name@version.")],
    prompt: Annotated[str | None, typer.Argument(help="What to say; without it, a conversation begins.")] = None,
    system: Annotated[str | None, typer.Option(help="Instructions that come before the conversation.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is the likeliest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model. An empty line or Ctrl-D ends a conversation; Ctrl-C stops at once, and the engine with it."""
    talk: list[Message] = [{"role": "system", "content": system}] if system else []
    options = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    wish = {name: value for name, value in options.items() if value is not None}
    if as_json:
        emit(client.post(PATH, {**wish, "messages": [*talk, _said(prompt or sys.stdin.read())]}))
        return
    for said in [prompt] if prompt is not None else _asked():
        talk.append(_said(said))
        answer = _answer(client, {**wish, "messages": talk})
        talk.append({"role": "assistant", "content": answer})


def _said(text: str) -> Message:
    return {"role": "user", "content": text}


def _asked() -> Iterator[str]:
    """What somebody types, or all of a pipe at once."""
    if not sys.stdin.isatty():
        yield sys.stdin.read()
        return
    note("An empty line ends the conversation.")
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def _answer(client: Client, wish: dict[str, Any]) -> str:
    """The whole answer, written piece by piece on the way. Ctrl-C keeps what there is, and the engine stops."""
    pieces = []
    try:
        for piece in _pieces(client, wish):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return "".join(pieces)


def _pieces(client: Client, wish: dict[str, Any]) -> Iterator[str]:
    for event in client.stream(PATH, {**wish, "stream": True}, patience_s=PATIENCE_S):
        if event.data == "[DONE]":
            return
        chunk = json.loads(event.data)
        if error := chunk.get("error"):
            raise BrokenOff(str(error.get("message")))
        for choice in chunk["choices"]:
            yield choice["delta"].get("content") or ""
    raise BrokenOff("The answer broke off.")
