"""Documents of a set in SQL, as the courier merges them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

# The numbers of a family's lines have no gaps, so a page is a range of them: each child is asked by its primary key.
_DOCUMENTS = text("""
SELECT i.line_no, i.input, i.output, i.error, j.state AS child_state, j.error AS child_error
FROM jobs j JOIN job_items i ON i.job_id = j.id AND i.line_no >= :first AND i.line_no < :first + :count
WHERE j.tenant_id = :tenant_id AND j.parent_id = :set_id ORDER BY i.line_no
""")

_COST = text("SELECT COALESCE(sum(cost), 0) FROM jobs WHERE tenant_id = :tenant_id AND parent_id = :set_id")


def documents(session: Session, tenant_id: UUID, set_id: UUID, *, first: int, count: int) -> Sequence[Row[Any]]:
    """Documents `first` to `first + count` of a set, each with what became of it and of the job that read it."""
    values = {"tenant_id": tenant_id, "set_id": set_id, "first": first, "count": count}
    return session.execute(_DOCUMENTS, values).all()


def cost(session: Session, tenant_id: UUID, set_id: UUID) -> float:
    """What the set's children have cost so far."""
    return float(session.execute(_COST, {"tenant_id": tenant_id, "set_id": set_id}).scalar_one())
