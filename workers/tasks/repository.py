"""The courier's own tables in SQL: control tasks by lease, and what is swept when its time is over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

_IDS = bindparam("ids", type_=ARRAY(Uuid))

_CLAIM = text("""
WITH due AS (
  SELECT id FROM control_tasks WHERE available_at <= clock_timestamp() AND (lease_expires_at IS NULL OR
  lease_expires_at <= clock_timestamp()) ORDER BY available_at LIMIT :limit FOR UPDATE SKIP LOCKED)
UPDATE control_tasks t SET lease_expires_at = clock_timestamp() + make_interval(secs => :lease_s), tries =
t.tries + 1 FROM due, jobs j WHERE t.id = due.id AND j.id = t.job_id RETURNING t.id, t.tenant_id, t.kind,
t.job_id, j.kind AS job_kind, t.tries
""")
_RENEW = text("""
UPDATE control_tasks SET lease_expires_at = clock_timestamp() + make_interval(secs => :lease_s)
WHERE id = ANY(:ids) AND lease_expires_at IS NOT NULL
""").bindparams(_IDS)
_FAIL = text("""
UPDATE control_tasks SET lease_expires_at = NULL, error = CAST(:error AS jsonb),
  available_at = clock_timestamp() + make_interval(secs => :delay_s)
WHERE id = :id AND tries = :tries
""")
_FINISH = text("DELETE FROM control_tasks WHERE id = :id AND tries = :tries")
_SWEEP_KEYS = text("""
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM idempotency_keys WHERE created_at < clock_timestamp() - make_interval(secs => :age_s)
  ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED))
RETURNING 1
""")


@dataclass(frozen=True)
class Task:
    """Work of the courier for one job: `kind` is what to do, `job_kind` says whose function does it."""

    id: UUID
    tenant_id: UUID
    kind: str
    job_id: UUID
    job_kind: str
    tries: int  #: this one included


def claim(session: Session, *, limit: int, lease_s: float) -> list[Task]:
    """Up to `limit` due tasks, held for `lease_s`."""
    rows = session.execute(_CLAIM, {"limit": limit, "lease_s": lease_s})
    return [Task(**row) for row in rows.mappings()]


def renew(session: Session, ids: Sequence[UUID], *, lease_s: float) -> None:
    """Hold tasks that are still being worked on for another `lease_s`."""
    session.execute(_RENEW, {"ids": list(ids), "lease_s": lease_s})


def finish(session: Session, task: Task) -> None:
    """Remove a task that is done."""
    session.execute(_FINISH, {"id": task.id, "tries": task.tries})


def fail(session: Session, task: Task, *, error: dict[str, Any], delay_s: float) -> None:
    """Give a task back, to be tried again after `delay_s`."""
    values = {"id": task.id, "tries": task.tries, "error": orjson.dumps(error).decode(), "delay_s": delay_s}
    session.execute(_FAIL, values)


def sweep_idempotency_keys(session: Session, *, age_s: float, limit: int) -> int:
    """Forget answers that are older than `age_s`; how many."""
    return len(session.execute(_SWEEP_KEYS, {"age_s": age_s, "limit": limit}).all())
