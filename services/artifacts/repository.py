"""Artifacts in SQL."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.db.models import Artifact


def add(session: Session, artifact: Artifact) -> Artifact:
    """Write an artifact of a running attempt; a trigger refuses it for any other."""
    session.add(artifact)
    session.flush()
    return artifact


def get(session: Session, tenant_id: UUID, id: UUID) -> Artifact | None:
    """One of a tenant's artifacts."""
    return session.scalar(select(Artifact).where(Artifact.tenant_id == tenant_id, Artifact.id == id))


def of_job(session: Session, tenant_id: UUID, job_id: UUID) -> Sequence[Artifact]:
    """A job's artifacts, in their order."""
    query = select(Artifact).where(Artifact.tenant_id == tenant_id, Artifact.job_id == job_id)
    return session.scalars(query.order_by(Artifact.position, Artifact.name)).all()
