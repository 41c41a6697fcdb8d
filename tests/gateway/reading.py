"""What tests of document sets share: a tenant with documents, and hands that stand in for a worker's."""

from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import text

from services.jobs import control_repository as control
from services.jobs import lifecycle
from services.jobs.types import Claim, Ending, LineRecord, Outcome
from shared.contracts.documents import DocumentResult, DocumentUsage
from shared.contracts.jobs import JobError
from shared.ids import new_id
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.gateway.served import MODEL

SCHEMA = {"type": "object", "properties": {"company": {"type": "string"}}}
EXTRACT = {"type": "extract", "schema": SCHEMA}
UNREADABLE = JobError(code="encrypted", title="The document is encrypted").model_dump(mode="json")


class Reader:
    """A tenant with a model, documents, and hands that stand in for a worker's."""

    def __init__(self, gateway: Gateway, client: httpx.Client) -> None:
        self.gateway, self.client = gateway, client

    def upload(self, name: str = "a.txt", *, content: bytes = b"a document") -> str:
        form = {"purpose": "document"}
        return str(self.client.post("/v1/files", data=form, files={"file": (name, content)}).json()["id"])

    def body(self, *, documents: int = 1, **fields: Any) -> dict[str, Any]:
        files = [self.upload(f"{number}.txt") for number in range(documents)]
        return {"model": MODEL, "files": files, "operation": EXTRACT, **fields}

    def create(self, *, documents: int = 1, **fields: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/document_sets", json=self.body(documents=documents, **fields))
        assert answer.status_code == 202, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def get(self, made: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/document_sets/{made['id']}").json()
        return found

    def results(self, made: dict[str, Any], **query: int) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/document_sets/{made['id']}/results", params=query).json()
        return found

    def children(self, made: dict[str, Any]) -> list[Claim]:
        """The set's children, claimed as a worker would."""
        with self.gateway.database.transaction() as session:
            claimed = lifecycle.claim(session, "cpu.serve", worker_id=new_id(), limit=1000)
            own = session.execute(text("SELECT id FROM jobs WHERE parent_id = :id"), {"id": made["job_id"]})
            ids = set(own.scalars())
        return sorted((each for each in claimed if each.job_id in ids), key=lambda each: str(each.job_id))

    def record(self, child: Claim, line: int, result: DocumentResult | None) -> None:
        output, error = (None, UNREADABLE) if result is None else (result.model_dump(mode="json"), None)
        with self.gateway.database.transaction() as session:
            lifecycle.record_lines(session, [LineRecord(child.job_id, child.attempt, line, output=output, error=error)])

    def finish(self, made: dict[str, Any], *, artifact: bytes | None = None) -> None:
        """End the parent as the courier's merge does."""
        job_id = UUID(made["job_id"])
        with self.gateway.database.transaction() as session:
            parent = session.execute(text("SELECT tenant_id, attempt FROM jobs WHERE id = :id"), {"id": job_id}).one()
        if artifact is not None:
            claim = type("Parent", (), {"tenant_id": parent.tenant_id, "job_id": job_id, "attempt": parent.attempt})()
            work.artifact(self.gateway.database, self.gateway.settings, claim, name="results.csv", data=artifact)
        with self.gateway.database.transaction() as session:
            control.sum_children(session, job_id)
            assert lifecycle.end(session, [Ending(job_id, parent.attempt, Outcome.SUCCEEDED)])


def read(**fields: Any) -> DocumentResult:
    given: dict[str, Any] = {
        "file_id": "file-x", "filename": "0.txt", "sha256": "0" * 64, "format": "text", "pages": 3, "chunks": 1,
        "result": {"company": "Northwind"}, "usage": DocumentUsage(prompt_tokens=7, completion_tokens=2),
    }  # fmt: skip
    return DocumentResult(**(given | fields))
