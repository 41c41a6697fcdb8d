"""The queue in SQL: the order of claiming, the claim itself, what is due.

One statement claims many jobs: the tenant of least virtual time first (start-time fair queueing), then
priority, deadline and age inside a tenant. Rows are locked with SKIP LOCKED, so claimers never wait for one
another; the first `limit` jobs belong to at most `limit` tenants, so no more shares than that are locked.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from services.jobs.types import Claim
from shared.db.models import CLAIMABLE
from shared.ids import new_id

DUE = f"""{CLAIMABLE} AND run_after <= clock_timestamp() AND cancel_requested_at IS NULL
           AND (deadline_at IS NULL OR deadline_at > clock_timestamp())"""
_SHARES = f"""
  SELECT f.tier, f.tenant_id, t.weight, GREATEST(f.virtual_time, v.served) AS start
  FROM fair_shares f
  JOIN tenants t ON t.id = f.tenant_id
  CROSS JOIN LATERAL (
    SELECT COALESCE(max(served_start), 0) AS served FROM fair_shares s WHERE s.queue = f.queue AND s.tier = f.tier
  ) v
  WHERE f.queue = :queue AND EXISTS (
    SELECT 1 FROM jobs WHERE {DUE} AND queue = f.queue AND tier = f.tier AND tenant_id = f.tenant_id
      AND devices <= :devices)
  ORDER BY f.tier, GREATEST(f.virtual_time, v.served), f.tenant_id"""
# requests that a job can hold in an engine at once: its unfinished lines
_WIDTH = "CASE WHEN progress_unit = 'lines' THEN GREATEST(1, progress_total - progress_done) ELSE 1 END"
_FIRST = f"""
  SELECT id, planned_gpu_s, priority, deadline_at, COALESCE({_WIDTH}, 1) AS width FROM jobs
  WHERE {DUE} AND queue = :queue AND tier = s.tier AND tenant_id = s.tenant_id AND devices <= :devices
  ORDER BY priority DESC, deadline_at, id"""
_RANKED = """
  SELECT d.*, start + COALESCE(sum(planned_gpu_s / weight) OVER (
      PARTITION BY tier, tenant_id ORDER BY priority DESC, deadline_at, id
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS start_tag
  FROM due d"""
_ORDER = "tier, start_tag, tenant_id, priority DESC, deadline_at, id"  # ties go as shares do, however few are taken

_CLAIM = text(f"""
WITH shares AS MATERIALIZED ({_SHARES} LIMIT :limit FOR UPDATE OF f SKIP LOCKED),
due AS MATERIALIZED (
  SELECT s.tier, s.tenant_id, s.weight, s.start, j.* FROM shares s
  CROSS JOIN LATERAL ({_FIRST} LIMIT :limit FOR UPDATE SKIP LOCKED) j),
ranked AS ({_RANKED}),
placed AS (
  SELECT *, row_number() OVER (ORDER BY {_ORDER}) AS place,
    COALESCE(sum(width) OVER (ORDER BY {_ORDER} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS ahead
  FROM ranked),
chosen AS (SELECT * FROM placed WHERE ahead < :limit),
claimed AS (
  UPDATE jobs j SET state = 'running', attempt = j.attempt + 1, lease_owner = :worker, lease_id = :lease,
    lease_expires_at = clock_timestamp() + make_interval(secs => :ttl),
    started_at = COALESCE(j.started_at, clock_timestamp()), event_seq = j.event_seq + 1,
    progress_mark = GREATEST(j.progress_mark, j.progress_done)
  -- by id: joining the guessed number of chosen rows would read the whole table
  FROM chosen c WHERE j.id = c.id AND j.id = ANY(ARRAY(SELECT id FROM chosen))
  RETURNING j.*, c.place, c.width),
attempted AS (
  INSERT INTO attempts (job_id, attempt, tenant_id, worker_id)
  SELECT id, attempt, tenant_id, :worker FROM claimed),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type, data)
  SELECT id, event_seq, tenant_id, 'job.started', jsonb_build_object('attempt', attempt, 'worker_id', :worker)
  FROM claimed),
served AS (
  UPDATE fair_shares f SET virtual_time = c.finish, served_start = GREATEST(f.served_start, c.last)
  FROM (SELECT tier, tenant_id, max(start_tag + planned_gpu_s / weight) AS finish, max(start_tag) AS last
        FROM chosen GROUP BY tier, tenant_id) c
  WHERE f.queue = :queue AND f.tier = c.tier AND f.tenant_id = c.tenant_id)
SELECT id, tenant_id, kind, spec, queue, gpu_class, tier, devices, plan, attempt, lease_id, parent_id, checkpoint_id,
  progress_done, progress_total, width, max_runtime_s, webhook IS NOT NULL AS watched, event_seq,
  EXTRACT(EPOCH FROM deadline_at - clock_timestamp())::float8 AS seconds_left
FROM claimed ORDER BY place
""")

_POSITION = text(f"""
WITH shares AS MATERIALIZED ({_SHARES}),
due AS MATERIALIZED (
  SELECT s.tier, s.tenant_id, s.weight, s.start, j.* FROM shares s CROSS JOIN LATERAL ({_FIRST}) j),
ranked AS ({_RANKED}),
placed AS (SELECT id, row_number() OVER (ORDER BY {_ORDER}) AS place FROM ranked)
SELECT place FROM placed WHERE id = :job_id
""")

_DUE_COUNTS = text(f"""
SELECT q.queue, (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {DUE} AND queue = q.queue LIMIT :limit) d) AS due
FROM unnest(:queues) AS q(queue)
""").bindparams(bindparam("queues", type_=ARRAY(Text)))


def claim(
    session: Session, queue: str, *, worker_id: UUID, limit: int, ttl_s: float, devices: int = 1
) -> tuple[list[Claim], list[UUID]]:
    """Take due jobs of `queue` that need at most `devices` devices, in claim order, until `limit` places are full.

    A job fills one place for each line that it has left, so a claim for a whole engine takes 64 small jobs or
    one large one, and leaves the other large ones to other workers.

    Returns the claims, and the ids of those with a webhook.
    """
    rows = session.execute(
        _CLAIM,
        {
            "queue": queue,
            "worker": worker_id,
            "lease": new_id(),
            "limit": limit,
            "ttl": ttl_s,
            "devices": devices,
        },
    ).all()
    claims = [
        Claim(
            job_id=row.id,
            tenant_id=row.tenant_id,
            kind=row.kind,
            spec=row.spec,
            queue=row.queue,
            gpu_class=row.gpu_class,
            tier=row.tier,
            devices=row.devices,
            plan=row.plan,
            attempt=row.attempt,
            lease_id=row.lease_id,
            parent_id=row.parent_id,
            checkpoint_id=row.checkpoint_id,
            progress_done=row.progress_done,
            progress_total=row.progress_total,
            seconds_left=row.seconds_left,
            max_runtime_s=row.max_runtime_s,
            width=row.width,
        )
        for row in rows
    ]
    return claims, [row.id for row in rows if row.watched]


def position(session: Session, job_id: UUID, *, queue: str, devices: int = 1_000_000) -> int | None:
    """The 1-based place of a due job in the claim's own order; None when it is not due."""
    found = session.execute(_POSITION, {"queue": queue, "job_id": job_id, "devices": devices}).scalar()
    return None if found is None else int(found)


def due_counts(session: Session, queues: Sequence[str], *, limit: int) -> dict[str, int]:
    """Due jobs of each queue, counted up to `limit` (so the cost is bounded whatever the backlog)."""
    rows = session.execute(_DUE_COUNTS, {"queues": list(queues), "limit": limit}).all()
    return {row.queue: row.due for row in rows}


def take_bells(session: Session, *, limit: int) -> dict[int, str]:
    """Outbox rows that are due: id → queue. They stay until `forget_bells`, so a crash rings twice, never nonce."""
    rows = session.execute(
        text("SELECT id, queue FROM outbox WHERE available_at <= clock_timestamp() ORDER BY id LIMIT :limit"),
        {"limit": limit},
    ).all()
    return {row.id: row.queue for row in rows}


def forget_bells(session: Session, ids: Sequence[int]) -> None:
    """Delete outbox rows whose bells were rung."""
    session.execute(text("DELETE FROM outbox WHERE id = ANY(:ids)"), {"ids": list(ids)})


def next_bell_in(session: Session) -> float | None:
    """Seconds until the next outbox row is due (0 when one is); None when there is none."""
    seconds = session.execute(
        text("SELECT EXTRACT(EPOCH FROM min(available_at) - clock_timestamp())::float8 FROM outbox")
    ).scalar()
    return None if seconds is None else max(0.0, float(seconds))
