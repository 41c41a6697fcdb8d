"""Write reference.md from the code: `python -m infra.docs.reference [--check]`.

What the page lists is read from the modules that define it, so it cannot know less than they do; `make check`
refuses a page that lags behind.
"""

import ast
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from enum import Enum, StrEnum
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo

import gateway
import services
import shared
from services.cli.main import COMMANDS, load
from services.cli.output import ExitCode
from services.jobs.explain import Cause
from shared.contracts.jobs import EventType, Pool, State, Tier
from shared.errors import ModelyardError
from shared.queues import CONTROL, queue_name, read_classes
from shared.settings import PREFIX, Settings
from workers.engine.errors import EngineError
from workers.runtime.post_mortem import CAUSES

E = TypeVar("E", ModelyardError, EngineError)
PAGE = Path(__file__).with_name("reference.md")
ROOT = PAGE.parents[2]
#: taken by every command that calls the gateway, and explained once: parameter → option
COMMON = {"as_json": "--json", "url": "--url", "api_key": "--api-key", "data": "--data"}


def page() -> str:
    """The whole page, Markdown."""
    return f"""<!-- Written by `make docs` from the code: edits are overwritten. -->
# Reference

Every [setting](#settings), [error code](#errors), [state, tier and event](#jobs) of a job, [queue](#queues)
and [command](#commands) of Modelyard.

## Settings

Read once by every process: from the environment; else from the file that `{PREFIX}<NAME>_FILE` names (for
secrets); else from the file of `NAME=value` lines that `{PREFIX}ENV_FILE` names. Names that end in `_S` are
seconds.

{settings()}

## Errors

An error's body has RFC 9457's members at top level and OpenAI's `error` object; `code` stands in both and
never changes its meaning. *Retry* means that the same request may succeed later.

{errors()}

What an engine refuses or fails becomes the error of its line, and of the job when all of it is lost:

{engine_errors()}

A job, or an attempt that is retried, can also end with one of these in `error.code`:

{job_errors()}

## Jobs

{words(State)}

{words(Tier)}

Events are numbered per job from 1. `GET /v1/jobs/{{id}}/events` streams them; a webhook subscribes to them by
name.

{words(EventType)}

`GET /v1/jobs/{{id}}/explain` gives one of these as `cause`:

{words(Cause)}

## Queues

A queue belongs to a GPU class and a pool. `{CONTROL}` is the courier's and has no GPU.

{words(Pool)}

{queues()}

The table above ships with Modelyard; the file that `{PREFIX}GPU_CLASSES_FILE` names extends or replaces it.

## Commands

`modelyard COMMAND --help` says the same. A command that calls the gateway takes these too:

{caller_options()}

{commands()}

### Exit codes

{words(ExitCode)}
"""


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    """Text in code style; nothing stays nothing."""
    return f"`{text}`" if str(text) else ""


def summary(thing: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def words(enum: type[Enum]) -> str:
    """An enumeration's values with the `#:` comment beside each."""
    comments = dict(re.findall(r"^\s+(\w+) = .*?#: (.*)$", inspect.getsource(enum), re.MULTILINE))
    rows = [(code(member.value), comments.get(member.name, "")) for member in enum]
    return table((enum.__name__, "meaning"), rows)


def settings() -> str:
    """The fields of Settings as environment variables."""
    rows = [
        (code(f"{PREFIX}{name.upper()}"), spelled(field.annotation), default(field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return table(("variable", "type", "default", "meaning"), rows)


def spelled(annotation: object) -> str:
    """How a value of this type is written."""
    if get_origin(annotation) is UnionType:
        return " or ".join(spelled(part) for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is list:
        return f"JSON list of {spelled(*get_args(annotation))}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(annotation)
    names = {str: "text", bool: "true or false", int: "whole number", float: "number", Path: "path"}
    return names.get(annotation, "secret")  # type: ignore[call-overload,no-any-return]


def default(field: FieldInfo) -> str:
    """A default as it would be written in the environment."""
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    return code(json.dumps(value) if isinstance(value, bool | list) else value)


def errors() -> str:
    """Every error of the tree, parents first, with the status that answers it."""
    for root in (gateway, services, shared):
        for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            import_module(module.name)
    rows = [(code(e.code), str(e.status), "yes" if e.retryable else "", summary(e)) for e in tree(ModelyardError)]
    return table(("code", "status", "retry", "meaning"), dict.fromkeys(rows))


def engine_errors() -> str:
    """The engine's own errors, parents first."""
    rows = [(code(e.code), str(e.status), summary(e)) for e in tree(EngineError) if e.code]
    return table(("code", "status", "meaning"), rows)


def tree(root: type[E]) -> Iterator[type[E]]:
    """An error and everything below it."""
    yield root
    for child in sorted(root.__subclasses__(), key=lambda error: (error.status, error.code or "")):
        yield from tree(child)


def job_errors() -> str:
    """The codes that gateway, services and workers give a job, where they are written."""
    told: dict[str, str] = {}
    for name, title in job_error_codes():
        told[name] = told.get(name) or title
    return table(("code", "meaning"), [(code(name), told[name]) for name in sorted(told)])


def job_error_codes() -> Iterator[tuple[str, str]]:
    """(code, title) of every `JobError(code="…", title="…")` in the tree, and of what an engine's log betrays.

    Forges write `Refused("…", "…")` and `pipe.fail("…", "…")` for it.
    """
    yield from ((name, title) for _, name, title, *_ in CAUSES)
    for file in sorted(path for folder in ("gateway", "services", "workers") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "JobError":
                told = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
                if "code" in told:
                    yield str(told["code"]), str(told.get("title", ""))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"Refused", "pipe.fail"}:
                match node.args:
                    case [ast.Constant(value=name), title, *_]:
                        yield str(name), str(title.value) if isinstance(title, ast.Constant) else ""


def queues() -> str:
    """The built-in classes with their queues."""
    rows = [
        (
            code(name),
            " ".join(code(queue_name(name, pool)) for pool in Pool),
            f"{row.memory_gib:g}",
            row.compute_capability or "",
            " ".join(row.dtypes),
            str(row.devices_per_host),
            f"{row.price_per_gpu_hour:.2f}",
        )
        for name, row in read_classes().items()
    ]
    return table(("GPU class", "queues", "GiB", "capability", "dtypes", "devices a host", "$ an hour"), rows)


def commands() -> str:
    """Every command with its arguments and options; groups are spelled out (`modelyard jobs submit`)."""
    return "\n\n".join(
        f"### `modelyard {path}`\n\n{summary_of(command)}{parameters(command)}"
        for name in COMMANDS
        for path, command in leaves(name, load(name))
    )


def leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command, or what is below a group, with the words that call it."""
    below = getattr(command, "commands", None)
    if not below:
        yield path, command
        return
    for name, child in below.items():
        yield from leaves(f"{path} {name}", child)


def summary_of(command: Any) -> str:
    """What a command's help says, without its line breaks."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(command.help or ""))


def parameters(command: Any) -> str:
    """A command's own arguments and options; what every caller takes is said once, before them."""
    rows = [option(given) for given in command.params if not (calls(command) and is_common(given))]
    return f"\n\n{table(('argument', 'meaning'), rows)}" if rows else ""


def option(given: Any) -> tuple[str, str]:
    """An argument's or option's names and help."""
    return " ".join(code(name) for name in (*given.opts, *given.secondary_opts)), given.help or ""


def calls(command: Any) -> bool:
    """Whether a command calls the gateway."""
    return any("--url" in given.opts for given in command.params)


def is_common(given: Any) -> bool:
    """Whether an option belongs to every command that calls the gateway."""
    return COMMON.get(given.name) in given.opts


def caller_options() -> str:
    """What every command takes that calls the gateway."""
    some = load("jobs").commands["get"]
    return table(("option", "meaning"), [option(given) for given in some.params if is_common(given)])


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` compare it; the exit code."""
    fresh = page()
    if arguments != ["--check"]:
        PAGE.write_text(fresh)
        return 0
    if PAGE.exists() and PAGE.read_text() == fresh:
        return 0
    print(f"{PAGE.name} lags behind the code: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
