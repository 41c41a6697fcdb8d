"""New jobs in SQL: one statement for any number of them, with their first events, bells, shares and lines."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session, configure_mappers, make_transient_to_detached

from services.jobs.types import NewJob
from shared.contracts.jobs import State
from shared.db.models import Job

# All values come as one JSON document: thirty parameters a job cost more to bind than to insert.
_INSERT = text("""
WITH given AS (
  SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
    id uuid, tenant_id uuid, kind text, spec jsonb, request_sha256 text, metadata jsonb, gpu_class text, queue text,
    tier smallint, priority smallint, devices smallint, plan jsonb, planned_gpu_s float8, driver text,
    max_failures int, max_lost int, max_runtime_s float8, run_after timestamptz, deadline_at timestamptz,
    blocked bool, held bool, after_job_id uuid, parent_id uuid, root_id uuid, retry_of uuid, progress_total bigint,
    progress_unit text, webhook jsonb, webhook_secret text, lines jsonb, first_line int,
    numbers int[], custom_ids text[])),
job AS (
  INSERT INTO jobs (id, tenant_id, kind, spec, request_sha256, metadata, gpu_class, queue, tier, priority, devices,
    plan, planned_gpu_s, driver, max_failures, max_lost, max_runtime_s, run_after, deadline_at, blocked, held_at,
    after_job_id, parent_id, root_id, retry_of, progress_total, progress_unit, webhook, webhook_secret)
  SELECT id, tenant_id, kind, spec, decode(request_sha256, 'hex'), metadata, gpu_class, queue, tier, priority,
    devices, plan, planned_gpu_s, driver, max_failures, max_lost, max_runtime_s,
    COALESCE(run_after, clock_timestamp()), deadline_at, blocked, CASE WHEN held THEN clock_timestamp() END,
    after_job_id, parent_id, root_id, retry_of, progress_total, progress_unit, webhook,
    decode(webhook_secret, 'hex')
  FROM given
  RETURNING id, tenant_id, queue, tier, created_at, updated_at, run_after, held_at, driver = 'worker' AS driven,
    driver = 'worker' AND NOT blocked AND held_at IS NULL AS rings),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type) SELECT id, 1, tenant_id, 'job.queued' FROM job),
share AS (
  INSERT INTO fair_shares (queue, tier, tenant_id) SELECT DISTINCT queue, tier, tenant_id FROM job WHERE driven
  ON CONFLICT DO NOTHING),
bell AS (INSERT INTO outbox (queue, available_at) SELECT queue, run_after FROM job WHERE rings),
items AS (
  INSERT INTO job_items (job_id, line_no, turn, tenant_id, custom_id, input)
  SELECT given.id, COALESCE(numbers[ordinality], first_line + ordinality - 1), ordinality - 1, tenant_id,
    custom_ids[ordinality], value
  FROM given CROSS JOIN LATERAL jsonb_array_elements(lines) WITH ORDINALITY)
SELECT id, created_at, updated_at, run_after, held_at, CASE WHEN rings THEN pg_notify('bells', queue) END FROM job
""")
configure_mappers()  # otherwise the first query does, and an insert may come before it
_TIMES = ("created_at", "updated_at", "run_after", "held_at")
#: what the columns of a new row hold that nobody chose
_NEWBORN = {
    "state": State.QUEUED.value,
    **dict.fromkeys(("attempt", "failure_count", "lost_count", "prompt_tokens", "completion_tokens"), 0),
    **dict.fromkeys(("progress_done", "progress_failed", "progress_mark"), 0),
    **dict.fromkeys(("event_seq", "version"), 1),
    **dict.fromkeys(("gpu_seconds", "cost"), 0.0),
    **dict.fromkeys(("cancel_requested_at", "cancel_reason", "lease_owner", "lease_id", "lease_expires_at")),
    **dict.fromkeys(("checkpoint_id", "error", "started_at", "finished_at")),
}
_CHOSEN = [name for name in NewJob.__dataclass_fields__ if name in Job.__table__.columns and name != "metadata"]


def insert_all(session: Session, new: Sequence[NewJob]) -> list[Job]:
    """Write jobs, in one statement, and return them in the same order.

    The path of every submit, so the rows are not read back but known: an ORM insert that returns its 51 columns takes
    three times as long.
    """
    rows = orjson.dumps([each.__dict__ for each in new], default=_hex).decode()
    written = {row.id: row for row in session.execute(_INSERT, {"rows": rows})}
    return [_known(session, each, {name: getattr(written[each.id], name) for name in _TIMES}) for each in new]


def _known(session: Session, new: NewJob, times: dict[str, Any]) -> Job:
    """The row as the ORM would have read it."""
    job: Job = Job.__mapper__.class_manager.new_instance()
    chosen = {name: getattr(new, name) for name in _CHOSEN}
    job.__dict__.update(_NEWBORN | chosen | times, meta=new.metadata)
    make_transient_to_detached(job)
    session.add(job)
    return job


def _hex(value: object) -> str:
    assert isinstance(value, bytes), type(value)
    return value.hex()
