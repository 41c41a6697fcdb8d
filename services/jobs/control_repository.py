"""Moves that no attempt makes: cancel, hold, resume, chains, families, and the courier's tasks. In SQL."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from services.jobs.types import Claim, NewJob
from shared.contracts.jobs import JobError
from shared.ids import new_id

_IDS = bindparam("ids", type_=ARRAY(Uuid))
_MOVED = """id, tenant_id, kind, state, attempt, event_seq, queue, parent_id, webhook, webhook_secret, error,
  finished_at, held_at, prompt_tokens, completion_tokens, gpu_seconds, cost"""

_LOCK_FAMILY = text("""
SELECT id FROM jobs WHERE tenant_id = :tenant_id AND (id = :job_id OR parent_id = :job_id)
ORDER BY (id = :job_id), id FOR NO KEY UPDATE
""")

_CANCEL = text(f"""
WITH moved AS (
  UPDATE jobs j SET cancel_requested_at = clock_timestamp(), cancel_reason = :reason, event_seq = j.event_seq + 1,
    state = CASE WHEN j.state = 'queued' THEN 'cancelled' ELSE j.state END,
    finished_at = CASE WHEN j.state = 'queued' THEN clock_timestamp() END,
    error = COALESCE(CAST(:error AS jsonb), j.error)
  WHERE id = ANY(:ids) AND state IN ('queued', 'running') AND cancel_requested_at IS NULL
  RETURNING {_MOVED}, CASE WHEN j.state = 'cancelled' THEN 'job.cancelled' ELSE 'job.cancel_requested' END AS event),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type, data)
  SELECT id, event_seq, tenant_id, event, jsonb_strip_nulls(jsonb_build_object('reason', :reason, 'error', error))
  FROM moved)
SELECT moved.*, pg_notify('controls', id::text) FROM moved
""").bindparams(_IDS)

_EXPIRE_QUEUED = text(f"""
WITH moved AS (
  UPDATE jobs j SET state = 'expired', finished_at = clock_timestamp(), event_seq = j.event_seq + 1,
    error = CAST(:error AS jsonb)
  WHERE id = ANY(:ids) AND state = 'queued' RETURNING {_MOVED}, 'job.expired' AS event),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type, data)
  SELECT id, event_seq, tenant_id, event, jsonb_build_object('error', error) FROM moved)
SELECT * FROM moved
""").bindparams(_IDS)

_HOLD = text(f"""
WITH moved AS (
  UPDATE jobs j SET held_at = clock_timestamp(),
    event_seq = j.event_seq + (j.state = 'queued' OR j.driver = 'children')::int
  WHERE id = ANY(:ids) AND state IN ('queued', 'running') AND held_at IS NULL AND cancel_requested_at IS NULL
  RETURNING {_MOVED}, 'job.paused' AS event, j.state = 'queued' OR j.driver = 'children' AS told),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type) SELECT id, event_seq, tenant_id, event FROM moved WHERE told)
SELECT moved.*, pg_notify('controls', id::text) FROM moved
""").bindparams(_IDS)

_RESUME = text(f"""
WITH moved AS (
  UPDATE jobs j SET held_at = NULL, event_seq = j.event_seq + 1
  WHERE id = ANY(:ids) AND state IN ('queued', 'running') AND held_at IS NOT NULL
  RETURNING {_MOVED}, 'job.resumed' AS event, driver, blocked, run_after),
told AS (INSERT INTO job_events (job_id, seq, tenant_id, type) SELECT id, event_seq, tenant_id, event FROM moved),
rung AS (
  INSERT INTO outbox (queue, available_at) SELECT queue, run_after FROM moved
  WHERE state = 'queued' AND driver = 'worker' AND NOT blocked)
SELECT moved.*, pg_notify('bells', queue) FROM moved
""").bindparams(_IDS)

#: has yet to be planned, because the model that its spec names was not there; see services/jobs/late.py
_LATE = "j.driver = 'worker' AND j.queue = 'control'"

_UNBLOCK = text(f"""
WITH freed AS (
  UPDATE jobs j SET blocked = false WHERE after_job_id = ANY(:ids) AND state = 'queued' AND blocked AND NOT ({_LATE})
  RETURNING id, tenant_id, queue, run_after, driver, held_at),
rung AS (
  INSERT INTO outbox (queue, available_at) SELECT queue, run_after FROM freed
  WHERE driver = 'worker' AND held_at IS NULL)
SELECT id, tenant_id, driver, false AS late, pg_notify('bells', queue) FROM freed
UNION ALL
SELECT id, tenant_id, driver, true, NULL FROM jobs j
WHERE after_job_id = ANY(:ids) AND state = 'queued' AND blocked AND {_LATE}
""").bindparams(_IDS)

# What an insert writes of a plan and of lines, for a row that is there already.
_PLAN_LATE = text(f"""
WITH given AS (
  SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
    id uuid, spec jsonb, gpu_class text, queue text, devices smallint, plan jsonb, planned_gpu_s float8, driver text,
    deadline_at timestamptz, progress_total bigint, progress_unit text, lines jsonb)),
job AS (
  UPDATE jobs j SET spec = g.spec, gpu_class = g.gpu_class, queue = g.queue, devices = g.devices, plan = g.plan,
    planned_gpu_s = g.planned_gpu_s, driver = g.driver, deadline_at = g.deadline_at,
    progress_total = g.progress_total, progress_unit = g.progress_unit, blocked = false
  FROM given g
  WHERE j.id = g.id AND j.state = 'queued' AND j.blocked AND {_LATE}
  RETURNING j.id, j.tenant_id, j.queue, j.tier, j.run_after, j.driver = 'worker' AS driven,
    j.driver = 'worker' AND j.held_at IS NULL AS rings),
share AS (
  INSERT INTO fair_shares (queue, tier, tenant_id) SELECT queue, tier, tenant_id FROM job WHERE driven
  ON CONFLICT DO NOTHING),
bell AS (INSERT INTO outbox (queue, available_at) SELECT queue, run_after FROM job WHERE rings),
items AS (
  INSERT INTO job_items (job_id, line_no, turn, tenant_id, input)
  SELECT job.id, ordinality - 1, ordinality - 1, job.tenant_id, value
  FROM job JOIN given USING (id) CROSS JOIN LATERAL jsonb_array_elements(lines) WITH ORDINALITY)
SELECT id, CASE WHEN rings THEN pg_notify('bells', queue) END FROM job
""")

_START_PARENT = text(f"""
WITH moved AS (
  UPDATE jobs j SET state = 'running', attempt = j.attempt + 1, started_at = clock_timestamp(),
    event_seq = j.event_seq + 1
  WHERE id = :job_id AND state = 'queued' AND driver = 'children' RETURNING {_MOVED}, 'job.started' AS event),
attempted AS (
  INSERT INTO attempts (job_id, attempt, tenant_id, worker_id) SELECT id, attempt, tenant_id, :owner FROM moved),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type, data)
  SELECT id, event_seq, tenant_id, event, jsonb_build_object('attempt', attempt) FROM moved)
SELECT * FROM moved
""")


def family(session: Session, tenant_id: UUID, job_id: UUID) -> list[UUID]:
    """The job's children and the job, locked in that order (an ending child locks itself, then its parent)."""
    values = {"tenant_id": tenant_id, "job_id": job_id}
    found = list(session.execute(_LOCK_FAMILY, values).scalars())
    # Children that came with the commit which that statement waited for are seen by the next one.
    return found if len(found) > 1 else list(session.execute(_LOCK_FAMILY, values).scalars())


def cancel(session: Session, ids: Sequence[UUID], *, reason: str, error: JobError | None = None) -> Sequence[Row[Any]]:
    """Ask these jobs to stop: queued ones are cancelled now, running ones get the flag. Finished ones stay."""
    body = None if error is None else error.model_dump_json()
    return session.execute(_CANCEL, {"ids": list(ids), "reason": reason, "error": body}).all()


def expire_queued(session: Session, ids: Sequence[UUID], *, error: JobError) -> Sequence[Row[Any]]:
    """Expire jobs that nobody started."""
    return session.execute(_EXPIRE_QUEUED, {"ids": list(ids), "error": error.model_dump_json()}).all()


def hold(session: Session, ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    """Set `held_at`; a running attempt is released by its runner, who tells the event."""
    return session.execute(_HOLD, {"ids": list(ids)}).all()


def resume(session: Session, ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    """Clear `held_at` and ring."""
    return session.execute(_RESUME, {"ids": list(ids)}).all()


def unblock_after(session: Session, ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    """Let go of the jobs that waited for these, but for those that are late. Rows: id, tenant_id, driver, late."""
    return session.execute(_UNBLOCK, {"ids": list(ids)}).all()


def plan_late(session: Session, new: NewJob) -> None:
    """Write the spec, the plan and the lines of a waiting late job, and let it go.

    Raises:
        NoResultFound: no late job of that id waits.
    """
    fields = ("id", "spec", "gpu_class", "queue", "devices", "plan", "planned_gpu_s", "driver", "deadline_at")
    row = {name: getattr(new, name) for name in (*fields, "progress_total", "progress_unit", "lines")}
    session.execute(_PLAN_LATE, {"rows": orjson.dumps([row]).decode()}).one()


def waiting_for(session: Session, ids: Sequence[UUID]) -> list[tuple[UUID, UUID]]:
    """Queued jobs that wait for these: (job, the one it waits for)."""
    statement = text(
        "SELECT id, after_job_id FROM jobs WHERE after_job_id = ANY(:ids) AND state = 'queued' AND blocked"
    ).bindparams(_IDS)
    return [(row.id, row.after_job_id) for row in session.execute(statement, {"ids": list(ids)})]


def lock_parents(session: Session, ids: Sequence[UUID]) -> list[UUID]:
    """Lock these parents in id order; then, by a fresh snapshot, those that have no unfinished child left."""
    session.execute(
        text("SELECT 1 FROM jobs WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE").bindparams(_IDS),
        {"ids": list(ids)},
    )
    statement = text("""
      SELECT p.id FROM jobs p WHERE p.id = ANY(:ids) AND p.state = 'running' AND NOT EXISTS (
        SELECT 1 FROM jobs c WHERE c.parent_id = p.id AND c.finished_at IS NULL)""").bindparams(_IDS)
    return list(session.execute(statement, {"ids": list(ids)}).scalars())


def start_parent(session: Session, job_id: UUID, *, owner: UUID) -> Sequence[Row[Any]]:
    """Move a queued parent to running; it holds no lease."""
    return session.execute(_START_PARENT, {"job_id": job_id, "owner": owner}).all()


def sum_children(session: Session, parent_id: UUID) -> None:
    """Add up the children's usage and progress on their parent."""
    session.execute(
        text("""
        UPDATE jobs p SET prompt_tokens = c.prompt, completion_tokens = c.completion, gpu_seconds = c.gpu,
          cost = c.cost, progress_done = c.done, progress_failed = c.failed
        FROM (SELECT COALESCE(sum(prompt_tokens), 0) AS prompt, COALESCE(sum(completion_tokens), 0)
                  AS completion,
                COALESCE(sum(gpu_seconds), 0) AS gpu, COALESCE(sum(cost), 0) AS cost,
                COALESCE(sum(progress_done), 0) AS done, COALESCE(sum(progress_failed), 0) AS failed
              FROM jobs WHERE parent_id = :parent_id) c
        WHERE p.id = :parent_id"""),
        {"parent_id": parent_id},
    )


def add_task(session: Session, tenant_id: UUID, job_id: UUID, kind: str) -> None:
    """Give the courier something to do for a job (`expand`, `merge`, `plan`); once per job and kind. Wakes it."""
    session.execute(
        text("""
        WITH task AS (
          INSERT INTO control_tasks (id, tenant_id, kind, job_id) VALUES (:id, :tenant_id, :kind, :job_id)
          ON CONFLICT DO NOTHING),
        bell AS (INSERT INTO outbox (queue) VALUES ('control'))
        SELECT pg_notify('bells', 'control')"""),
        {"id": new_id(), "tenant_id": tenant_id, "kind": kind, "job_id": job_id},
    )


def notify_changed(session: Session, ids: Sequence[UUID]) -> None:
    """Wake whoever waits for these jobs (`?wait=`, SSE) when this transaction commits."""
    for start in range(0, len(ids), 100):  # a payload holds 8,000 bytes
        payload = ",".join(map(str, ids[start : start + 100]))
        session.execute(text("SELECT pg_notify('events', :payload)"), {"payload": payload})


def add_logs(session: Session, claim: Claim, lines: Sequence[tuple[str, str]]) -> None:
    """Append (level, message) lines of an attempt."""
    rows = orjson.dumps([{"level": level, "message": message.replace("\x00", "")} for level, message in lines])
    session.execute(
        text("""
        INSERT INTO job_logs (job_id, tenant_id, attempt, level, message)
        SELECT :job_id, :tenant_id, :attempt, level, message
        FROM jsonb_to_recordset(:rows) AS r(level text, message text)"""),
        {"job_id": claim.job_id, "tenant_id": claim.tenant_id, "attempt": claim.attempt, "rows": rows.decode()},
    )
