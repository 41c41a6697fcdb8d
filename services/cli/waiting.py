"""Waiting for a job with its progress in sight: a bar on a terminal, lines elsewhere; always on stderr."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from services.cli.client import CallError, Client, Unreachable
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


class Late(CallError):
    """The job is still going on."""

    code = "timeout"
    exit_code = ExitCode.TIMEOUT
    fix = "It goes on without you: wait again, or give a longer --timeout."


def until_end(client: Client, job_id: str, *, timeout_s: float | None = None) -> dict[str, Any]:
    """The job once it has ended, its progress shown meanwhile.

    Raises:
        Late: `timeout_s` passed first.
        Refused, Unreachable: as `following.follow`.
    """
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}")
    if State(job["state"]).terminal:
        return job
    deadline = None if timeout_s is None else monotonic() + timeout_s
    with _shown(job) as show:
        for event in follow(client, job_id, tick_s=LOOK_S):
            if event is not None and event.terminal:
                break
            if deadline is not None and monotonic() >= deadline:
                raise Late(f"Job {job_id} has not ended after {timeout_s:g} s: it is {job['state']}.")
            job = _look(client, job)
            show(job)
        job = client.get(f"/v1/jobs/{job_id}")
        show(job)
    return job


def verdict(job: Mapping[str, Any]) -> ExitCode:
    """Say on stderr how a job ended, and return its exit code."""
    because = cause_of_end(job)
    note(clip(f"job {job['id']} {job['state']}{f': {because}' if because else ''}", width=LONGEST))
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
def _shown(job: Mapping[str, Any]) -> Iterator[Show]:
    with _bar() if sys.stderr.isatty() else _lines() as show:
        show(job)
        yield show


@contextmanager
def _bar() -> Iterator[Show]:
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415 - 100 ms that a script need not pay

    unit = bars.TextColumn("{task.fields[unit]}")
    times = (bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(), unit, *times)
    with bars.Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("queued", total=None, unit="")

        def show(job: Mapping[str, Any]) -> None:
            found = job["progress"]
            attempt = f" (attempt {job['attempt']})" if job["attempt"] > 1 else ""
            progress.update(
                task,
                description=f"{job['state']}{attempt}",
                completed=found["done"],
                total=found["total"],
                unit=found["unit"],
            )

        yield show


@contextmanager
def _lines() -> Iterator[Show]:
    told, state, told_at = "", "", 0.0

    def show(job: Mapping[str, Any]) -> None:
        nonlocal told, state, told_at
        found = job["progress"]
        total = "" if found["total"] is None else f"/{found['total']}"
        line = f"{job['state']} {found['done']}{total} {found['unit']}"
        if line != told and (job["state"] != state or monotonic() - told_at >= LINE_S):
            note(line)
            told, state, told_at = line, job["state"], monotonic()

    yield show


def _short(value: Any) -> str:
    return str(value.get("code", value)) if isinstance(value, dict) else str(value)
