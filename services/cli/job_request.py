"""What `modelyard jobs submit` sends: a whole request from a file, or one made of its options."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from shared.contracts.jobs import Contract

STDIN = Path("-")
JSONL = (".jsonl", ".ndjson")
LINE_KEYS = ("prompt", "messages")
SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def from_file(path: Path) -> dict[str, Any]:
    """A whole request: the body of `POST /v1/jobs`, from a file or, as `-`, from standard input."""
    return json_object(path, "--file", what=", the body of POST /v1/jobs")


def json_object(path: Path, option: str, *, what: str = "") -> dict[str, Any]:
    """The JSON object in a file, or, as `-`, on standard input. `what` says more of it to who gave another thing."""
    try:
        found = json.loads(read(path))
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"line {error.lineno} is not JSON: {error.msg}", param_hint=option) from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"must hold one JSON object{what}", param_hint=option)
    return found


def from_options(kind: str, *, spec: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """A request made of options; those that were not given (None, or empty) are left to the platform's defaults."""
    return {"kind": kind, "spec": only_given(spec), **only_given(request)}


def only_given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that were not given: None, or empty."""
    return {name: value for name, value in options.items() if value is not None and value not in ([], {})}


def check(contract: type[Contract], spec: Mapping[str, Any]) -> None:
    """Look through a spec before anything is uploaded. Raises typer.BadParameter with the first field that is wrong."""
    try:
        contract.model_validate(spec)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise typer.BadParameter(
            f"{f'{where}: ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from error


def lines(prompts: Iterable[str], file: Path | None, *, chat: bool, system: str | None) -> dict[str, Any]:
    """`prompts` or `messages` of an inference spec, from `--prompt` and `--prompts-file`; empty without either."""
    found: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
    if file is not None:
        found += (
            _jsonl(file) if file.suffix in JSONL else [{"prompt": line} for line in read(file).splitlines() if line]
        )
    if not found:
        return {}
    if chat or system is not None:
        found = [_as_chat(line, system) for line in found]
    kinds = {key for line in found for key in line}
    if len(kinds) > 1:
        raise typer.BadParameter(
            "a job has either prompts or chats: --chat makes chats of prompts", param_hint="--prompts-file"
        )
    return (
        {"prompts": [line["prompt"] for line in found]}
        if kinds == {"prompt"}
        else {"messages": [line["messages"] for line in found]}
    )


def read(path: Path) -> str:
    """The text of a file, or of standard input for `-`."""
    try:
        return sys.stdin.read() if path == STDIN else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}") from error


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """`key=value` options as a mapping; the last of a key counts."""
    found = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=option)
        found[key] = value
    return found


def fields(given: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """`--set key=value` options as fields of a spec: JSON where the value is JSON, text otherwise."""
    return {key: _json_or_text(value) for key, value in pairs(given, option).items()}


def nested(given: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """`batching.policy=elastic` as {"batching": {"policy": "elastic"}}; values are JSON where they can be."""
    found: dict[str, Any] = {}
    for key, value in fields(given, option).items():
        *outer, last = key.split(".")
        place = found
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def count_or_auto(given: str | None, option: str) -> int | str | None:
    """A number, or `auto`. Raises typer.BadParameter."""
    if given is None or given == "auto":
        return given
    if not given.isdecimal():
        raise typer.BadParameter(f"{given!r} is neither a number nor auto", param_hint=option)
    return int(given)


def moment(given: str | None, option: str, *, now: datetime | None = None) -> str | None:
    """A time as the platform takes it: RFC 3339 as given, or `90s`, `30m`, `2h`, `1d` from now."""
    if given is None:
        return None
    number, unit = given[:-1], given[-1:]
    if unit in SPANS and number.replace(".", "", 1).isdigit():
        return ((now or datetime.now(UTC)) + timedelta(seconds=float(number) * SPANS[unit])).isoformat()
    try:
        found = datetime.fromisoformat(given)
    except ValueError as error:
        message = f"{given!r} is neither a time (2026-01-31T12:00:00Z) nor a span (90s, 30m, 2h, 1d)"
        raise typer.BadParameter(message, param_hint=option) from error
    return (found if found.tzinfo else found.astimezone()).isoformat()


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(read(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise typer.BadParameter(f"line {number} is not JSON: {error.msg}", param_hint="--prompts-file") from error
        if not isinstance(line, dict) or len(line) != 1 or next(iter(line)) not in LINE_KEYS:
            message = f'line {number} is neither {{"prompt": …}} nor {{"messages": […]}}'
            raise typer.BadParameter(message, param_hint="--prompts-file")
        yield line


def _as_chat(line: Mapping[str, Any], system: str | None) -> dict[str, Any]:
    turns = line["messages"] if "messages" in line else [{"role": "user", "content": line["prompt"]}]
    return {"messages": [*([{"role": "system", "content": system}] if system is not None else []), *turns]}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
