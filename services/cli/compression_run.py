"""A job of calibration, quantization or evaluation, from its spec to what came of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer

from services.cli import compression_sources as sources
from services.cli import compression_view as view
from services.cli import files_upload, waiting
from services.cli.client import CallError, Client, Unreachable
from services.cli.compression_sources import Given
from services.cli.job_view import LONGEST, clip
from services.cli.output import emit, note, say
from services.cli.waiting import Standing
from shared.clock import monotonic

#: what is printed with --json, in this order
RESULT = ("job", "model", "artifact", "evaluation")
#: what is going on, by the kind of the job and the unit of its progress; everything else is an evaluation
PHASES = {
    ("calibration", "samples"): "collecting",
    ("calibration", "layers"): "measuring",
    ("quantization", "layers"): "quantizing",
}
EVALUATING = "evaluating"


@dataclass(frozen=True)
class Order:
    """What is asked for: a kind of job, its spec with paths for files, and those files."""

    kind: str
    spec: Mapping[str, Any]
    files: list[Given] = field(default_factory=list)
    gpu_class: str | None = None


def run(client: Client, order: Order, *, detach: bool, timeout_s: float | None, as_json: bool) -> None:
    """Send the files, submit the job, and, unless `detach`, stay until its end and show what came of it.

    Raises:
        typer.Exit: with the job's exit code.
        Refused, Unreachable, NoFile, Late: as uploads, `POST /v1/jobs` and `waiting.until_end`.
    """
    job = submit(client, order)
    if detach:
        emit(dict.fromkeys(RESULT) | {"job": job["id"]}) if as_json else say(job["id"])
        return
    note(f"job {job['id']}")
    ended = wait(client, job, timeout_s=timeout_s)
    code = waiting.verdict(ended)
    found = client.get(f"/v1/jobs/{job['id']}/result")
    emit({name: found[name] for name in RESULT}) if as_json else view.show(client, order.kind, found)
    raise typer.Exit(code)


def submit(client: Client, order: Order) -> dict[str, Any]:
    """The job that was made; where it is refused, files that were sent for it are forgotten."""
    sent = sources.send(client, order.files)
    body = {"kind": order.kind, "spec": sources.filled(order.spec, sent.ids)}
    try:
        return dict(
            client.post("/v1/jobs", body if order.gpu_class is None else {**body, "gpu_class": order.gpu_class})
        )
    except CallError:
        files_upload.forget(client, sent.new)
        raise


def wait(client: Client, job: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
    """The job once it has ended: its log as it is written, phase, count, rate and time left meanwhile, on stderr."""
    log, pace = Log(client, job["id"]), Pace(job["kind"])
    with _kept_alive(job["id"]):
        return waiting.until_end(client, job["id"], timeout_s=timeout_s, standing=pace.standing, look=log.look)


class Log:
    """The lines that a job's attempts write, told as they come."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._path = f"/v1/jobs/{job_id}/logs"
        self._after = 0

    def look(self) -> None:
        """Tell what is new; a gateway that does not answer is asked again next time."""
        try:
            more = True
            while more:
                page = self._client.get(self._path, after=self._after)
                for line in page["data"]:
                    self._after = line["id"]
                    note(clip(f"  {line['message']}", width=LONGEST))
                more = page["has_more"]
        except Unreachable:
            return


class Pace:
    """How fast a job goes, since its count last began."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._counting: tuple[str, int] = ("", 0)  # unit and attempt
        self._begun: tuple[int, float] = (0, 0.0)
        self._told: tuple[tuple[object, ...], str] = ((), "")

    def standing(self, job: Mapping[str, Any]) -> Standing:
        """How far the job is, in words and numbers. A line is said anew when more is done."""
        progress, state, attempt = job["progress"], job["state"], job["attempt"]
        done, total, unit = progress["done"], progress["total"] or 0, progress["unit"]
        if (unit, attempt) != self._counting or done < self._begun[0]:
            self._counting, self._begun = (unit, attempt), (done, monotonic())
        works = state == "running" and done < total
        phase = PHASES.get((self._kind, unit), EVALUATING) if works else state
        if state == "running" and total and not works:
            phase = "saving" if (self._kind, unit) == ("quantization", "layers") else "finishing"
        title = f"{phase} (attempt {attempt})" if attempt > 1 else phase
        rate = self._rate(done) if works else 0.0
        speed = f", {rate:.2g} a second" if rate else ""
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        now = (title, done, total)
        if now != self._told[0]:
            self._told = (now, f"{title} {done}/{total} {unit}{speed}{left}" if works else title)
        return Standing(f"{state} {phase}", title, done, total or None, f"{unit}{speed}", self._told[1])

    def _rate(self, done: int) -> float:
        first, begun = self._begun
        seconds = monotonic() - begun
        return (done - first) / seconds if done > first and seconds > 0 else 0.0


@contextmanager
def _kept_alive(job_id: str) -> Iterator[None]:
    """Ctrl-C ends the watching, not the job; say so."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"\nThe job goes on without you: modelyard jobs wait {job_id}; modelyard jobs cancel {job_id} stops it.")
        raise
