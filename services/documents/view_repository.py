"""Document sets in SQL, as they are shown."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, and_, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from shared.db.models import Job, JobItem

_COUNTS = text("""
SELECT c.parent_id, bool_or(c.started_at IS NOT NULL) AS begun,
  bool_and(c.state NOT IN ('queued', 'running')) AS ended,
  COALESCE(sum(i.pages), 0)::bigint AS pages, COALESCE(sum(i.flagged), 0)::bigint AS flagged
FROM jobs c LEFT JOIN LATERAL (
  SELECT sum(pages) AS pages, count(*) FILTER (WHERE flagged) AS flagged FROM job_items WHERE job_id = c.id) i ON true
WHERE c.tenant_id = :tenant_id AND c.parent_id = ANY(:ids) GROUP BY c.parent_id
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))


def counts(session: Session, tenant_id: UUID, sets: Sequence[UUID]) -> Sequence[Row[Any]]:
    """What is counted over the documents and the children of each of `sets`, beside what every parent has."""
    return session.execute(_COUNTS, {"tenant_id": tenant_id, "ids": list(sets)}).all()


def recorded(session: Session, tenant_id: UUID, set_id: UUID, *, after: int, limit: int) -> Sequence[JobItem]:
    """Documents of a set that have a result or an error, in the order of the request."""
    # Numbers are sorted first: results are kilobytes wide.
    page = (
        select(JobItem.job_id, JobItem.line_no)
        .join(Job, Job.id == JobItem.job_id)
        .where(Job.tenant_id == tenant_id, Job.parent_id == set_id, JobItem.line_no > after)
        .where(JobItem.status != "pending")
        .order_by(JobItem.line_no)
        .limit(limit)
        .subquery()
    )
    found = and_(JobItem.job_id == page.c.job_id, JobItem.line_no == page.c.line_no)
    return session.scalars(select(JobItem).join(page, found).order_by(JobItem.line_no)).all()
