"""Replicas and demands in SQL. Fresh, live and recent are decided by the database's clock."""

from collections.abc import Collection, Sequence
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
    ahead = false,
    error = CASE WHEN d.failed_at > {_RECENT} THEN d.error END,
    failed_at = CASE WHEN d.failed_at > {_RECENT} THEN d.failed_at END
  RETURNING error)
SELECT error, pg_notify('demands', :queue) FROM wanted
""")

# Unless an engine serves it, or starts to. A demand of callers stays theirs for as long as they repeat it.
_FORESEE = text(f"""
WITH wanted AS (
  INSERT INTO demands AS d (queue, model_id, mode, tenant_id, devices, ahead)
  SELECT :queue, :model_id, :mode, :tenant_id, :devices, true
  WHERE NOT EXISTS (
    SELECT 1 FROM engines e JOIN workers w ON w.id = e.worker_id
    WHERE {_LIVE} AND e.model_digest = :digest AND :mode = ANY(e.modes) AND (e.state = 'starting' OR {_ADMITS}))
  ON CONFLICT (queue, model_id, mode) DO UPDATE SET wanted_at = clock_timestamp(), devices = excluded.devices,
    ahead = d.ahead OR d.wanted_at <= clock_timestamp() - make_interval(secs => :fresh_s),
    error = CASE WHEN d.failed_at > {_RECENT} THEN d.error END,
    failed_at = CASE WHEN d.failed_at > {_RECENT} THEN d.failed_at END
  RETURNING 1)
SELECT pg_notify('demands', :queue) FROM wanted
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
RETURNING d.tenant_id, d.model_id, d.mode, d.queue, d.devices, d.ahead
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

# callers may have come since it was claimed: then it is theirs, for any worker
_DROP = text(f"""
WITH dropped AS (DELETE FROM demands WHERE {_NAMED} AND ahead),
  freed AS (
    UPDATE demands SET claimed_by = NULL, claimed_until = NULL WHERE {_NAMED} AND NOT ahead RETURNING queue)
SELECT pg_notify('demands', queue) FROM freed
""")

# The newest version of a name, and older ones that a checkpoint or an alias names. What two tenants have is one.
_WISHES = text("""
SELECT base, digest, tenant_id, id, rank FROM (
  SELECT *, row_number() OVER (PARTITION BY base ORDER BY created_at DESC, id DESC) AS place FROM (
    SELECT DISTINCT ON (b.digest, m.digest) b.digest AS base, m.digest, m.tenant_id, m.id, m.created_at,
      (m.config ->> 'r')::int AS rank
    FROM models m JOIN models b ON b.id = m.base_id
    WHERE b.digest = ANY(:bases) AND m.deleted_at IS NULL AND COALESCE(m.source ->> 'serve', 'true') <> 'false'
      AND (NOT EXISTS (SELECT 1 FROM models n WHERE n.tenant_id = m.tenant_id AND n.name = m.name
                         AND n.version > m.version AND n.deleted_at IS NULL)
           OR EXISTS (SELECT 1 FROM checkpoints c WHERE c.model_id = m.id)
           OR EXISTS (SELECT 1 FROM model_aliases a WHERE a.model_id = m.id))
    ORDER BY b.digest, m.digest, m.created_at DESC) each_once) ranked
WHERE place <= :limit ORDER BY base, place
""")

_LARGEST_RANK = text("""
SELECT max((m.config ->> 'r')::int) FROM models m JOIN models b ON b.id = m.base_id
WHERE b.digest = :base AND m.deleted_at IS NULL
""")

_LIVING = text("""
SELECT DISTINCT b.digest AS base, m.digest FROM models m JOIN models b ON b.id = m.base_id
WHERE b.digest = ANY(:bases) AND m.digest = ANY(:digests) AND m.deleted_at IS NULL
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


def foresee(session: Session, demand: Demand, *, digest: str, live_s: float, fresh_s: float, told_s: float) -> bool:
    """Write a demand that nobody waits for, unless an engine of `digest` is there; whether it was written."""
    values = _named(demand) | {"tenant_id": demand.tenant_id, "devices": demand.devices, "digest": digest}
    return bool(session.execute(_FORESEE, values | {"live_s": live_s, "fresh_s": fresh_s, "told_s": told_s}).all())


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


def drop(session: Session, demand: Demand) -> None:
    """Give up a demand that nobody waits for; one that callers share by now is free for any worker."""
    session.execute(_DROP, _named(demand))


def wishes(session: Session, bases: Collection[str], *, limit: int) -> Sequence[Row[Any]]:
    """Adapters that engines of these bases should have loaded: at most `limit` of each base, the newest first."""
    return session.execute(_WISHES, {"bases": list(bases), "limit": limit}).all()


def largest_rank(session: Session, base: str) -> int | None:
    """Of the adapters that any tenant has for a base."""
    rank: int | None = session.execute(_LARGEST_RANK, {"base": base}).scalar_one()
    return rank


def living(session: Session, bases: Collection[str], digests: Collection[str]) -> set[tuple[str, str]]:
    """(base, adapter) of these adapters that some tenant still has."""
    rows = session.execute(_LIVING, {"bases": list(bases), "digests": list(digests)})
    return {(row.base, row.digest) for row in rows}


def settle(session: Session, demand: Demand) -> None:
    """Forget a demand that is met, and wake its callers."""
    session.execute(_SETTLE, _named(demand))


def _named(demand: Demand) -> dict[str, Any]:
    return {"queue": demand.queue, "model_id": demand.model_id, "mode": demand.mode.value}
