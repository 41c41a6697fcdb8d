"""What a job has come to, told alike for every kind that leaves more than artifacts."""

from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import service
from services.jobs.kinds import Result, kind
from shared.contracts.jobs import State
from shared.errors import NotFound


class NoResult(NotFound):
    """The job has no result: it has not ended yet, or its kind has its results elsewhere."""

    code = "no_result"


def of_job(session: Session, tenant_id: UUID, job_id: UUID) -> Result:
    """What came of a job.

    Raises:
        NotFound: the tenant has no such job.
        NoResult: it has not ended, or is of a kind that has no such result.
    """
    job = service.get(session, tenant_id, job_id)
    find = kind(job.kind).result
    found = find(session, job) if find else None
    if found is None:
        raise NoResult(f"A job of kind {job.kind} has no such result.", param="job_id")
    if not State(job.state).terminal:
        raise NoResult("The job has not ended yet.", param="job_id")
    return found
