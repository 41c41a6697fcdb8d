"""A worker's part in these tests: claims jobs through the real lifecycle, and ends them."""

from typing import Any
from uuid import UUID

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.jobs import lifecycle
from services.jobs.types import Claim, LineRecord, Outcome
from shared.db.session import Database
from shared.ids import new_id
from shared.settings import Settings
from shared.storage import Store
from tests.services.jobs import build


def claim(database: Database, job_id: str, *, queue: str = "cpu.serve") -> Claim:
    """Begin a job; others of the queue, whose turn comes first, are claimed and dropped on the way."""
    while True:
        with database.transaction() as session:
            claimed = lifecycle.claim(session, queue, worker_id=new_id(), limit=1000)
        assert claimed, f"job {job_id} is not due"
        for each in claimed:
            if each.job_id == UUID(job_id):
                return each


def end(database: Database, claimed: Claim, outcome: Outcome = Outcome.SUCCEEDED, **extra: Any) -> None:
    """End its attempt."""
    with database.transaction() as session:
        assert lifecycle.end(session, [build.ending(claimed, outcome, **extra)])


def finish(database: Database, job_id: str, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    """Begin and end a job."""
    end(database, claim(database, job_id), outcome)


def record(database: Database, claimed: Claim, *outputs: str) -> None:
    """Record one output a line."""
    usage = {"prompt_tokens": 2, "completion_tokens": 3}
    records = [
        LineRecord(
            claimed.job_id,
            claimed.attempt,
            number,
            output={"text": text, "finish_reason": "stop", "usage": usage},
        )
        for number, text in enumerate(outputs)
    ]
    with database.transaction() as session:
        assert lifecycle.record_lines(session, records) == {claimed.job_id}


def artifact(database: Database, settings: Settings, claimed: Claim, *, name: str, data: bytes) -> str:
    """Store bytes as an artifact of a running attempt; its id."""
    blob = Store.of(settings).put_bytes(claimed.tenant_id, data)
    new = NewArtifact(name=name, media_type="text/html", blob=blob)
    with database.transaction() as session:
        row = artifacts.add(session, new, tenant_id=claimed.tenant_id, job_id=claimed.job_id, attempt=claimed.attempt)
        return str(row.id)
