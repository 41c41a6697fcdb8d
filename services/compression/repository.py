"""Columns and rows of calibrations, quantizations and evaluations, in SQL."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import InstrumentedAttribute, Session

from shared.db.models import Artifact, Calibration, CompressionFile, CompressionJob, Evaluation, File

Row = TypeVar("Row", Calibration, Evaluation)


@dataclass(frozen=True)
class Page:
    """Rows, newest first: so many behind `after`, of these models, of this job."""

    limit: int
    after: UUID | None = None
    models: Collection[UUID] | None = None
    job_id: UUID | None = None


def insert(session: Session, job: CompressionJob, file_ids: Iterable[UUID]) -> None:
    """Write the columns of a new job, and the files that it reads."""
    session.add(job)
    session.add_all(
        CompressionFile(job_id=job.job_id, file_id=file_id, tenant_id=job.tenant_id) for file_id in file_ids
    )
    session.flush()


def job(session: Session, tenant_id: UUID, job_id: UUID) -> CompressionJob | None:
    """The columns of a tenant's job; None of one of another kind."""
    query = select(CompressionJob).where(CompressionJob.tenant_id == tenant_id, CompressionJob.job_id == job_id)
    return session.scalar(query.execution_options(populate_existing=True))


def files(session: Session, tenant_id: UUID, job_id: UUID) -> Sequence[File]:
    """The files that a job reads, deleted or not: whoever was accepted may read them."""
    query = select(File).join(CompressionFile, CompressionFile.file_id == File.id)
    mine = query.where(CompressionFile.job_id == job_id, CompressionFile.tenant_id == tenant_id)
    return session.scalars(mine.order_by(File.id)).all()


def finish(session: Session, job_id: UUID, **results: UUID | None) -> None:
    """Write what came of a job: `calibration_id`, `result_model_id`, `artifact_id`, `evaluation_id`."""
    session.execute(update(CompressionJob).where(CompressionJob.job_id == job_id).values(results))


def calibration(session: Session, tenant_id: UUID, id: UUID) -> Calibration | None:
    """A tenant's calibration, by its own id or its artifact's."""
    named = or_(Calibration.id == id, Calibration.artifact_id == id)
    return session.scalar(select(Calibration).where(Calibration.tenant_id == tenant_id, named))


def calibration_by_key(session: Session, tenant_id: UUID, key: str) -> Calibration | None:
    """A tenant's calibration, by what it was made of."""
    return session.scalar(select(Calibration).where(Calibration.tenant_id == tenant_id, Calibration.key == key))


def artifact_of(session: Session, tenant_id: UUID, id: UUID) -> tuple[Calibration, list[dict[str, Any]]]:
    """A tenant's calibration, and the manifest of its artifact."""
    query = select(Calibration, Artifact.manifest).join(Artifact, Artifact.id == Calibration.artifact_id)
    row, manifest = session.execute(query.where(Calibration.tenant_id == tenant_id, Calibration.id == id)).one()
    return row, manifest or []


def add_calibration(session: Session, values: dict[str, Any]) -> Calibration:
    """Write a calibration, or find the one with its key that another job has written meanwhile."""
    written = upsert(Calibration).values(values).on_conflict_do_nothing(index_elements=["tenant_id", "key"])
    session.execute(written)
    found = calibration_by_key(session, values["tenant_id"], values["key"])
    assert found is not None
    return found


def add_evaluation(session: Session, evaluation: Evaluation) -> Evaluation:
    """Write an evaluation."""
    session.add(evaluation)
    session.flush()
    return evaluation


def evaluation(session: Session, tenant_id: UUID, id: UUID) -> Evaluation | None:
    """One of a tenant's evaluations."""
    return session.scalar(select(Evaluation).where(Evaluation.tenant_id == tenant_id, Evaluation.id == id))


def calibrations(session: Session, tenant_id: UUID, page: Page) -> Sequence[Calibration]:
    """A page of a tenant's calibrations; of a job also the one that it found."""
    query = _of_page(select(Calibration).where(Calibration.tenant_id == tenant_id), Calibration.id, page)
    if page.models is not None:
        query = query.where(Calibration.model_id.in_(page.models))
    if page.job_id is not None:
        found = select(CompressionJob.calibration_id).where(CompressionJob.job_id == page.job_id)
        query = query.where(or_(Calibration.job_id == page.job_id, Calibration.id == found.scalar_subquery()))
    return session.scalars(query).all()


def evaluations(session: Session, tenant_id: UUID, page: Page) -> Sequence[Evaluation]:
    """A page of a tenant's evaluations, of models or beside them."""
    query = _of_page(select(Evaluation).where(Evaluation.tenant_id == tenant_id), Evaluation.id, page)
    if page.models is not None:
        query = query.where(or_(Evaluation.model_id.in_(page.models), Evaluation.baseline_id.in_(page.models)))
    if page.job_id is not None:
        query = query.where(Evaluation.job_id == page.job_id)
    return session.scalars(query).all()


def _of_page(query: Select[Row], id: InstrumentedAttribute[UUID], page: Page) -> Select[Row]:
    ordered = query.order_by(id.desc()).limit(page.limit)
    return ordered if page.after is None else ordered.where(id < page.after)
