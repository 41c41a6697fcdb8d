"""Calls in SQL: written already running, in one statement for any number, and their leases renewed in another."""

from collections.abc import Sequence
from uuid import UUID

import orjson
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from services.jobs.types import Placed
from shared.contracts.jobs import Tier
from shared.ids import new_id

_INSERT = text("""
WITH placed AS (
  INSERT INTO jobs (id, tenant_id, kind, spec, gpu_class, queue, tier, priority, devices, plan, planned_gpu_s, driver,
    max_failures, max_lost, progress_unit, state, attempt, event_seq, started_at, lease_owner, lease_id,
    lease_expires_at)
  SELECT id, tenant_id, kind, spec, gpu_class, queue, :tier, priority, devices, plan, 0, 'gateway', 1, 1, 'calls',
    'running', 1, 2, clock_timestamp(), :owner, :lease, clock_timestamp() + make_interval(secs => :ttl)
  FROM jsonb_to_recordset(CAST(:calls AS jsonb)) AS c(
    id uuid, tenant_id uuid, kind text, spec jsonb, gpu_class text, queue text, devices smallint, priority smallint,
    plan jsonb)
  RETURNING id, tenant_id),
attempted AS (
  INSERT INTO attempts (job_id, attempt, tenant_id, worker_id) SELECT id, 1, tenant_id, :owner FROM placed)
INSERT INTO job_events (job_id, seq, tenant_id, type, data)
SELECT id, seq, tenant_id, type, data FROM placed CROSS JOIN (VALUES
  (1, 'job.queued', '{}'::jsonb), (2, 'job.started', jsonb_build_object('attempt', 1, 'gateway_id', :owner))
) AS e(seq, type, data)
""")

_RENEW = text("""
WITH renewed AS (
  UPDATE jobs SET lease_expires_at = clock_timestamp() + make_interval(secs => :ttl)
  WHERE id = ANY(:ids) AND lease_owner = :owner AND state = 'running'
  RETURNING id, cancel_requested_at)
SELECT id FROM renewed WHERE cancel_requested_at IS NOT NULL
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))


def insert(session: Session, calls: Sequence[Placed], *, owner: UUID, ttl_s: float) -> None:
    """Write calls that run, each with its first attempt and events."""
    values = {"calls": orjson.dumps([each.__dict__ for each in calls]).decode(), "owner": owner, "lease": new_id()}
    session.execute(_INSERT, values | {"tier": Tier.INTERACTIVE.rank, "ttl": ttl_s})


def renew(session: Session, owner: UUID, ids: Sequence[UUID], *, ttl_s: float) -> list[UUID]:
    """Renew the leases of these calls of a gateway; the ones that are to be cancelled."""
    return list(session.execute(_RENEW, {"owner": owner, "ids": list(ids), "ttl": ttl_s}).scalars())
