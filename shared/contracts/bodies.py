"""How a request's body becomes an object, and how the one who sent it is told what is wrong.

A null is the same as nothing. What is unknown or cannot be honoured is refused by its name, never ignored.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

#: Accepted and without effect: they concern bookkeeping, not the text.
INERT = frozenset({"user", "metadata", "service_tier", "prompt_cache_key", "safety_identifier", "parallel_tool_calls"})

#: Known parameters that no engine here honours, each with the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "store": (False,),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}


Parsed = TypeVar("Parsed", bound=BaseModel)


class BadRequest(ValueError):
    """A body that cannot be honoured. `code` is OpenAI's, `param` names the field."""

    def __init__(self, message: str, *, code: str = "invalid_value", param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Inconsistent(ValueError):
    """What a check of several fields raises: `param` names the one to change, below where the check stands."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Body(BaseModel):
    """Immutable, strict about types, no unknown field."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def read(raw: bytes) -> dict[str, Any]:
    """The object that a body is.

    Raises:
        BadRequest: it is not a JSON object.
    """
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {type(error).__name__}.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    return fields


def parse(fields: Mapping[str, Any], kind: type[Parsed]) -> Parsed:
    """A checked body.

    Raises:
        BadRequest: a parameter is unknown, cannot be honoured, or has a bad value; `param` names the first one.
    """
    asked = {name: value for name, value in fields.items() if value is not None and name not in INERT}
    for name in sorted((asked.keys() & UNSUPPORTED.keys()) - kind.model_fields.keys()):
        if not any(_same(asked[name], neutral) for neutral in UNSUPPORTED[name]):
            raise BadRequest(f"`{name}` is not supported.", code="unsupported_parameter", param=name)
        del asked[name]
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        raise first_problem(error) from None


def sent(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that an engine gets: without nulls, and without what has no effect."""
    return {name: value for name, value in fields.items() if value is not None and name not in INERT}


def _same(value: object, neutral: object) -> bool:
    return value == neutral and isinstance(value, bool) is isinstance(neutral, bool)


def first_problem(error: ValidationError) -> BadRequest:
    """The most helpful complaint about the first bad field, without its value: prompts must not travel into logs."""
    problems = error.errors(include_url=False, include_input=False)
    same = [found for found in problems if _field(found["loc"]) == _field(problems[0]["loc"])]
    problem = min(same, key=lambda found: (not _in_an_entry(found["loc"]), found["type"].endswith("_type")))
    parts, told = _field(problem["loc"]), problem["msg"]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, Inconsistent):
        return BadRequest(f"{cause}.", param=".".join(filter(None, [*parts, cause.param])))
    if _in_an_entry(problem["loc"]):
        parts = [str(part) for part in problem["loc"] if not _names_a_type(part)]
    elif len(parts) < len(problem["loc"]) and problem["type"].endswith("_type"):
        told = "Input has none of the types that are accepted here"
    path = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        return BadRequest(f"Unknown parameter: `{path}`.", code="unknown_parameter", param=path)
    return BadRequest(f"`{path}`: {told}." if path else f"{told}.", param=path or None)


def _field(loc: Sequence[int | str]) -> list[str]:
    return [str(part) for part in takewhile(lambda part: not _names_a_type(part), loc)]


def _names_a_type(part: int | str) -> bool:
    """Behind a field of several types pydantic names the one it tried: `str`, `constrained-str`, `list[str]`."""
    return part == "str" or not {"-", "["}.isdisjoint(str(part))


def _in_an_entry(loc: Sequence[int | str]) -> bool:
    """Whether a list of objects was meant, and a field of one of them is wrong."""
    behind = loc[len(_field(loc)) :]
    return len(behind) > 2 and str(behind[0]).startswith("list[")
