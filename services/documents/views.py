"""Document sets as they are shown: status, counts, and the records that are there so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy.orm import Session

from services.documents import view_repository
from services.documents.records import Status
from services.jobs import service as job_service
from services.jobs import views
from services.jobs.types import Wanted
from services.jobs.views import View
from shared.contracts.documents import DocumentInput, DocumentResult
from shared.contracts.jobs import JobError, State
from shared.db.models import Job, JobItem
from shared.ids import prefixed

PREFIX = "docset_"
KIND = "document_set"


class SetStatus(StrEnum):
    """Where a document set is: its job's state, seen through its documents."""

    QUEUED = "queued"  #: no document has been begun
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"  #: nothing is left to read; the tables are being written
    COMPLETED = "completed"  #: read to its end; single documents may have failed or be flagged
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Counts:
    """Documents of a set. `completed` and `failed` make up the total when it has ended."""

    total: int
    completed: int = 0  #: with a result, flagged ones among them
    flagged: int = 0
    failed: int = 0  #: that cannot be read; of a set that has ended, also those that nobody got to
    pages: int = 0  #: of the completed ones


@dataclass(frozen=True)
class SetView:
    """A document set and what is shown with it."""

    view: View
    status: SetStatus
    counts: Counts

    @property
    def job(self) -> Job:
        """The parent job that the set is."""
        return self.view.job


@dataclass(frozen=True)
class Record:
    """One document that has been dealt with; `index` is its place in the request's files."""

    index: int
    document: DocumentInput
    result: DocumentResult | None
    error: JobError | None

    @property
    def status(self) -> Status:
        """What became of it."""
        return Status.of(self.result)


def public_id(job_id: UUID) -> str:
    """The id that callers see: `docset_` and 32 hex digits."""
    return prefixed(PREFIX, job_id)


def job_of(session: Session, tenant_id: UUID, set_id: str) -> Job:
    """The job of a set's public id.

    Raises:
        NotFound: the tenant has no set of that id.
    """
    return job_service.parent_of(session, tenant_id, set_id, prefix=PREFIX, kind=KIND)


def one(session: Session, tenant_id: UUID, job_id: UUID) -> SetView:
    """The set of a job that `job_of` or a submit has found."""
    (shown,) = _shown(session, tenant_id, [views.one(session, tenant_id, job_id)])
    return shown


def page(session: Session, tenant_id: UUID, *, limit: int, after: UUID | None = None) -> list[SetView]:
    """Sets, newest first, up to `limit` behind `after`, an id that `job_of` has found."""
    rows = views.page(session, tenant_id, limit=limit, after=after, wanted=Wanted(kinds=[KIND]))
    return _shown(session, tenant_id, rows)


def records(session: Session, tenant_id: UUID, job_id: UUID, *, after: int = -1, limit: int) -> list[Record]:
    """Documents that have been dealt with, in the order of the request, while the set runs too."""
    return [_record(item) for item in view_repository.recorded(session, tenant_id, job_id, after=after, limit=limit)]


def _shown(session: Session, tenant_id: UUID, sets: Sequence[View]) -> list[SetView]:
    counted = {row.parent_id: row for row in view_repository.counts(session, tenant_id, [each.job.id for each in sets])}
    shown = []
    for each in sets:
        row = counted[each.job.id]
        counts = _counts(each, flagged=row.flagged, pages=row.pages)
        shown.append(SetView(each, _status(each, counts, begun=row.begun, ended=row.ended), counts))
    return shown


def _counts(view: View, *, flagged: int, pages: int) -> Counts:
    assert view.family is not None
    total, failed = view.job.progress_total or 0, view.family.failed
    completed = view.family.done - failed
    if State(view.job.state).terminal:
        failed = total - completed
    return Counts(total, completed, flagged, failed, pages)


def _status(view: View, counts: Counts, *, begun: bool, ended: bool) -> SetStatus:
    state = State(view.job.state)
    if state.terminal:
        return SetStatus.COMPLETED if state is State.SUCCEEDED else SetStatus(state.value)
    if view.job.cancel_requested_at is not None:
        return SetStatus.CANCELLING
    if ended or counts.completed + counts.failed == counts.total:
        return SetStatus.FINALIZING
    return SetStatus.IN_PROGRESS if begun else SetStatus.QUEUED


def _record(item: JobItem) -> Record:
    return Record(
        item.line_no,
        DocumentInput.model_validate(item.input),
        None if item.output is None else DocumentResult.model_validate(item.output),
        None if item.error is None else JobError.model_validate(item.error),
    )
