"""How every command speaks: results on stdout (one JSON object with --json), progress and errors on stderr.

Exit codes: 0 done · 1 failed (a job that failed, a yard that is not ready) · 2 wrong usage · 3 not found ·
4 refused (key, scope, conflict, invalid request) · 5 nobody answers · 6 waited too long ·
7 the job was cancelled · 8 the job has expired · 9 done, but some lines or documents failed · 130 interrupted.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILED = 1  #: the job failed, the yard is not ready, a check failed
    USAGE = 2  #: the command line is wrong
    NOT_FOUND = 3  #: there is no such object, or no yard in this folder
    REFUSED = 4  #: the platform refused: key, scope, conflict, invalid request
    UNREACHABLE = 5  #: nobody answers
    TIMEOUT = 6  #: waited too long
    CANCELLED = 7  #: the job that was waited for was cancelled
    EXPIRED = 8  #: the job that was waited for has expired
    INCOMPLETE = 9  #: done, but some lines or documents failed (0 with --allow-failures)
    INTERRUPTED = 130  #: Ctrl-C


def emit(result: Any) -> None:
    """Print one JSON object (or array) on stdout."""
    sys.stdout.write(json.dumps(result, indent=2, default=str, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line for people on stdout: the result of a command without --json."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line of progress on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under headings on stdout: bordered on a terminal, plain columns in a pipe."""
    from rich import box  # noqa: PLC0415 - 60 ms that commands without a table need not pay
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    # Cells may hold what a caller or a model wrote: nothing in them is markup.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False)
    shown = Table(*columns, box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for row in rows:
        shown.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(shown)


def fail(message: str, *, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """End the command with a message on stderr."""
    note(f"modelyard: {message}")
    raise typer.Exit(code)
