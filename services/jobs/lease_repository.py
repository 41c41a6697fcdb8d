"""What the owner of an attempt writes, in SQL. Every statement carries the guard: running, and this attempt."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from services.jobs.types import Beat, Claim, Ending, LineRecord, Lost, Orders
from shared.contracts.jobs import Driver
from shared.errors import Fenced

_IDS = bindparam("ids", type_=ARRAY(Uuid))

_BEAT = text("""
UPDATE jobs j SET lease_expires_at = clock_timestamp() + make_interval(secs => :ttl),
  progress_done = COALESCE(b.done, j.progress_done), progress_total = COALESCE(b.total, j.progress_total),
  progress_unit = COALESCE(b.unit, j.progress_unit)
FROM jsonb_to_recordset(:beats) AS b(job_id uuid, attempt int, done bigint, total bigint, unit text)
WHERE j.id = b.job_id AND j.state = 'running' AND j.attempt = b.attempt
RETURNING j.id, j.cancel_requested_at IS NOT NULL AS cancel, j.held_at IS NOT NULL AS hold
""")

_PROGRESS = text("""
WITH moved AS (
  UPDATE jobs j SET progress_done = COALESCE(b.done, j.progress_done),
    progress_total = COALESCE(b.total, j.progress_total), progress_unit = COALESCE(b.unit, j.progress_unit),
    event_seq = j.event_seq + 1
  FROM jsonb_to_recordset(:beats) AS b(job_id uuid, attempt int, done bigint, total bigint, unit text)
  WHERE j.id = b.job_id AND j.state = 'running' AND j.attempt = b.attempt
  RETURNING j.id, j.tenant_id, j.kind, j.state, j.attempt, j.event_seq, j.webhook, j.webhook_secret, j.error,
    j.progress_done, j.progress_total, j.progress_unit, 'job.progress' AS event),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type, data)
  SELECT id, event_seq, tenant_id, event, jsonb_build_object(
    'done', progress_done, 'total', progress_total, 'unit', progress_unit) FROM moved)
SELECT * FROM moved
""")

_LINES = text("""
WITH input AS (
  SELECT * FROM jsonb_to_recordset(:lines)
    AS n(job_id uuid, attempt int, line_no int, output jsonb, error jsonb)),
owned AS (
  SELECT j.id, j.attempt FROM jobs j
  WHERE j.state = 'running' AND (j.id, j.attempt) IN (SELECT job_id, attempt FROM input)
  ORDER BY j.id FOR NO KEY UPDATE),
recorded AS (
  UPDATE job_items i SET output = n.output, error = n.error, attempt = n.attempt,
    status = CASE WHEN n.error IS NULL THEN 'done' ELSE 'error' END
  FROM input n JOIN owned o ON o.id = n.job_id AND o.attempt = n.attempt
  WHERE i.job_id = n.job_id AND i.line_no = n.line_no AND i.status = 'pending'
  RETURNING i.job_id, i.status),
counted AS (
  UPDATE jobs j SET progress_done = j.progress_done + c.n, progress_failed = j.progress_failed + c.failed
  FROM (SELECT job_id, count(*) AS n, count(*) FILTER (WHERE status = 'error') AS failed
        FROM recorded GROUP BY job_id) c WHERE j.id = c.job_id)
SELECT id FROM owned
""")

_END = text("""
WITH input AS (
  SELECT * FROM jsonb_to_recordset(:endings) AS e(
    job_id uuid, attempt int, outcome text, error jsonb, permanent bool, retry_after_s float8,
    prompt_tokens bigint, completion_tokens bigint, gpu_seconds float8, cost float8)),
decided AS (
  SELECT e.*, j.planned_gpu_s, j.held_at,
    CASE
      WHEN e.outcome IN ('succeeded', 'expired') THEN e.outcome
      WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled'
      WHEN j.driver = 'gateway' THEN CASE e.outcome WHEN 'cancelled' THEN 'cancelled' ELSE 'failed' END
      WHEN e.outcome = 'failed' AND (e.permanent OR j.failure_count + 1 >= j.max_failures) THEN 'failed'
      WHEN e.outcome = 'lost' AND (j.driver <> 'worker' OR losses.n >= j.max_lost) THEN 'failed'
      ELSE 'queued' END AS next,
    CASE WHEN e.outcome = 'lost' THEN losses.n ELSE j.lost_count END AS lost,
    j.failure_count + (e.outcome = 'failed')::int AS failures,
    CASE
      WHEN e.retry_after_s IS NOT NULL THEN e.retry_after_s
      WHEN e.outcome = 'failed'
        THEN LEAST(:retry_max, :retry_base * power(2, j.failure_count)) * (0.5 + random() / 2)
      ELSE 0 END AS wait
  FROM input e JOIN jobs j ON j.id = e.job_id
  -- An attempt that got further than every one before it is not a poisoned job's: it starts the count again. So does
  -- one that has kept a checkpoint: it began at the newest one, and the next attempt begins where this one was.
  CROSS JOIN LATERAL (
    SELECT CASE WHEN j.progress_done > j.progress_mark
      OR EXISTS (SELECT FROM checkpoints c WHERE c.job_id = j.id AND c.attempt = j.attempt)
      THEN 1 ELSE j.lost_count + 1 END AS n) losses
  WHERE j.state = 'running' AND j.attempt = e.attempt
  ORDER BY j.id FOR NO KEY UPDATE OF j),
spent AS (
  SELECT d.job_id, d.gpu_seconds, d.cost,
    COALESCE(i.prompt_tokens, d.prompt_tokens) AS prompt_tokens,
    COALESCE(i.completion_tokens, d.completion_tokens) AS completion_tokens
  FROM decided d LEFT JOIN LATERAL (
    SELECT sum((output -> 'usage' ->> 'prompt_tokens')::bigint) AS prompt_tokens,
      sum((output -> 'usage' ->> 'completion_tokens')::bigint) AS completion_tokens
    FROM job_items WHERE job_id = d.job_id AND attempt = d.attempt) i ON true),
moved AS (
  UPDATE jobs j SET state = d.next, failure_count = d.failures, lost_count = d.lost,
    run_after = CASE WHEN d.next = 'queued' THEN clock_timestamp() + make_interval(secs => d.wait)
      ELSE j.run_after END,
    finished_at = CASE WHEN d.next = 'queued' THEN NULL ELSE clock_timestamp() END,
    error = CASE WHEN d.next = 'succeeded' THEN NULL ELSE COALESCE(d.error, j.error) END,
    -- a call ends so when its client hangs up, which asks nobody
    cancel_requested_at = CASE WHEN d.next = 'cancelled' THEN COALESCE(j.cancel_requested_at, clock_timestamp())
      ELSE j.cancel_requested_at END,
    lease_owner = NULL, lease_id = NULL, lease_expires_at = NULL, event_seq = j.event_seq + 1,
    prompt_tokens = j.prompt_tokens + s.prompt_tokens,
    completion_tokens = j.completion_tokens + s.completion_tokens,
    gpu_seconds = j.gpu_seconds + s.gpu_seconds, cost = j.cost + s.cost
  FROM decided d JOIN spent s ON s.job_id = d.job_id WHERE j.id = d.job_id
  RETURNING j.id, j.driver, j.tenant_id, j.kind, j.state, j.attempt, j.event_seq, j.queue, j.tier,
    j.gpu_class, j.run_after, j.held_at, j.parent_id, j.webhook, j.webhook_secret, j.error, j.finished_at,
    d.outcome, d.wait, d.planned_gpu_s, s.prompt_tokens, s.completion_tokens, s.gpu_seconds, s.cost,
    CASE WHEN j.state <> 'queued' THEN 'job.' || j.state WHEN j.held_at IS NOT NULL THEN 'job.paused'
      ELSE 'job.retrying' END AS event),
ended AS (
  UPDATE attempts a SET ended_at = clock_timestamp(), outcome = m.outcome, error = d.error
  FROM moved m JOIN decided d ON d.job_id = m.id WHERE a.job_id = m.id AND a.attempt = m.attempt),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type, data)
  SELECT id, event_seq, tenant_id, event, jsonb_strip_nulls(jsonb_build_object(
    'attempt', attempt, 'outcome', outcome, 'error', error,
    'retry_in_s', CASE WHEN state = 'queued' THEN wait END))
  FROM moved),
charged AS (
  INSERT INTO usage (job_id, attempt, tenant_id, gpu_class, prompt_tokens, completion_tokens, gpu_seconds, cost)
  SELECT id, attempt, tenant_id, gpu_class, prompt_tokens, completion_tokens, gpu_seconds, cost
  FROM moved WHERE attempt > 0),
corrected AS (
  UPDATE fair_shares f SET virtual_time = GREATEST(0, f.virtual_time + c.owed / t.weight)
  FROM (SELECT queue, tier, tenant_id, sum(gpu_seconds - planned_gpu_s) AS owed FROM moved
        WHERE driver = 'worker' GROUP BY 1, 2, 3) c  -- only a claim was charged before
  JOIN tenants t ON t.id = c.tenant_id
  WHERE f.queue = c.queue AND f.tier = c.tier AND f.tenant_id = c.tenant_id),
rung AS (
  INSERT INTO outbox (queue, available_at) SELECT queue, run_after FROM moved
  WHERE state = 'queued' AND held_at IS NULL)
SELECT m.*, pg_notify('bells', m.queue) FROM moved m
""")

# A step's figures may come in two parts (its own, and those of an evaluation), and again from another attempt.
_METRICS = text("""
INSERT INTO job_metrics AS m (job_id, step, tenant_id, attempt, values)
SELECT :job_id, step, :tenant_id, :attempt, values FROM jsonb_to_recordset(:rows) AS r(step bigint, values jsonb)
ON CONFLICT (job_id, step) DO UPDATE SET values = m.values || excluded.values, attempt = excluded.attempt
RETURNING step, values
""")

_LOST = text("""
SELECT id, attempt, driver FROM jobs
WHERE state = 'running' AND driver <> 'children'
  AND lease_expires_at < clock_timestamp() - make_interval(secs => :grace)
ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_OF_OWNERS = text("""
SELECT id, attempt, driver FROM jobs WHERE state = 'running' AND lease_owner = ANY(:ids) ORDER BY id FOR UPDATE
""").bindparams(_IDS)

_OVERDUE = text("""
SELECT id, attempt, state FROM jobs
WHERE state IN ('queued', 'running') AND driver <> 'children'
  AND deadline_at < clock_timestamp() - CASE WHEN state = 'running' THEN make_interval(secs => :grace) ELSE
  '0' END
ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
""")


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return orjson.dumps(rows).decode()


@contextmanager
def fenced(session: Session, job_id: UUID, attempt: int) -> Iterator[None]:
    """Lock the job for the rest of the transaction, if this attempt still owns it: the only way to write its children.

    Raises:
        Fenced: another attempt owns the job, or it has ended; nothing may be written.
    """
    held = session.execute(
        text("SELECT 1 FROM jobs WHERE id = :job_id AND state = 'running' AND attempt = :attempt FOR NO KEY UPDATE"),
        {"job_id": job_id, "attempt": attempt},
    ).scalar()
    if held is None:
        raise Fenced
    yield


def beat(session: Session, beats: Sequence[Beat], *, ttl_s: float) -> dict[UUID, Orders]:
    """Renew the leases of these attempts. A job that is missing from the answer is fenced: its owner must stop."""
    rows = [{"job_id": b.job_id, "attempt": b.attempt, "done": b.done, "total": b.total, "unit": b.unit} for b in beats]
    found = session.execute(_BEAT, {"beats": _json(rows), "ttl": ttl_s}).all()
    return {row.id: Orders(cancel=row.cancel, hold=row.hold) for row in found}


def progress(session: Session, beats: Sequence[Beat]) -> Sequence[Row[Any]]:
    """Write how far these attempts are, with an event each."""
    rows = [{"job_id": b.job_id, "attempt": b.attempt, "done": b.done, "total": b.total, "unit": b.unit} for b in beats]
    return session.execute(_PROGRESS, {"beats": _json(rows)}).all()


def record_lines(session: Session, lines: Sequence[LineRecord]) -> set[UUID]:
    """Record results of lines, each once, and count them as progress. Returns the jobs still owned."""
    rows = [
        {"job_id": r.job_id, "attempt": r.attempt, "line_no": r.line_no, "output": r.output, "error": r.error}
        for r in lines
    ]
    return set(session.execute(_LINES, {"lines": _json(rows)}).scalars())


def end(session: Session, endings: Sequence[Ending], *, retry_base_s: float, retry_max_s: float) -> Sequence[Row[Any]]:
    """End attempts in one statement: state, counters, event, usage, fair share, bell. Stale ones are left out."""
    rows = [
        {
            "job_id": e.job_id,
            "attempt": e.attempt,
            "outcome": e.outcome,
            "error": e.error.model_dump(mode="json") if e.error else None,
            "permanent": e.permanent,
            "retry_after_s": e.retry_after_s,
            **e.usage.model_dump(),
        }
        for e in endings
    ]
    return session.execute(_END, {"endings": _json(rows), "retry_base": retry_base_s, "retry_max": retry_max_s}).all()


def put_metrics(
    session: Session, claim: Claim, figures: Mapping[int, Mapping[str, float]]
) -> dict[int, dict[str, float]]:
    """Write figures of steps over those that are there, value by value; what there is of these steps now.

    The caller holds the fence.
    """
    rows = [{"step": step, "values": dict(values)} for step, values in figures.items()]
    ids = {"job_id": claim.job_id, "tenant_id": claim.tenant_id, "attempt": claim.attempt}
    return {row.step: row.values for row in session.execute(_METRICS, ids | {"rows": _json(rows)})}


def widen(session: Session, claim: Claim, *, devices: int) -> None:
    """Let every further attempt have more devices of the class. The caller holds the fence."""
    session.execute(
        text("UPDATE jobs SET devices = :devices, plan = plan || :plan WHERE id = :id").bindparams(
            bindparam("plan", type_=JSONB)
        ),
        {"id": claim.job_id, "devices": devices, "plan": {"devices": devices}},
    )


def lost(session: Session, *, grace_s: float, limit: int) -> list[Lost]:
    """Attempts whose lease ran out by the database's clock, locked."""
    rows = session.execute(_LOST, {"grace": grace_s, "limit": limit})
    return [Lost(row.id, row.attempt, Driver(row.driver)) for row in rows]


def owned_by(session: Session, owners: Sequence[UUID]) -> list[Lost]:
    """Attempts that these workers hold, locked."""
    rows = session.execute(_OF_OWNERS, {"ids": list(owners)})
    return [Lost(row.id, row.attempt, Driver(row.driver)) for row in rows]


def overdue(session: Session, *, grace_s: float, limit: int) -> list[tuple[UUID, int, str]]:
    """Jobs past their deadline, locked: (job, attempt, state). Running ones get `grace_s` to end by themselves."""
    return [(row.id, row.attempt, row.state) for row in session.execute(_OVERDUE, {"grace": grace_s, "limit": limit})]
