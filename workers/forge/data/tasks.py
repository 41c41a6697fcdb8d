"""What an evaluation's files hold: texts, choices with their right one, prompts with their right answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.contracts.forge_orders import Data
from workers.forge.data.reading import BadLine, Chat, Text, keys_of, messages, parsed, read, string
from workers.forge.refusing import Refused

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt and what may follow it; `answer` is the index of what does."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    source: str = ""
    line: int = 0  #: 1-based


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: `prompt`, a text, or `messages`, a chat; any of `answers` is right."""

    answers: tuple[str, ...]
    prompt: str | None = None
    messages: Chat | None = None
    source: str = ""
    line: int = 0  #: 1-based


def read_texts(data: Sequence[Data]) -> list[Text]:
    """The texts of several files, in the files' order.

    Raises:
        Refused: `invalid_data` with the lines, `not_enough_data` without any.
    """
    return _some(data, read)


def read_choices(data: Sequence[Data]) -> list[Choice]:
    """Lines of `prompt`, `choices` (two strings or more) and `answer` (index of the right one, from 0).

    Raises:
        Refused: as `read_texts`.
    """

    def of(one: Data) -> list[Choice]:
        return [Choice(*found, one.name, line) for line, found in parsed(one, _choice)]

    return _some(data, of)


def read_prompts(data: Sequence[Data]) -> list[Prompt]:
    """Lines of `prompt` (a string) or `messages`, and `answer` (a string) or `answers` (strings, any of them right).

    Raises:
        Refused: as `read_texts`.
    """

    def of(one: Data) -> list[Prompt]:
        return [Prompt(*found, one.name, line) for line, found in parsed(one, _prompt)]

    return _some(data, of)


def _some(data: Sequence[Data], read_one: Callable[[Data], list[T]]) -> list[T]:
    found = [value for one in data for value in read_one(one)]
    if not found:
        names = ", ".join(one.name for one in data)
        raise Refused("not_enough_data", "There is nothing to evaluate on", f"{names}: no lines")
    return found


def _choice(value: dict[str, Any]) -> tuple[str, tuple[str, ...], int]:
    if not {"prompt", "choices", "answer"} <= value.keys():
        raise BadLine(f"needs prompt, choices and answer; {keys_of(value)}")
    choices = _strings(value, "choices")
    if len(choices) < 2:
        raise BadLine("choices has fewer than two")
    answer = value["answer"]
    if type(answer) is not int or not 0 <= answer < len(choices):  # True is an int
        raise BadLine(f"answer is not the index of a choice, 0 to {len(choices) - 1}")
    return _filled(value, "prompt"), choices, answer


def _prompt(value: dict[str, Any]) -> tuple[tuple[str, ...], str | None, Chat | None]:
    if ("prompt" in value) is ("messages" in value) or ("answer" in value) is ("answers" in value):
        raise BadLine(f"needs prompt or messages, and answer or answers; {keys_of(value)}")
    answers = _strings(value, "answers") if "answers" in value else (_filled(value, "answer"),)
    if "prompt" in value:
        return answers, _filled(value, "prompt"), None
    return answers, None, messages(value, "messages")


def _filled(value: dict[str, Any], key: str) -> str:
    found = string(value, key)
    if not found:
        raise BadLine(f"{key} is empty")
    return found


def _strings(value: dict[str, Any], key: str) -> tuple[str, ...]:
    match value[key]:
        case [*found] if found and all(isinstance(each, str) and each for each in found):
            return tuple(found)
    raise BadLine(f"{key} is not a list of strings that say something")
