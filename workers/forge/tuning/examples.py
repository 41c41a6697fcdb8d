"""What a model is tuned on, line by line.

A line is one of

    {"messages": [{"role", "content", "weight"?: 0 | 1, …}, …], "tools"?: […], "parallel_tool_calls"?}    (OpenAI's)
    {"prompt": "…", "completion": "…"}, or both as lists of messages
    {"text": "…"}

and a file may hold all of them. Roles are those that an engine takes. What a message says beside its content (`name`,
`tool_calls`, `tool_call_id`) goes to the chat template as an engine gives it; anything else in it is refused.
`parallel_tool_calls` is checked and changes nothing: templates do not know it. Other keys of a line are let be.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from shared.contracts.bodies import first_problem
from shared.contracts.forge_orders import Data
from shared.contracts.openai import TOOLS, Tool, ToolCall
from shared.contracts.tuning import LossOn
from workers.forge.data.reading import BadLine, keys_of, said, scanned, string
from workers.forge.refusing import Refused

SHOWN = 20  #: bad lines that a refusal names
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
ASSISTANT = "assistant"

_FORMS = ("messages", "prompt", "text")
_KNOWN = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id"})
_CALLS: TypeAdapter[list[ToolCall]] = TypeAdapter(list[ToolCall])
_TOOLS: TypeAdapter[list[Tool]] = TypeAdapter(list[Tool])


class Kind(StrEnum):
    """What a line is."""

    CHAT = "chat"
    COMPLETION = "completion"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a chat; `more` is what the template is told beside role and content."""

    role: str
    content: str
    weight: int = 1
    more: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation. Messages before `asked` are a prompt: only loss_on `assistant` and `all` learn from them."""

    messages: tuple[Message, ...]
    asked: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()

    def answers(self, loss_on: LossOn) -> list[int]:
        """Indices of the messages that are learned, unless everything is."""
        spoken = [index for index, message in enumerate(self.messages) if message.role == ASSISTANT]
        if loss_on is LossOn.COMPLETION:
            spoken = [index for index in spoken if index >= self.asked] if self.asked else spoken[-1:]
        elif loss_on is LossOn.AUTO:
            spoken = [index for index in spoken if index >= self.asked]
        return [index for index in spoken if self.messages[index].weight]


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and what follows it."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Example:
    """One line."""

    content: Chat | Completion | str
    source: str  #: `Data.name`
    line: int  #: 1-based
    weight: float = 1.0  #: of its source

    @property
    def kind(self) -> Kind:
        match self.content:
            case Chat():
                return Kind.CHAT
            case Completion():
                return Kind.COMPLETION
        return Kind.TEXT

    @property
    def words(self) -> str:
        """What is said, without who says it."""
        match self.content:
            case Chat(messages=messages):
                return "\n".join(message.content for message in messages)
            case Completion(prompt=prompt, completion=completion):
                return prompt + completion
        return self.content

    @property
    def parts(self) -> Iterator[str]:
        """All that tells a line from another one."""
        yield self.kind
        match self.content:
            case Chat(messages=messages, asked=asked, tools=tools):
                for message in messages:
                    yield from (message.role, message.content)
                    if message.more or not message.weight:
                        yield orjson.dumps([message.weight, message.more]).decode()
                if asked or tools:
                    yield orjson.dumps([asked, tools]).decode()
            case Completion(prompt=prompt, completion=completion):
                yield from (prompt, completion)
            case text:
                yield text

    @property
    def place(self) -> str:
        return f"{self.source}, line {self.line}"


def read(data: Sequence[Data], *, loss_on: LossOn) -> list[Example]:
    """Every line of the files, in their order.

    Raises:
        Refused: `invalid_data`, with the first `SHOWN` bad lines by file and number, and how many there are. A line
            from which nothing can be learned is one: without an answer, say, or all of weight 0.
    """
    good: list[Example] = []
    bad: list[str] = []
    count = 0
    for one in data:
        found, wrong = scanned(one, partial(_content, loss_on=loss_on))
        good += [Example(content, one.name, line, one.weight) for line, content in found]
        bad += [f"{one.name}, line {line}: {why}" for line, why in wrong[: SHOWN - len(bad)]]
        count += len(wrong)
    if count:
        title = f"{count:,} of the {count + len(good):,} lines cannot be used"
        raise Refused("invalid_data", title, listed(bad, count))
    return good


def listed(shown: Sequence[str], count: int) -> str:
    """The first of `count` things, and how many more there are."""
    more = f"; and {count - len(shown):,} more" if count > len(shown) else ""
    return "; ".join(shown) + more


def _content(value: dict[str, Any], *, loss_on: LossOn) -> Chat | Completion | str:
    forms = [form for form in _FORMS if value.get(form) is not None]
    if len(forms) != 1 or (forms == ["prompt"] and value.get("completion") is None):
        needs = f"needs messages, or prompt and completion, or text; {keys_of(value)}"
        raise BadLine(f"has {' and '.join(forms)}, which is to be learned?" if len(forms) > 1 else needs)
    if forms == ["text"]:
        return _text(value, loss_on)
    if forms == ["prompt"] and not isinstance(value["prompt"], list):
        return _completion(value)
    chat = _chat(value)
    if loss_on is LossOn.ALL:
        return chat
    if not chat.answers(loss_on):
        raise BadLine("has no message of the assistant to learn from")
    return chat


def _text(value: dict[str, Any], loss_on: LossOn) -> str:
    if loss_on in (LossOn.COMPLETION, LossOn.ASSISTANT):
        raise BadLine(f"is a text, of which loss_on {loss_on} learns nothing")
    text = string(value, "text")
    if not text:
        raise BadLine("text is empty")
    return text


def _completion(value: dict[str, Any]) -> Completion:
    found = Completion(string(value, "prompt"), string(value, "completion"))
    if not found.completion:
        raise BadLine("completion is empty")
    return found


def _chat(value: dict[str, Any]) -> Chat:
    if value.get("functions") is not None:
        raise BadLine("functions are not supported: give tools")
    if not isinstance(value.get("parallel_tool_calls"), bool | None):
        raise BadLine("parallel_tool_calls is not true or false")
    tools = _tools(value.get("tools"))
    if value.get("messages") is not None:
        return Chat(tuple(_messages(value, "messages")), tools=tools)
    prompt, completion = _messages(value, "prompt"), _messages(value, "completion")
    return Chat((*prompt, *completion), asked=len(prompt), tools=tools)


def _messages(value: dict[str, Any], key: str) -> list[Message]:
    found = value[key]
    if not isinstance(found, list) or not found:
        raise BadLine(f"{key} is not a list of messages")
    return [_message(message, f"{key}[{index}]") for index, message in enumerate(found)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise BadLine(f"{where} is not an object")
    given = {key: each for key, each in value.items() if each is not None}
    if unknown := sorted(given.keys() - _KNOWN):
        raise BadLine(f"{where}.{unknown[0][:32]} is not supported")
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise BadLine(f"{where}.role is not one of {', '.join(sorted(ROLES))}")
    content = given.get("content", "" if role == ASSISTANT and "tool_calls" in given else None)
    if not isinstance(content, str | list):
        raise BadLine(f"{where} needs a content, a string")
    return Message(role, said(content, where), _weight(given, role, where), _more(given, role, where) or None)


def _weight(given: dict[str, Any], role: str, where: str) -> int:
    weight = given.get("weight", 1)
    if type(weight) is not int or weight not in (0, 1):  # True is an int
        raise BadLine(f"{where}.weight is neither 0 nor 1")
    if "weight" in given and role != ASSISTANT:
        raise BadLine(f"{where}.weight is for messages of the assistant")
    return weight


def _more(given: dict[str, Any], role: str, where: str) -> dict[str, Any]:
    more: dict[str, Any] = {key: given[key] for key in given if key in {"name", "tool_call_id"}}
    for key, value in more.items():
        if not isinstance(value, str):
            raise BadLine(f"{where}.{key} is not a string")
    if (role == "tool") != ("tool_call_id" in more):
        raise BadLine(f"{where}: tool_call_id goes with role tool, and with no other")
    if "tool_calls" in given:
        if role != ASSISTANT:
            raise BadLine(f"{where}.tool_calls is for messages of the assistant")
        calls = _checked(_CALLS, given["tool_calls"], f"{where}.tool_calls")
        spoken = [_spoken(call.function.name, call.function.arguments) for call in calls]
        found = [{"id": call.id, "type": call.type, "function": each} for call, each in zip(calls, spoken, strict=True)]
        more["tool_calls"] = _plain(found, f"{where}.tool_calls")
    return more


def _spoken(name: str, arguments: str) -> dict[str, Any]:
    """Templates want the arguments as an object, OpenAI sends them as text; as the engines do it."""
    with suppress(ValueError, RecursionError):
        if isinstance(spoken := json.loads(arguments), dict):
            return {"name": name, "arguments": spoken}
    return {"name": name, "arguments": arguments}


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    tools = _checked(_TOOLS, value, "tools")
    if len(tools) > TOOLS:
        raise BadLine(f"tools are more than {TOOLS}")
    return tuple(_plain([tool.model_dump(exclude_none=True) for tool in tools], "tools"))


def _plain(value: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The value, when it can be sent to the template: its numbers have 64 bits, its depth is below 255."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise BadLine(f"{where}: {error}") from None
    return value


def _checked(kind: TypeAdapter[Any], value: Any, where: str) -> Any:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise BadLine(f"{where}: {first_problem(error)}") from None
