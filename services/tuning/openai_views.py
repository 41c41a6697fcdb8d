"""Tunings as OpenAI shows them: status, hyperparameters, model names and checkpoints, seen through the job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import views
from services.jobs.views import View
from services.tuning import openai_jobs, openai_repository
from services.tuning.inputs import LEARNING_RATES
from shared.contracts.evaluation import FileSource, Source
from shared.contracts.jobs import State
from shared.contracts.tuning import Auto, TuningFigures, TuningSpec
from shared.db.models import Checkpoint, Job, Model, TuningJob
from shared.errors import InvalidCursor
from shared.ids import parse_prefixed


class Status(StrEnum):
    """Where a fine-tuning job is. One that is paused is queued, and says so beside."""

    VALIDATING_FILES = "validating_files"  #: a worker reads its files
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Hyperparameters:
    """What OpenAI calls so; `auto` is what nobody has decided yet."""

    batch_size: int | Auto
    learning_rate_multiplier: float
    n_epochs: int | float | Auto


@dataclass(frozen=True)
class FineTuneView:
    """A tuning and what is shown with it."""

    view: View
    row: TuningJob
    spec: TuningSpec
    model: str | None  #: what was made answers as

    @property
    def job(self) -> Job:
        """The job that it is."""
        return self.view.job

    @property
    def status(self) -> Status:
        """Where it is. A worker begins with the files, whose samples are counted before steps are."""
        match State(self.job.state):
            case State.QUEUED:
                return Status.QUEUED
            case State.RUNNING if self.job.progress_unit != "steps" or not self.job.progress_done:
                return Status.VALIDATING_FILES
            case State.EXPIRED:
                return Status.FAILED
            case other:
                return Status(other.value)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """As they were asked for, and as they turned out where that was open."""
        training, found = self.spec.training, self._figures
        size = found.setting.batch_size if found else training.batch_size
        epochs: float | Auto = training.epochs
        if training.steps is not None:
            epochs = round(found.epochs, 2) if found else "auto"
        whole = int(epochs) if isinstance(epochs, float) and epochs.is_integer() else epochs
        rate = training.learning_rate or 0.0
        return Hyperparameters(size, round(rate / LEARNING_RATES[self.spec.method.adapts], 6), whole)

    @property
    def _figures(self) -> TuningFigures | None:
        return None if self.row.figures is None else TuningFigures.model_validate(self.row.figures)

    @property
    def training_file(self) -> str:
        """The first file that it is trained on."""
        return _file(self.spec.data) or "library"

    @property
    def validation_file(self) -> str | None:
        """The first file that its loss is looked at of."""
        return _file(self.spec.validation)


@dataclass(frozen=True)
class FineTuneCheckpoint:
    """A checkpoint of a tuning."""

    row: Checkpoint
    model: str | None  #: what it answers as


def one(session: Session, tenant_id: UUID, job_id: UUID) -> FineTuneView:
    """The tuning of a job that `openai_jobs.job_of` or a submit has found."""
    return _shown(session, tenant_id, [views.one(session, tenant_id, job_id)])[0]


def page(
    session: Session,
    tenant_id: UUID,
    *,
    limit: int,
    after: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[FineTuneView]:
    """Tunings, newest first, with all of these pairs; with an empty mapping, those that have no pairs.

    Raises:
        InvalidCursor: `after` names none of the tenant's.
    """
    start = openai_jobs.cursor(session, tenant_id, after)
    jobs = openai_repository.page(session, tenant_id, limit=limit, after=start, metadata=metadata)
    return _shown(session, tenant_id, views.of_jobs(session, tenant_id, jobs))


def checkpoints(session: Session, job: Job, *, limit: int, after: str | None = None) -> list[FineTuneCheckpoint]:
    """Checkpoints of a tuning that can be used, newest first.

    Raises:
        InvalidCursor: `after` names none of its.
    """
    start = None if after is None else _checkpoint(session, job, after)
    rows = openai_repository.checkpoints(session, job.tenant_id, job.id, limit=limit, after=start)
    ids = [row.model_id for row in rows if row.model_id]
    models = openai_repository.models(session, job.tenant_id, ids)
    return [FineTuneCheckpoint(row, _name(models.get(row.model_id) if row.model_id else None)) for row in rows]


def _checkpoint(session: Session, job: Job, after: str) -> Checkpoint:
    parsed = parse_prefixed(openai_jobs.CHECKPOINT, after)
    found = None if parsed is None else openai_repository.checkpoint(session, job.tenant_id, job.id, parsed)
    if found is None:
        raise InvalidCursor(param="after")
    return found


def _shown(session: Session, tenant_id: UUID, found: Sequence[View]) -> list[FineTuneView]:
    rows = openai_repository.of_jobs(session, tenant_id, [each.job.id for each in found])
    made = [row.result_model_id for row in rows.values() if row.result_model_id]
    models = openai_repository.models(session, tenant_id, made)
    return [_view(each, rows[each.job.id], models) for each in found]


def _view(view: View, row: TuningJob, models: Mapping[UUID, Model]) -> FineTuneView:
    model = models.get(row.result_model_id) if row.result_model_id else None
    return FineTuneView(view, row, TuningSpec.model_validate(view.job.spec), _name(model))


def _name(model: Model | None) -> str | None:
    """The first version of a name is called so alone; a later one by its number, which a newer one does not change."""
    if model is None:
        return None
    return model.name if model.version == 1 else f"{model.name}@{model.version}"


def _file(sources: Sequence[Source]) -> str | None:
    named: Any = next((source for source in sources if isinstance(source, FileSource)), None)
    return None if named is None else str(named.file_id)
