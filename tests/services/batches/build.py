"""Lines of batches, and the files and jobs made of them."""

from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from services.jobs import service
from shared.contracts.jobs import JobRequest, Tier
from shared.db.models import Job
from shared.storage import Store
from tests.services.inference import build

CHAT: Final = "/v1/chat/completions"
#: the body of an answer that refuses a request
REFUSED: Final[dict[str, Any]] = {
    "error": {"message": "No.", "type": "invalid_request_error", "param": "top_p", "code": "invalid_value"}
}


def body(text: str = "hello", **changes: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **changes}


def envelope(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A line; a change to None leaves the field out."""
    fields = {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body(f"line {number}"), **changes}
    return {name: value for name, value in fields.items() if value is not None}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def file(count: int, **changes: Any) -> bytes:
    """A good file of so many lines."""
    return jsonl(*(envelope(number, **changes) for number in range(count)))


def batch(session: Session, store: Store, tenant_id: UUID, content: bytes, **spec: Any) -> Job:
    """A batch of a file that is stored just now."""
    file_id = build.file(session, tenant_id, store.put_bytes(tenant_id, content))
    wanted = {"input_file_id": file_id, "endpoint": CHAT, **spec}
    return service.submit(session, tenant_id, JobRequest(kind="batch", tier=Tier.BATCH, spec=wanted)).job
