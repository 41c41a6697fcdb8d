"""What must hold in the end, whatever was killed: read from the database, the store and the process table."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import httpx
import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.jobs import repository
from shared.contracts.jobs import TERMINAL_EVENTS, State
from shared.db.models import Attempt, Job, JobItem
from shared.db.session import Database
from shared.errors import DatabaseUnavailable
from shared.settings import Settings
from tests.support.polling import wait_until
from tests.support.yards import RunningYard


class History:
    """One yard's jobs and what became of them."""

    def __init__(self, yard: RunningYard) -> None:
        self.yard = yard
        self.settings = Settings(_env_file=yard.place.env_file)
        self.database = Database(self.settings.database_url.get_secret_value(), name="history")

    def close(self) -> None:
        self.database.close()

    def recorded(self, job_id: str, *, attempt: int | None = None) -> int:
        """Lines recorded so far; 0 while the database is away."""
        recorded = select(func.count()).where(JobItem.job_id == UUID(job_id), JobItem.status != "pending")
        try:
            with self.database.transaction() as session:
                return session.scalars(
                    recorded if attempt is None else recorded.where(JobItem.attempt == attempt)
                ).one()
        except DatabaseUnavailable:
            return 0

    def await_lines(self, job_id: str, count: int, *, timeout: float = 120) -> None:
        wait_until(lambda: self.recorded(job_id) >= count, timeout=timeout, every=0.02, what=f"{count} lines")

    def finished(self, job_id: str, *, timeout: float = 180) -> dict[str, Any]:
        """The job once it is terminal, through the API; the gateway may be away in between."""

        def done() -> dict[str, Any] | None:
            try:
                with self.yard.client() as client:
                    answer = client.get(f"/v1/jobs/{job_id}", params={"wait": 5}).raise_for_status()
            except httpx.HTTPError:
                return None
            job: dict[str, Any] = answer.json()
            return job if State(job["state"]).terminal else None

        return wait_until(done, timeout=timeout, what=f"job {job_id} is terminal\n{self.yard.logs(lines=10)}")

    def check(self, job_ids: Iterable[str]) -> None:
        """I1–I4, I9 and I12 of the reliability reference, for each of these jobs."""
        self.database.close()  # connections that a killed PostgreSQL left behind
        with self.database.transaction() as session:
            for job_id in job_ids:
                self._check(session, UUID(job_id))

    def _check(self, session: Session, job_id: UUID) -> None:
        job = session.get_one(Job, job_id, populate_existing=True)
        assert State(job.state).terminal, "an accepted job is still open"
        events = repository.events(session, job.tenant_id, job_id)
        assert [e.seq for e in events] == list(range(1, len(events) + 1)), "events are numbered without a gap"
        ends = [e.type for e in events if e.type in TERMINAL_EVENTS]
        assert ends == [f"job.{job.state}"], "one terminal event, of the final state"
        attempts = session.query(Attempt).filter(Attempt.job_id == job_id).order_by(Attempt.attempt).all()
        assert [a.attempt for a in attempts] == list(range(1, job.attempt + 1)), "attempts grow by one"
        outcomes = Counter(a.outcome for a in attempts)
        assert outcomes[None] == 0, "every attempt was ended"
        assert outcomes["succeeded"] == (job.state == State.SUCCEEDED), "one attempt succeeded, if the job did"
        if job.state == State.SUCCEEDED and job.kind == "inference":
            self._check_results(session, job)

    def _check_results(self, session: Session, job: Job) -> None:
        lines = repository.lines(session, job.tenant_id, job.id, limit=100_000)
        assert len(lines) == job.progress_total == job.progress_done, "each line was recorded once"
        assert all(line.status == "done" for line in lines)
        (artifact, *_) = repository.artifacts(session, job.tenant_id, [job.id])
        with self.yard.client() as client:
            content = client.get(f"/v1/artifacts/{artifact.id}/content").raise_for_status().content
        assert hashlib.sha256(content).hexdigest() == artifact.sha256
        results = [orjson.loads(row) for row in content.splitlines()]
        assert [row["index"] for row in results] == list(range(len(lines))), "every line once, in input order"
        assert [row["output"] for row in results] == [line.output for line in lines]


def submit(yard: RunningYard, kind: str, spec: dict[str, Any], *, key: str | None = None, **fields: Any) -> str:
    """Submit and return the id; with a key, again and again until the gateway answers."""
    body = {"kind": kind, "spec": spec, **fields}
    headers = {"Idempotency-Key": key} if key else {}

    def accepted() -> str | None:
        try:
            with yard.client() as client:
                answer = client.post("/v1/jobs", json=body, headers=headers)
        except httpx.TransportError:
            if key is None:
                raise
            return None
        if key and answer.status_code >= 500:
            return None
        return str(answer.raise_for_status().json()["id"])

    return wait_until(accepted, timeout=60, what="the job is accepted")


def inference(lines: int, *, tokens: int = 48) -> dict[str, Any]:
    """A spec whose output is the same in every run."""
    prompts = [f"def name_{number}(self, value):" for number in range(lines)]
    # A fault is to meet an engine at work, not the answers that an earlier job has left.
    uncached = {"cache": {"mode": "off"}}
    return {"model": "yard-tiny", "prompts": prompts, "max_tokens": tokens, "ignore_eos": True, **uncached}
