"""Replicas and demands in SQL. Fresh, live and recent are decided by the database's clock."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from services.placement.types import Demand
from shared.contracts.jobs import JobError

# of `workers w`
_LIVE = "w.stopped_at IS NULL AND w.last_seen_at > clock_timestamp() - make_interval(secs => :live_s)"
_RECENT = "clock_timestamp() - make_interval(secs => :told_s)"
# `busy` is a ready engine with work
_ADMITS = "e.state IN ('ready', 'busy')"

_REPLICAS = text(f"""
SELECT e.id, e.worker_id, w.host, w.gpu_class, e.model_digest AS digest, e.kind, e.address, e.devices, e.modes,
  e.max_in_flight, e.adapters, e.token, e.stats
FROM engines e JOIN workers w ON w.id = e.worker_id
WHERE {_LIVE} AND {_ADMITS} AND (CAST(:digest AS text) IS NULL OR e.model_digest = :digest)
  AND (CAST(:mode AS text) IS NULL OR :mode = ANY(e.modes))
ORDER BY e.id
""")

_WANT = text(f"""
WITH wanted AS (
  INSERT INTO demands AS d (queue, model_id, mode, tenant_id, devices)
  VALUES (:queue, :model_id, :mode, :tenant_id, :devices)
  ON CONFLICT (queue, model_id, mode) DO UPDATE SET wanted_at = clock_timestamp(), devices = excluded.devices,
    error = CASE WHEN d.failed_at > {_RECENT} THEN d.error END,
    failed_at = CASE WHEN d.failed_at > {_RECENT} THEN d.failed_at END
  RETURNING error)
SELECT error, pg_notify('demands', :queue) FROM wanted
""")

# An adapter goes to a worker that has its base, if there is one: another would load the base a second time.
_CLAIM = text(f"""
WITH chosen AS (
  SELECT d.queue, d.model_id, d.mode FROM demands d
  JOIN models m ON m.id = d.model_id LEFT JOIN models b ON b.id = m.base_id
  CROSS JOIN LATERAL (
    SELECT COALESCE(bool_or(e.state = 'starting' OR {_ADMITS} AND (b.id IS NULL OR m.digest = ANY(e.adapters))), false)
        AS served,
      b.id IS NULL OR COALESCE(bool_or(e.worker_id = :worker_id), true) AS ours
    FROM engines e JOIN workers w ON w.id = e.worker_id
    WHERE {_LIVE} AND e.model_digest = COALESCE(b.digest, m.digest) AND d.mode = ANY(e.modes)
      AND (e.state = 'starting' OR {_ADMITS})) engine
  WHERE d.queue = :queue AND d.wanted_at > clock_timestamp() - make_interval(secs => :fresh_s)
    AND (d.failed_at IS NULL OR d.failed_at <= {_RECENT})
    AND (d.claimed_by IS NULL OR d.claimed_until <= clock_timestamp()
         OR NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = d.claimed_by AND {_LIVE}))
    AND NOT engine.served AND engine.ours
  ORDER BY d.wanted_at LIMIT :limit FOR UPDATE OF d SKIP LOCKED)
UPDATE demands d SET claimed_by = :worker_id, claimed_until = clock_timestamp() + make_interval(secs => :claim_s),
  error = NULL, failed_at = NULL
FROM chosen c WHERE (d.queue, d.model_id, d.mode) = (c.queue, c.model_id, c.mode)
RETURNING d.tenant_id, d.model_id, d.mode, d.queue, d.devices
""")

_NAMED = "queue = :queue AND model_id = :model_id AND mode = :mode"
# whoever waits in a gateway listens for the digest that requests are sent to
_TELL = """SELECT pg_notify('engines', COALESCE(b.digest, m.digest))
FROM models m LEFT JOIN models b ON b.id = m.base_id WHERE m.id = :model_id"""

_REFUSE = text(f"""
WITH refused AS (
  UPDATE demands SET error = CAST(:error AS jsonb), failed_at = clock_timestamp(), claimed_by = NULL,
    claimed_until = NULL
  WHERE {_NAMED})
{_TELL}
""")

_SETTLE = text(f"WITH settled AS (DELETE FROM demands WHERE {_NAMED}) {_TELL}")


def replicas(session: Session, *, live_s: float, digest: str | None, mode: str | None) -> Sequence[Row[Any]]:
    """Engines of live workers that admit requests, oldest first."""
    return session.execute(_REPLICAS, {"live_s": live_s, "digest": digest, "mode": mode}).all()


def want(session: Session, demand: Demand, *, told_s: float) -> dict[str, Any] | None:
    """Write or refresh a demand and wake its queue's workers; the error that a worker recorded lately."""
    error: dict[str, Any] | None = session.execute(_WANT, _named(demand) | {
        "tenant_id": demand.tenant_id, "devices": demand.devices, "told_s": told_s,
    }).one().error  # fmt: skip
    return error


def claim(
    session: Session,
    worker_id: UUID,
    *,
    queue: str,
    limit: int,
    fresh_s: float,
    told_s: float,
    claim_s: float,
    live_s: float,
) -> Sequence[Row[Any]]:
    """Take fresh demands that no engine serves and nobody is working on."""
    values = {"worker_id": worker_id, "queue": queue, "limit": limit, "live_s": live_s}
    return session.execute(_CLAIM, values | {"fresh_s": fresh_s, "told_s": told_s, "claim_s": claim_s}).all()


def refuse(session: Session, demand: Demand, *, error: JobError) -> None:
    """Record why a demand was not met, and wake its callers."""
    session.execute(_REFUSE, _named(demand) | {"error": error.model_dump_json()})


def settle(session: Session, demand: Demand) -> None:
    """Forget a demand that is met, and wake its callers."""
    session.execute(_SETTLE, _named(demand))


def _named(demand: Demand) -> dict[str, Any]:
    return {"queue": demand.queue, "model_id": demand.model_id, "mode": demand.mode.value}
