"""Batches as they are shown: OpenAI's status and counts, seen through the job's."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from services.batches import repository
from services.batches.service import KIND
from services.jobs import views
from services.jobs.types import Wanted
from services.jobs.views import View
from shared.contracts.batches import BatchStatus
from shared.contracts.jobs import State
from shared.db.models import BatchJob, Job


@dataclass(frozen=True)
class Counts:
    """Lines of a batch. When it has ended, `completed` and `failed` make up the total."""

    total: int
    completed: int
    failed: int


@dataclass(frozen=True)
class BatchView:
    """A batch and what is shown with it."""

    view: View
    row: BatchJob

    @property
    def job(self) -> Job:
        """The parent job that the batch is."""
        return self.view.job

    @property
    def status(self) -> BatchStatus:
        """Where the batch is."""
        match State(self.job.state):
            case State.QUEUED:
                return BatchStatus.VALIDATING
            case State.RUNNING if self.job.cancel_requested_at is not None:
                return BatchStatus.CANCELLING
            case State.RUNNING:
                return BatchStatus.IN_PROGRESS if self.row.finalizing_at is None else BatchStatus.FINALIZING
            case State.SUCCEEDED:
                return BatchStatus.COMPLETED
            case ended:
                return BatchStatus(ended.value)

    @property
    def counts(self) -> Counts:
        """What became of the lines so far; lines that nobody ran have failed when the batch has ended."""
        family = self.view.family
        if self.row.ended_at is not None or family is None:
            return Counts(self.row.total, self.row.completed, self.row.failed)
        return Counts(self.row.total, family.done - family.failed, family.failed)


def one(session: Session, tenant_id: UUID, job_id: UUID) -> BatchView:
    """The batch of a job that `service.job_of` or a submit has found."""
    (shown,) = _shown(session, tenant_id, [views.one(session, tenant_id, job_id)])
    return shown


def page(session: Session, tenant_id: UUID, *, limit: int, after: UUID | None = None) -> list[BatchView]:
    """Batches, newest first, up to `limit` behind `after`, an id that `service.job_of` has found."""
    rows = views.page(session, tenant_id, limit=limit, after=after, wanted=Wanted(kinds=[KIND]))
    return _shown(session, tenant_id, rows)


def _shown(session: Session, tenant_id: UUID, found: Sequence[View]) -> list[BatchView]:
    rows = repository.of_jobs(session, tenant_id, [each.job.id for each in found])
    return [BatchView(each, rows[each.job.id]) for each in found]
