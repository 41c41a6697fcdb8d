"""Models in SQL."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from shared.db.models import Model

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def latest(session: Session, tenant_id: UUID, name: str) -> Model | None:
    """The newest version of a tenant's model."""
    query = select(Model).where(Model.tenant_id == tenant_id, Model.name == name)
    return session.scalar(query.order_by(Model.version.desc()).limit(1))


def get(session: Session, tenant_id: UUID, id: UUID) -> Model | None:
    """One version of a tenant's models."""
    return session.scalar(select(Model).where(Model.tenant_id == tenant_id, Model.id == id))


def of_digest(session: Session, tenant_id: UUID, name: str, digest: str) -> Model | None:
    """The version of a tenant's model that has this content."""
    query = select(Model).where(Model.tenant_id == tenant_id, Model.name == name, Model.digest == digest)
    return session.scalar(query.order_by(Model.version.desc()).limit(1))


def page(session: Session, tenant_id: UUID, *, limit: int) -> Sequence[Model]:
    """The newest version of each of a tenant's models, by name."""
    query = select(Model).where(Model.tenant_id == tenant_id).ext(distinct_on(Model.name))
    return session.scalars(query.order_by(Model.name, Model.version.desc()).limit(limit)).all()


def add(session: Session, model: Model) -> Model:
    """Write the next version of a model; the lock orders those who do it at once."""
    session.execute(_LOCK, {"name": f"{model.tenant_id}/{model.name}"})
    same = of_digest(session, model.tenant_id, model.name, model.digest)
    if same is not None:
        return same
    newest = select(func.coalesce(func.max(Model.version), 0)).where(
        Model.tenant_id == model.tenant_id, Model.name == model.name
    )
    model.version = session.execute(newest).scalar_one() + 1
    session.add(model)
    session.flush()
    session.refresh(model)
    return model
