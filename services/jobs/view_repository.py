"""What is read beside a job to show it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

_FAMILIES = text("""
SELECT parent_id, COALESCE(sum(progress_done), 0)::bigint AS done,
  COALESCE(sum(progress_failed), 0)::bigint AS failed, COALESCE(sum(version), 0)::bigint AS version,
  COALESCE(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
  COALESCE(sum(completion_tokens), 0)::bigint AS completion_tokens,
  COALESCE(sum(gpu_seconds), 0) AS gpu_seconds, COALESCE(sum(cost), 0) AS cost, max(updated_at) AS updated_at
FROM jobs WHERE tenant_id = :tenant_id AND parent_id = ANY(:ids) GROUP BY parent_id
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))


def families(session: Session, tenant_id: UUID, parents: Sequence[UUID]) -> Sequence[Row[Any]]:
    """Sums over the children of each of `parents`; parents without any are missing."""
    return session.execute(_FAMILIES, {"tenant_id": tenant_id, "ids": list(parents)}).all()
