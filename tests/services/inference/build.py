"""Rows for tests of the inference kind."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import lifecycle, service
from services.jobs.types import Claim, LineRecord
from shared.contracts.jobs import JobRequest
from shared.db.models import File, Job, Model
from shared.ids import new_id, prefixed
from shared.storage import Blob
from tests.services.jobs import build

LLAMA_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}
MANIFEST = [{"path": "config.json", "sha256": "ab" * 32, "bytes": 2}]


def model(session: Session, tenant_id: UUID, **overrides: Any) -> Model:
    fields: dict[str, Any] = {
        "id": new_id(),
        "tenant_id": tenant_id,
        "name": "tiny",
        "digest": "cd" * 32,
        "manifest": MANIFEST,
        "config": {
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "hidden_size": 256,
        },
        "bytes": 8 * 2**20,
        "parameters": 4_000_000,
        "dtype": "bf16",
        "context_length": 2048,
    }
    row = Model(**(fields | overrides))
    session.add(row)
    session.flush()
    return row


def file(session: Session, tenant_id: UUID, blob: Blob) -> str:
    row = File(
        id=new_id(),
        tenant_id=tenant_id,
        filename="input.jsonl",
        purpose="batch",
        bytes=blob.bytes,
        sha256=blob.sha256,
    )
    session.add(row)
    session.flush()
    return prefixed("file-", row.id)


def request(**spec: Any) -> JobRequest:
    return JobRequest(kind="inference", spec={"model": "tiny", **spec})


def job(session: Session, tenant_id: UUID, **spec: Any) -> Job:
    return service.submit(session, tenant_id, request(**spec)).job


def run(session: Session, claimed: Claim, *, first: int = 0, count: int, bad: int | None = None) -> None:
    """Record lines as an engine would have answered them; line `bad` failed."""
    output = {"text": "out", "finish_reason": "stop", "usage": {"prompt_tokens": 2, "completion_tokens": 3}}
    error = build.BOOM.model_dump(mode="json")
    numbers = range(first, first + count)
    lifecycle.record_lines(
        session,
        [
            LineRecord(claimed.job_id, claimed.attempt, number, error=error)
            if number == bad
            else LineRecord(claimed.job_id, claimed.attempt, number, output=output)
            for number in numbers
        ],
    )
