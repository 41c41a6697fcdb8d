"""What `explain` asks of the database, in the claim's own words."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from services.jobs.queue_repository import DUE

_FACTS = text("""
SELECT EXTRACT(EPOCH FROM j.run_after - clock_timestamp())::float8 AS starts_in_s,
  COALESCE(j.deadline_at <= clock_timestamp(), false) AS overdue,
  (SELECT e.state FROM jobs e WHERE e.id = j.after_job_id) AS earlier,
  t.weight, COALESCE(f.virtual_time, 0) AS virtual_time,
  (SELECT COALESCE(max(s.served_start), 0) FROM fair_shares s
   WHERE s.queue = j.queue AND s.tier = j.tier) AS queue_virtual_time,
  (SELECT count(*) FROM jobs c WHERE c.parent_id = j.id) AS children,
  (SELECT count(*) FROM jobs c WHERE c.parent_id = j.id AND c.finished_at IS NOT NULL) AS children_ended
FROM jobs j JOIN tenants t ON t.id = j.tenant_id
LEFT JOIN fair_shares f ON f.queue = j.queue AND f.tier = j.tier AND f.tenant_id = j.tenant_id
WHERE j.id = :job_id
""")

_DUE_BY_TIER = text(f"SELECT tier, count(*) AS due FROM jobs WHERE {DUE} AND queue = :queue GROUP BY tier")


def facts(session: Session, job_id: UUID) -> Row[Any]:
    """Times by the database's clock, the tenant's share, and how far a parent's children are."""
    return session.execute(_FACTS, {"job_id": job_id}).one()


def due_by_tier(session: Session, queue: str) -> dict[int, int]:
    """Due jobs of a queue, by tier rank; tiers without any are missing."""
    return {row.tier: row.due for row in session.execute(_DUE_BY_TIER, {"queue": queue})}
