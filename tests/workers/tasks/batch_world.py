"""What tests of the courier's part of batches share: a tenant with a model, and hands that do the work."""

from collections.abc import Iterable
from typing import Any, ClassVar
from uuid import UUID

import orjson

from services.batches import views
from services.batches.views import BatchView
from services.files import service as files
from services.jobs import lifecycle
from services.jobs.types import Claim, LineRecord
from shared.db.models import File, JobItem
from shared.ids import new_id, prefixed
from shared.storage import Blob
from tests.services.batches.build import REFUSED, batch
from tests.workers.tasks.hands import Hands
from workers.tasks import batch as tasks

ANSWER = {
    "object": "chat.completion",
    "model": "tiny",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "out"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
}
SPENT = {"prompt_tokens": 5, "completion_tokens": 3, "cached_tokens": 2}


class World(Hands):
    """Hands for jobs of kind batch."""

    KIND: ClassVar = "batch"
    TASKS: ClassVar = tasks

    def submit(self, content: bytes, **spec: Any) -> UUID:
        with self.database.transaction() as session:
            return batch(session, self.store, self.tenant, content, **spec).id

    def expanded(self, content: bytes, **spec: Any) -> UUID:
        job_id = self.submit(content, **spec)
        self.work("expand", job_id)
        return job_id

    def batch(self, job_id: UUID) -> BatchView:
        with self.database.transaction() as session:
            return views.one(session, self.tenant, job_id)

    def items(self, job_id: UUID) -> list[JobItem]:
        with self.database.transaction() as session:
            return list(session.query(JobItem).where(JobItem.job_id == job_id).order_by(JobItem.turn))

    def answer(self, claimed: Claim, *, bad: Iterable[int] = (), limit: int = 10_000) -> None:
        """Record the first `limit` lines of a child, in its own order; those in `bad` are refused."""
        error = {"status_code": 400, "code": "invalid_value", "message": "No.", "body": REFUSED}
        records = [
            LineRecord(claimed.job_id, claimed.attempt, item.line_no, error=error)
            if item.line_no in bad
            else LineRecord(claimed.job_id, claimed.attempt, item.line_no, output={"body": ANSWER, "usage": SPENT})
            for item in self.items(claimed.job_id)[:limit]
        ]
        with self.database.transaction() as session:
            assert lifecycle.record_lines(session, records) == {claimed.job_id}

    def run(self, claims: Iterable[Claim], *, bad: Iterable[int] = ()) -> None:
        for claimed in claims:
            self.answer(claimed, bad=bad)
            self.end(claimed)

    def input(self, job_id: UUID) -> File:
        with self.database.transaction() as session:
            return files.get(session, self.tenant, self.job(job_id).spec["input_file_id"])

    def read(self, file_id: UUID | None) -> bytes:
        with self.database.transaction() as session:
            found = files.get(session, self.tenant, prefixed("file-", file_id or new_id()))
        assert found.purpose == "batch_output"
        return self.store.read(self.tenant, Blob(found.sha256, found.bytes))

    def output(self, job_id: UUID) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.read(self.batch(job_id).row.output_file_id).splitlines()]

    def errors(self, job_id: UUID) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.read(self.batch(job_id).row.error_file_id).splitlines()]

    def counts(self, job_id: UUID) -> tuple[int, int, int]:
        found = self.batch(job_id).counts
        return found.total, found.completed, found.failed
