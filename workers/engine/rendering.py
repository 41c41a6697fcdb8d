"""The process that renders chat templates: `python -I rendering.py`, its orders on file descriptor 0.

A chat template is a program that came with a model. Jinja's sandbox keeps it away from Python, but not from looping for
ever or from making a string of 10 GB, and a thread cannot be stopped. So it runs here, in a process that knows Jinja
and nothing else, with a limit on memory, a timer for each chat, and `templates.Renderer` ready to kill it.

An order is four bytes of length and JSON `{"template": …, "context": {…}}`; the answer has the same form:
`{"text": …}` or `{"error": …}`. An order of several `contexts` is answered by `{"answers": [{"text": …}, …]}`, which
ends early when they take longer than one chat may. Started by its path, alone: it imports nothing of ours.
"""

import ctypes
import json
import resource
import signal
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from time import process_time
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 1.0  # of CPU for one chat; a usual one takes some 50 µs
_BYTES = 512 * 2**20  # of address space
_CHARACTERS = 16 * 2**20  # of a rendered chat
_PR_SET_PDEATHSIG = 1


class _TooLong(BaseException):
    """The timer rang. Not an Exception, so that nothing on the way catches it."""


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says, for training; here it only shows what is inside."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:  # noqa: FBT001, FBT002 - a filter's signature
    """Without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - transformers' templates mean local time


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    """The environment of transformers 5.17 (`utils/chat_template_utils.py`), which a test compares with this one."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment.from_string(template)


def render(template: str, context: dict[str, Any]) -> dict[str, str]:
    """What to answer to one order."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        text = _compiled(template).render(**context)
        return {"text": text} if len(text) <= _CHARACTERS else {"error": "it makes more text than any model reads"}
    except _TooLong:
        return {"error": "it does not come to an end"}
    except (MemoryError, RecursionError, OverflowError) as error:
        return {"error": f"it needs too much ({type(error).__name__})"}
    except jinja2.TemplateError as error:  # templates refuse chats by raising, for instance two user turns in a row
        return {"error": str(error.message)}
    except Exception as error:  # noqa: BLE001 - a template is a program, and can fail as any
        return {"error": type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _several(order: dict[str, Any], answer: Callable[[str, dict[str, Any]], dict[str, str]]) -> list[dict[str, str]]:
    began = process_time()
    answers: list[dict[str, str]] = []
    for context in order["contexts"]:
        answers.append(answer(order["template"], context))
        if process_time() - began > SECONDS:
            break
    return answers


def _ring(_number: int, _frame: object) -> NoReturn:
    raise _TooLong


def _read(channel: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; leaves when the engine has gone."""
    data = bytearray()
    while len(data) < size:
        fresh = channel.recv(min(size - len(data), 2**20))
        if not fresh:
            sys.exit(0)
        data += fresh
    return bytes(data)


def main(answer: Callable[[str, dict[str, Any]], dict[str, str]] = render) -> None:
    """Render until the engine is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, _ring)
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    channel = socket.socket(fileno=0)
    while True:
        order = json.loads(_read(channel, int.from_bytes(_read(channel, 4), "big")))
        several = "contexts" in order
        answered = {"answers": _several(order, answer)} if several else answer(order["template"], order["context"])
        raw = json.dumps(answered).encode()
        channel.sendall(len(raw).to_bytes(4, "big") + raw)


if __name__ == "__main__":
    main()
