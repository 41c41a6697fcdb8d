"""Evaluations of two models, in SQL."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from shared.db.models import Evaluation


def between(session: Session, tenant_id: UUID, first: UUID, second: UUID) -> Evaluation | None:
    """The newest evaluation of one model beside the other, whichever way round."""
    either = or_(
        and_(Evaluation.model_id == second, Evaluation.baseline_id == first),
        and_(Evaluation.model_id == first, Evaluation.baseline_id == second),
    )
    query = select(Evaluation).where(Evaluation.tenant_id == tenant_id, either)
    return session.scalar(query.order_by(Evaluation.id.desc()).limit(1))


def of_model(session: Session, tenant_id: UUID, model_id: UUID, *, limit: int) -> Sequence[Evaluation]:
    """Evaluations that say something of a model, the newest first."""
    either = or_(Evaluation.model_id == model_id, Evaluation.baseline_id == model_id)
    query = select(Evaluation).where(Evaluation.tenant_id == tenant_id, either)
    return session.scalars(query.order_by(Evaluation.id.desc()).limit(limit)).all()
