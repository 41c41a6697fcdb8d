"""OpenAI's fine-tuning job: a view of every job of kind `tuning`, whichever route it came by. Nothing here commits."""

from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import repository
from services.jobs import service as jobs
from services.tuning import repository as rows
from shared.contracts.jobs import State
from shared.db.models import Checkpoint, Job
from shared.errors import AlreadyFinished, InvalidCursor, NotFound
from shared.ids import parse_prefixed, prefixed

KIND: Final = "tuning"
JOB: Final = "ftjob-"
CHECKPOINT: Final = "ftckpt_"


def public_id(job_id: UUID) -> str:
    """The id that callers see: `ftjob-` and 32 hex digits."""
    return prefixed(JOB, job_id)


def checkpoint_id(checkpoint: Checkpoint) -> str:
    """The same of a checkpoint: `ftckpt_` and 32 hex digits."""
    return prefixed(CHECKPOINT, checkpoint.id)


def job_of(session: Session, tenant_id: UUID, public: str) -> Job:
    """The job of a public id. One whose base an earlier job has yet to make is none before it is planned.

    Raises:
        NotFound: the tenant has no tuning of that id.
    """
    parsed = parse_prefixed(JOB, public)
    job = None if parsed is None else repository.get(session, tenant_id, parsed)
    if job is None or job.kind != KIND or rows.job(session, tenant_id, job.id) is None:
        raise NotFound("There is no such fine-tuning job.", param="fine_tuning_job_id")
    return job


def cursor(session: Session, tenant_id: UUID, after: str | None) -> UUID | None:
    """The job that a page begins behind.

    Raises:
        InvalidCursor: it names none of the tenant's.
    """
    try:
        return None if after is None else job_of(session, tenant_id, after).id
    except NotFound as error:
        raise InvalidCursor(param="after") from error


def cancel(session: Session, tenant_id: UUID, public: str) -> Job:
    """Stop a tuning; its last checkpoint is kept. One that was cancelled stays as it is.

    Raises:
        NotFound: the tenant has no tuning of that id.
        AlreadyFinished: it has ended by itself.
    """
    job = job_of(session, tenant_id, public)
    if State(job.state).terminal and job.state != State.CANCELLED:
        raise AlreadyFinished("The fine-tuning job has already finished.", param="fine_tuning_job_id")
    return jobs.cancel(session, tenant_id, job.id)


def pause(session: Session, tenant_id: UUID, public: str) -> Job:
    """Hold a tuning: it is put back at its next step, with a checkpoint.

    Raises:
        NotFound: the tenant has no tuning of that id.
        AlreadyFinished: it has ended.
    """
    return jobs.pause(session, tenant_id, job_of(session, tenant_id, public).id)


def resume(session: Session, tenant_id: UUID, public: str) -> Job:
    """Let a held tuning go on from its checkpoint.

    Raises:
        NotFound: the tenant has no tuning of that id.
        AlreadyFinished: it has ended.
    """
    return jobs.resume(session, tenant_id, job_of(session, tenant_id, public).id)
