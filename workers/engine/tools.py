"""Tools: what the model must or may write when it wants a function called, and how that is read back.

A call that is required or named is written under a grammar, as the JSON of the arguments (named) or of the call
(required). Where the model decides for itself, the format is the one that its chat template teaches: Hermes'
`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, or Llama 3's `{"name": …, "parameters": {…}}`. A template that
teaches another leaves the call in the text. Text that may be a call is held back until the end, so calls arrive whole,
in the last chunk of a stream.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from uuid import uuid4

from shared.contracts.openai import ChatBody, NamedTool, Tool
from workers.engine.text import overlap

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Format(Enum):
    """How calls are written."""

    NONE = auto()  #: there are none: everything is text
    ARGUMENTS = auto()  #: the arguments of the one function that was named, under a grammar
    CALL = auto()  #: one `{"name": …, "arguments": …}`, under a grammar
    HERMES = auto()  #: text, and blocks between tags
    LLAMA = auto()  #: text, or nothing but one call (or several, with semicolons between them)


@dataclass(frozen=True, slots=True)
class Call:
    """A function the model wants called."""

    name: str
    arguments: str  #: JSON, or the beginning of it where the answer was cut off

    def body(self) -> dict[str, Any]:
        """OpenAI's object."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What one request offers, and how its answer is to be read."""

    format: Format = Format.NONE
    tools: tuple[Tool, ...] = ()  #: those that the template is told of
    named: str = ""  #: the function of Format.ARGUMENTS
    schema: dict[str, Any] | None = None  #: what the answer must follow, if anything

    @property
    def names(self) -> frozenset[str]:
        """Every function on offer."""
        return frozenset(tool.function.name for tool in self.tools)


def toolbox(body: ChatBody) -> Toolbox:
    """What a request's `tools` and `tool_choice` ask for. The format of a free choice is settled by `taught_by`."""
    if not body.tools or body.tool_choice == "none":
        return Toolbox()
    tools = tuple(body.tools)
    if isinstance(body.tool_choice, NamedTool):
        name = body.tool_choice.function.name
        named = next(tool for tool in tools if tool.function.name == name)
        return Toolbox(Format.ARGUMENTS, tools, name, _parameters(named))
    if body.tool_choice == "required":
        return Toolbox(Format.CALL, tools, "", {"anyOf": [_call_schema(at, tool) for at, tool in enumerate(tools)]})
    return Toolbox(Format.NONE, tools)


def taught_by(template: str) -> Format:
    """The format that a chat template asks the model to write."""
    if _OPEN in template:
        return Format.HERMES
    return Format.LLAMA if '"parameters":' in template and '"name":' in template else Format.NONE


def _parameters(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}


def _call_schema(at: int, tool: Tool) -> dict[str, Any]:
    arguments = _moved(_parameters(tool), f"#/anyOf/{at}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references are right when it stands at `place` of another one."""
    if isinstance(schema, list):
        return [_moved(entry, place) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, place) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved


class Listener:
    """Reads one choice as it grows: text to show at once, calls at the end."""

    def __init__(self, box: Toolbox) -> None:
        self._box = box
        self._held = ""
        self._talks = False  # text came first, so no call of Llama's will

    def push(self, text: str) -> str:
        """Text that is certainly no call."""
        self._held += text
        safe = self._safe()
        shown, self._held = self._held[:safe], self._held[safe:]
        return shown

    def end(self) -> tuple[str, list[Call]]:
        """The rest of the text, and the calls. What was held back and is no call after all is text."""
        if self._box.format is Format.ARGUMENTS:
            return "", [Call(self._box.named, self._held)]
        found = [self._call(block) for block in self._blocks()]
        calls = [call for call in found if call is not None]
        return ("", calls) if calls and len(calls) == len(found) else (self._held, [])

    def _safe(self) -> int:
        """Characters of what is held that may be shown."""
        held = self._held
        match self._box.format:
            case Format.NONE:
                return len(held)
            case Format.HERMES:
                at = held.find(_OPEN)
                return at if at >= 0 else len(held) - overlap(held, _OPEN)
            case Format.LLAMA:
                begun = held.lstrip()
                self._talks = self._talks or (begun != "" and not begun.startswith("{"))
                return len(held) if self._talks else 0
        return 0

    def _blocks(self) -> Sequence[str]:
        match self._box.format:
            case Format.HERMES:
                return [block.partition(_CLOSE)[0] for block in self._held.split(_OPEN)[1:]]
            case Format.LLAMA:
                return self._held.split(";") if self._held else []
        return [self._held] if self._held else []

    def _call(self, block: str) -> Call | None:
        try:
            fields = json.loads(block)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict) or fields.get("name") not in self._box.names:
            return None
        arguments = fields.get("arguments", fields.get("parameters", {}))
        spelled = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return Call(fields["name"], spelled)
