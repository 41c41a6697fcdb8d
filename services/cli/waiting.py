"""Waiting for a job with its progress in sight: a bar on a terminal, lines elsewhere; always on stderr."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from services.cli.client import CallError, Client, Unreachable
from services.cli.fixes import FIXES
from services.cli.following import Event, follow
from services.cli.job_view import LONGEST, cause_of_end, clip
from services.cli.output import ExitCode, note
from shared.clock import monotonic
from shared.contracts.jobs import State

LOOK_S = 1.0  # between looks at the job's numbers
LINE_S = 5.0  # between lines of progress where there is no terminal

#: how a job ended → exit code of `jobs wait` and `jobs submit --wait`
ENDS = {
    State.SUCCEEDED: ExitCode.OK,
    State.FAILED: ExitCode.FAILED,
    State.CANCELLED: ExitCode.CANCELLED,
    State.EXPIRED: ExitCode.EXPIRED,
}
Timeout = Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most; exit code 6 then.")]
Show = Callable[[Mapping[str, Any]], None]  # shown the job whenever its numbers were looked at


@dataclass(frozen=True)
class Standing:
    """How far something is: for a bar, and as a line."""

    state: str
    title: str
    done: int
    total: int | None
    unit: str
    line: str


class Late(CallError):
    """The job is still going on."""

    code = "timeout"
    exit_code = ExitCode.TIMEOUT
    fix = "It goes on without you: wait again, or give a longer --timeout."


def until_end(
    client: Client,
    job_id: str,
    *,
    timeout_s: float | None = None,
    standing: Callable[[Mapping[str, Any]], Standing] | None = None,
    look: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The job once it has ended, its progress shown meanwhile; `look` is called before its numbers are shown.

    Raises:
        Late: `timeout_s` passed first.
        Refused, Unreachable: as `following.follow`.
    """
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}")
    if State(job["state"]).terminal:
        look()
        return job
    deadline = None if timeout_s is None else monotonic() + timeout_s
    with in_sight(standing or _standing) as show:
        show(job)
        for event in follow(client, job_id, tick_s=LOOK_S):
            if event is not None and event.terminal:
                break
            if deadline is not None and monotonic() >= deadline:
                raise Late(f"Job {job_id} has not ended after {timeout_s:g} s: it is {job['state']}.")
            job = _look(client, job)
            look()
            show(job)
        job = client.get(f"/v1/jobs/{job_id}")
        look()
        show(job)
    return job


def verdict(job: Mapping[str, Any]) -> ExitCode:
    """Say on stderr how a job ended, and what to do about it; returns its exit code."""
    because = cause_of_end(job)
    note(clip(f"job {job['id']} {job['state']}{f': {because}' if because else ''}", width=LONGEST))
    if fix := FIXES.get((job["error"] or {}).get("code", "")):
        note(f"  {fix}")
    return ENDS[State(job["state"])]


def headline(event: Event) -> str:
    """An event in one line."""
    data = " ".join(f"{key}={_short(value)}" for key, value in event.data.items())
    return clip(f"{event.raw.get('created_at', '')} {event.id:>4} {event.type} {data}", width=LONGEST)


def _look(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job as it is now, or as it was when nobody answers: the follower knows how long to be patient."""
    try:
        return dict(client.get(f"/v1/jobs/{job['id']}"))
    except Unreachable:
        return job


@contextmanager
def in_sight(standing: Callable[[Mapping[str, Any]], Standing]) -> Iterator[Show]:
    """Show how far something is each time it was looked at: a bar on a terminal, lines elsewhere."""
    with _bar(standing) if sys.stderr.isatty() else _lines(standing) as show:
        yield show


@contextmanager
def _bar(standing: Callable[[Mapping[str, Any]], Standing]) -> Iterator[Show]:
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415 - 100 ms that a script need not pay

    unit = bars.TextColumn("{task.fields[unit]}", markup=False)
    times = (bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(), unit, *times)
    with bars.Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("queued", total=None, unit="")

        def show(found: Mapping[str, Any]) -> None:
            now = standing(found)
            progress.update(task, description=now.title, completed=now.done, total=now.total, unit=now.unit)

        yield show


@contextmanager
def _lines(standing: Callable[[Mapping[str, Any]], Standing]) -> Iterator[Show]:
    told, state, told_at = "", "", 0.0

    def show(found: Mapping[str, Any]) -> None:
        nonlocal told, state, told_at
        now = standing(found)
        if now.line != told and (now.state != state or monotonic() - told_at >= LINE_S):
            note(now.line)
            told, state, told_at = now.line, now.state, monotonic()

    yield show


def _standing(job: Mapping[str, Any]) -> Standing:
    found, state = job["progress"], job["state"]
    attempt = f" (attempt {job['attempt']})" if job["attempt"] > 1 else ""
    total = "" if found["total"] is None else f"/{found['total']}"
    line = f"{state} {found['done']}{total} {found['unit']}"
    return Standing(state, f"{state}{attempt}", found["done"], found["total"], found["unit"], line)


def _short(value: Any) -> str:
    return str(value.get("code", value)) if isinstance(value, dict) else str(value)
