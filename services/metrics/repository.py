"""What the database knows of queues and models, counted for Prometheus."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from shared.db.models import CLAIMABLE

# Reads the claim's own index: 10,000 waiting jobs take 3 ms.
_QUEUES = text(f"""
SELECT queue, count(*) AS depth,
  EXTRACT(EPOCH FROM clock_timestamp() - min(run_after))::float8 AS oldest_s
FROM (SELECT queue, run_after FROM jobs WHERE {CLAIMABLE} AND run_after <= clock_timestamp() LIMIT :limit) due
GROUP BY queue
""")

_RUNNING = text("SELECT queue, count(*) AS running FROM jobs WHERE state = 'running' GROUP BY queue")

_MODELS = text("""
SELECT digest, name, version, kind FROM models WHERE tenant_id = :tenant_id AND deleted_at IS NULL
ORDER BY created_at DESC, id DESC LIMIT :limit
""")


@dataclass(frozen=True)
class Queue:
    """Jobs of one queue: due and not claimed, the age of the oldest of them, claimed."""

    name: str
    depth: int = 0
    oldest_s: float = 0.0
    running: int = 0


@dataclass(frozen=True)
class Named:
    """A model version by its digest and by its tenant's name for it."""

    digest: str
    name: str
    version: int
    kind: str


def queues(session: Session, *, limit: int) -> list[Queue]:
    """Every queue that has due or running jobs; at most `limit` due jobs are counted in all."""
    due = {row.queue: row for row in session.execute(_QUEUES, {"limit": limit})}
    running = {row.queue: row.running for row in session.execute(_RUNNING)}
    return [
        Queue(
            name,
            depth=due[name].depth if name in due else 0,
            oldest_s=due[name].oldest_s if name in due else 0.0,
            running=running.get(name, 0),
        )
        for name in sorted(due.keys() | running.keys())
    ]


def models(session: Session, tenant_id: UUID, *, limit: int) -> list[Named]:
    """The tenant's newest model versions."""
    rows = session.execute(_MODELS, {"tenant_id": tenant_id, "limit": limit})
    return [Named(row.digest, row.name, row.version, row.kind) for row in rows]
