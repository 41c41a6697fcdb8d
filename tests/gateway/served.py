"""What tests of the HTTP surface share: small requests, the shape of a refusal, and what the database holds."""

from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import text

from shared.db.models import Base
from shared.ids import new_id
from tests.gateway.conftest import Gateway
from tests.services.compression import found, kept
from tests.services.inference import build

PROBE: dict[str, Any] = {"kind": "probe", "spec": {"steps": 0}}
LATER = "2100-01-01T00:00:00Z"
MODEL = "tiny"
CONTEXT = 2048
NOWHERE = "00000000-0000-7000-8000-000000000000"
PROBLEM = {"type", "title", "status", "detail", "instance", "code", "param", "request_id", "retryable", "errors"}
#: an authentication notes when a key was used; everything else in these tables is a write of the request's own
KEPT_OUT = {"tenants", "api_keys", "alembic_version"}


def submit(client: httpx.Client, **extra: Any) -> dict[str, Any]:
    """A probe job that was accepted."""
    answer = client.post("/v1/jobs", json={**PROBE, **extra})
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def inference(**spec: Any) -> dict[str, Any]:
    """The body of an inference job for `MODEL`."""
    return {"kind": "inference", "spec": {"model": MODEL, "prompts": ["a"], "max_tokens": 8, **spec}}


def register(gateway: Gateway, tenant: UUID, **fields: Any) -> None:
    """Give a tenant a model to name; it has no weights."""
    with gateway.database.transaction() as session:
        build.model(session, tenant, **{"name": MODEL, "context_length": CONTEXT, **fields})


def rows(gateway: Gateway) -> dict[str, int]:
    """How many rows each table has."""
    names = sorted(set(Base.metadata.tables) - KEPT_OUT)
    counts = ", ".join(f'(SELECT count(*) FROM "{name}") AS "{name}"' for name in names)
    with gateway.database.engine.connect() as connection:
        return dict(connection.execute(text(f"SELECT {counts}")).mappings().one())


def refused(answer: httpx.Response, status: int, code: str, *, param: str | None = None) -> dict[str, Any]:
    """Check that an answer is this refusal, in the one shape that all of them have; its body."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == PROBLEM | {"error"}
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
    assert body["error"] == {
        "message": body["detail"],
        "type": kind or "invalid_request_error",
        "param": body["param"],
        "code": body["code"],
    }
    assert (body["status"], body["code"], body["type"]) == (status, code, f"/docs#{code}"), body
    assert body["param"] == param, body
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == answer.request.url.path
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] in ("application/json", "application/problem+json")
    return body


def tuning(model: str) -> dict[str, Any]:
    """The body of a tuning on class cpu: a job with everything that a job can have."""
    return {"kind": "tuning", "gpu_class": "cpu", "spec": {"model": model, "data": [{"type": "library"}]}}


def judge(gateway: Gateway, tenant: UUID, name: str) -> dict[str, str]:
    """Register a model, calibrate and evaluate it."""
    with gateway.database.transaction() as session:
        model = build.model(session, tenant, name=name, digest=new_id().hex)
        calibration = kept.calibration(session, model)
        evaluation = kept.evaluation(session, model, None, found.figures(baseline=None))
        return {"calibration_id": str(calibration.id), "evaluation_id": str(evaluation.id)}
