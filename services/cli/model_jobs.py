"""A job that makes a model or measures one, from its spec to what came of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer

from services.cli import files_upload, sources, waiting
from services.cli.client import CallError, Client
from services.cli.job_request import only_given
from services.cli.output import emit, note, say
from services.cli.pacing import Log, Pace
from services.cli.sources import Given
from services.files.service import Purpose

Show = Callable[[Client, Mapping[str, Any]], None]  # what a job left, as `GET /v1/jobs/{id}/result` tells it
Watched = Callable[[Client, Mapping[str, Any]], Pace]


@dataclass(frozen=True)
class Order:
    """What is asked for: a kind of job, its spec with paths for files, those files, and the jobs that follow it."""

    kind: str
    spec: Mapping[str, Any]
    files: Sequence[Given] = ()
    gpu_class: str | None = None
    purpose: Purpose = Purpose.CALIBRATION
    on_success: Sequence[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Telling:
    """How a command tells what came of its job: to people, or with --json as one object of so many names."""

    names: Sequence[str]
    show: Show
    as_json: bool
    chained: bool = False  #: the object has the ids of the jobs that follow, as `then`

    def tell(self, client: Client, found: Mapping[str, Any]) -> None:
        """Print a result, `found`; of a job that has not ended its id alone is known."""
        if not self.as_json:
            self.show(client, found)
            return
        told: dict[str, Any] = {name: found.get(name) for name in self.names}
        emit(told | {"then": followers(client, found["job"])} if self.chained else told)


def followers(client: Client, job_id: str) -> list[str]:
    """Ids of the jobs that wait for a job, and of those that wait for them; the nearest first."""
    found, asked = list[str](), [job_id]
    while asked:
        rows, _ = client.rows("/v1/jobs", limit=None, after_job_id=asked.pop(0))
        found += [row["id"] for row in rows]
        asked += [row["id"] for row in rows]
    return found


def of_kind(_client: Client, job: Mapping[str, Any]) -> Pace:
    """What is told of a job while it is waited for: what all kinds have."""
    return Pace(job["kind"])


def run(
    client: Client,
    order: Order,
    telling: Telling,
    *,
    detach: bool,
    timeout_s: float | None,
    watched: Watched = of_kind,
) -> None:
    """Send the files, submit the job, and, unless `detach`, stay until its end and show what came of it.

    Raises:
        typer.Exit: with the job's exit code.
        Refused, Unreachable, NoFile, Late: as uploads, `POST /v1/jobs` and `waiting.until_end`.
    """
    job = submit(client, order)
    if detach:
        telling.tell(client, {"job": job["id"]}) if telling.as_json else say(job["id"])
        return
    note(f"job {job['id']}")
    ended = wait(client, job, timeout_s=timeout_s, watched=watched)
    code = waiting.verdict(ended)
    found = client.get(f"/v1/jobs/{job['id']}/result")
    telling.tell(client, found)
    raise typer.Exit(code)


def submit(client: Client, order: Order) -> dict[str, Any]:
    """The job that was made; where it is refused, files that were sent for it are forgotten."""
    with sent(client, order) as body:
        return dict(client.post("/v1/jobs", body))


@contextmanager
def sent(client: Client, order: Order) -> Iterator[dict[str, Any]]:
    """The body of an order's request, its files uploaded; they are forgotten where what is done with it is refused."""
    files = sources.send(client, order.files, purpose=order.purpose)
    body = only_given({
        "kind": order.kind, "spec": dict(order.spec), "gpu_class": order.gpu_class, "on_success": order.on_success,
    })  # fmt: skip
    try:
        yield sources.filled(body, files.ids)
    except CallError:
        files_upload.forget(client, files.new)
        raise


def wait(
    client: Client, job: Mapping[str, Any], *, timeout_s: float | None = None, watched: Watched = of_kind
) -> dict[str, Any]:
    """The job once it has ended: its log as it is written, phase, count, rate and time left meanwhile, on stderr."""
    log, pace = Log(client, job["id"]), watched(client, job)

    def look() -> None:
        log.look()
        pace.look()

    with _kept_alive(job["id"]):
        return waiting.until_end(client, job["id"], timeout_s=timeout_s, standing=pace.standing, look=look)


@contextmanager
def _kept_alive(job_id: str) -> Iterator[None]:
    """Ctrl-C ends the watching, not the job; say so."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"\nThe job goes on without you: modelyard jobs wait {job_id}; modelyard jobs cancel {job_id} stops it.")
        raise
