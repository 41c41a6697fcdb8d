"""Workers and engines in SQL. Alive is decided by the database's clock."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from services.workers import engine_repository
from services.workers.types import Boot, Capacity
from shared.db.models import Worker

# of `workers w`
LIVE = "w.stopped_at IS NULL AND w.last_seen_at > clock_timestamp() - make_interval(secs => :live_s)"

_BEAT = text("""
UPDATE workers SET last_seen_at = clock_timestamp(), slots = :slots, draining = :draining,
  last_bell_at = COALESCE(clock_timestamp() - make_interval(secs => :bell_age_s), last_bell_at)
WHERE id = :id AND stopped_at IS NULL RETURNING id
""")

_SEEN = text(f"""
SELECT w.*, {LIVE} AS live FROM workers w
WHERE w.stopped_at IS NULL OR w.stopped_at > clock_timestamp() - make_interval(secs => :recent_s)
ORDER BY w.stopped_at IS NOT NULL, w.started_at DESC LIMIT :limit
""")

_LIVE_QUEUES = text(f"SELECT DISTINCT unnest(queues) FROM workers w WHERE {LIVE} AND NOT draining")

# slots: {"serve": {"free": 1, "total": 2}, …}; a queue's pool is what follows its last dot
_CAPACITY = text(f"""
SELECT queue, count(*) AS workers, count(*) FILTER (WHERE NOT draining) AS accepting,
  count(*) FILTER (WHERE NOT draining AND free > 0) AS ready,
  COALESCE(sum(free) FILTER (WHERE NOT draining), 0) AS free
FROM (SELECT draining, queue,
        COALESCE((slots -> substring(queue FROM '[^.]*$') ->> 'free')::int, 0) AS free
      FROM workers w CROSS JOIN LATERAL unnest(queues) AS queue WHERE {LIVE}) q
WHERE queue = ANY(:queues) GROUP BY queue
""").bindparams(bindparam("queues", type_=ARRAY(Text)))

_WIDEST = text(f"""
SELECT COALESCE(max((slots -> substring(:queue FROM '[^.]*$') ->> 'total')::int), 0)
FROM workers w WHERE :queue = ANY(queues) AND NOT draining AND {LIVE}
""")

_STOP_SILENT = text("""
UPDATE workers SET stopped_at = clock_timestamp()
WHERE stopped_at IS NULL AND last_seen_at < clock_timestamp() - make_interval(secs => :silent_s) RETURNING id
""")

_CONTROL_DUE = text("""
SELECT (SELECT count(*) FROM (SELECT 1 FROM control_tasks
          WHERE available_at <= clock_timestamp() AND COALESCE(lease_expires_at <= clock_timestamp(), true)
          LIMIT :limit) t)
     + (SELECT count(*) FROM (SELECT 1 FROM webhook_deliveries
          WHERE state = 'pending' AND next_at <= clock_timestamp()
            AND COALESCE(lease_expires_at <= clock_timestamp(), true)
          LIMIT :limit) w)
""")


def insert_worker(session: Session, boot: Boot, *, queues: Sequence[str], slots: Mapping[str, Any]) -> None:
    """Write a worker's row; the same boot may register again (its first answer was lost)."""
    values = {
        "id": boot.id,
        "host": boot.host,
        "pid": boot.pid,
        "gpu_class": boot.gpu_class,
        "queues": list(queues),
        "devices": list(boot.devices),
        "versions": dict(boot.versions),
        "gpu_model": boot.gpu.model if boot.gpu else None,
        "gpu_memory_bytes": boot.gpu.memory_bytes if boot.gpu else None,
        "slots": dict(slots),
    }
    session.execute(insert(Worker).values(values).on_conflict_do_nothing())


def beat(session: Session, worker_id: UUID, *, slots: str, draining: bool, bell_age_s: float | None) -> bool:
    """Note that a worker is alive; False when its row is stopped or gone."""
    values = {"id": worker_id, "slots": slots, "draining": draining, "bell_age_s": bell_age_s}
    return session.execute(_BEAT, values).scalar() is not None


def stop(session: Session, worker_id: UUID) -> None:
    """Note that a worker has ended, and forget its engines."""
    session.execute(
        text("UPDATE workers SET stopped_at = clock_timestamp() WHERE id = :id AND stopped_at IS NULL"),
        {"id": worker_id},
    )
    engine_repository.forget(session, [worker_id])


def stop_silent(session: Session, *, silent_s: float) -> list[UUID]:
    """Note the end of workers that have not been heard of for `silent_s`, and forget their engines."""
    gone = list(session.execute(_STOP_SILENT, {"silent_s": silent_s}).scalars())
    if gone:
        engine_repository.forget(session, gone)
    return gone


def seen(session: Session, *, live_s: float, recent_s: float, limit: int) -> Sequence[Row[Any]]:
    """Workers that run or stopped in the last `recent_s`, running ones first, youngest first."""
    return session.execute(_SEEN, {"live_s": live_s, "recent_s": recent_s, "limit": limit}).all()


def live_queues(session: Session, *, live_s: float) -> frozenset[str]:
    """Queues that a live worker serves and accepts work for."""
    return frozenset(session.execute(_LIVE_QUEUES, {"live_s": live_s}).scalars())


def capacity(session: Session, queues: Sequence[str], *, live_s: float) -> dict[str, Capacity]:
    """What the live workers of these queues can take. A queue without any is missing."""
    rows = session.execute(_CAPACITY, {"queues": list(queues), "live_s": live_s}).all()
    return {row.queue: Capacity(row.workers, row.accepting, row.ready, int(row.free)) for row in rows}


def widest(session: Session, queue: str, *, live_s: float) -> int:
    """Slots of the live worker that has most of them for a queue; 0 where there is none."""
    return int(session.execute(_WIDEST, {"queue": queue, "live_s": live_s}).scalar_one())


def control_due(session: Session, *, limit: int) -> int:
    """What the courier could take now: control tasks and webhook deliveries, each counted up to `limit`."""
    return int(session.execute(_CONTROL_DUE, {"limit": limit}).scalar_one())
