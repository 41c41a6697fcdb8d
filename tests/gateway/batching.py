"""What tests of batches over HTTP share: a tenant with a model, and hands that stand in for courier and worker."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx

from services.jobs import lifecycle
from services.jobs.types import Claim, LineRecord, Outcome
from shared.db.models import JobItem
from shared.ids import new_id
from shared.storage import Store
from tests.gateway.conftest import Gateway
from tests.gateway.served import register
from tests.gateway.work import end
from tests.services.batches.build import CHAT, REFUSED, file
from workers.tasks import batch as tasks
from workers.tasks.control import Context
from workers.tasks.repository import Task

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "out"}, "finish_reason": "stop", "logprobs": None}
ANSWER = {"object": "chat.completion", "model": "tiny", "choices": [CHOICE], "usage": USAGE}


class Batches:
    """A tenant's batches."""

    def __init__(self, gateway: Gateway, tenant: UUID, client: httpx.Client) -> None:
        self.gateway, self.tenant, self.client = gateway, tenant, client
        self._context = Context(gateway.database, Store.of(gateway.settings))

    def upload(self, content: bytes, *, purpose: str = "batch") -> str:
        form = {"purpose": purpose}
        made = self.client.post("/v1/files", data=form, files={"file": ("input.jsonl", content)})
        assert made.status_code == 200, made.text
        return str(made.json()["id"])

    def create(self, content: bytes | None = None, **fields: Any) -> dict[str, Any]:
        body = {"input_file_id": self.upload(file(3) if content is None else content), "endpoint": CHAT, **fields}
        made = self.client.post("/v1/batches", json=body)
        assert made.status_code == 200, made.text
        found: dict[str, Any] = made.json()
        return found

    def get(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = self.client.get(f"/v1/batches/{batch['id']}")
        assert found.status_code == 200, found.text
        body: dict[str, Any] = found.json()
        return body

    def content(self, file_id: str) -> bytes:
        found = self.client.get(f"/v1/files/{file_id}/content")
        assert found.status_code == 200, found.text
        return found.content

    def work(self, kind: str, batch: dict[str, Any]) -> None:
        """A task of the courier."""
        task = Task(new_id(), self.tenant, kind, UUID(batch["job_id"]), "batch", 1)
        getattr(tasks, kind)(self._context, task)

    def claim(self, batch: dict[str, Any]) -> list[Claim]:
        """The batch's children, as a worker claims them."""
        with self.gateway.database.transaction() as session:
            claimed = lifecycle.claim(session, "cpu.serve", worker_id=new_id(), limit=1000)
        return [each for each in claimed if each.parent_id == UUID(batch["job_id"])]

    def record(self, claimed: Claim, *, bad: int | None = None, limit: int = 10_000) -> None:
        """Answer the first `limit` lines of a child in the order of the file; `bad` is refused."""
        error = {"status_code": 400, "code": "invalid_value", "message": "No.", "body": REFUSED}
        spent = {"prompt_tokens": 5, "completion_tokens": 3, "cached_tokens": 1}
        with self.gateway.database.transaction() as session:
            rows = session.query(JobItem).where(JobItem.job_id == claimed.job_id).order_by(JobItem.line_no)
            numbers = [row.line_no for row in rows][:limit]
            records = [
                LineRecord(claimed.job_id, claimed.attempt, number, error=error)
                if number == bad
                else LineRecord(claimed.job_id, claimed.attempt, number, output={"body": ANSWER, "usage": spent})
                for number in numbers
            ]
            assert lifecycle.record_lines(session, records) == {claimed.job_id}

    def end(self, claimed: Claim, outcome: Outcome = Outcome.SUCCEEDED, **extra: Any) -> None:
        end(self.gateway.database, claimed, outcome, **extra)

    def run(self, batch: dict[str, Any], *, bad: int | None = None) -> None:
        """Everything that happens to a batch whose file is good."""
        self.work("expand", batch)
        for claimed in self.claim(batch):
            self.record(claimed, bad=bad)
            self.end(claimed)
        self.work("merge", batch)


@contextmanager
def opened(gateway: Gateway) -> Iterator[Batches]:
    """A new tenant's batches; its model is called `tiny`."""
    tenant = gateway.tenant()
    register(gateway, tenant)
    with gateway.caller(tenant=tenant) as client:
        yield Batches(gateway, tenant, client)
