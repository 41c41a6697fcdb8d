"""Usage in SQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

_TOTALS = text("""
SELECT gpu_class, count(DISTINCT job_id) AS jobs, count(*) AS attempts, sum(prompt_tokens)::bigint AS
prompt_tokens,
  sum(completion_tokens)::bigint AS completion_tokens, sum(gpu_seconds) AS gpu_seconds, sum(cost) AS cost
FROM usage WHERE tenant_id = :tenant_id AND created_at >= :since AND created_at < :until
GROUP BY gpu_class ORDER BY gpu_class
""")


def totals(session: Session, tenant_id: UUID, *, since: datetime, until: datetime) -> Sequence[Row[Any]]:
    """What a tenant's attempts consumed between two times, by GPU class."""
    return session.execute(_TOTALS, {"tenant_id": tenant_id, "since": since, "until": until}).all()
