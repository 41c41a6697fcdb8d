"""The fine-tuning job, its events and checkpoints, as OpenAI spells them; times are Unix seconds. Ours says so."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Out, unix_seconds
from gateway.schemas.jobs import ProgressOut, WebhookOut
from services.files.service import PREFIX as FILE
from services.tuning.openai_events import Event, Level, figures
from services.tuning.openai_jobs import checkpoint_id, public_id
from services.tuning.openai_views import FineTuneCheckpoint, FineTuneView, Hyperparameters, Status
from shared.contracts.tuning import Auto
from shared.ids import prefixed


class FineTuneError(Out):
    """Why a job did not succeed."""

    code: str
    message: str
    param: str | None


class HyperparametersOut(Out):
    """As they were asked for; when the job has ended, as they turned out."""

    batch_size: int | Auto
    learning_rate_multiplier: float
    n_epochs: int | float | Auto

    @classmethod
    def of(cls, found: Hyperparameters) -> Self:
        """The shown form."""
        return cls(**vars(found))


class SupervisedOut(Out):
    """Options of the method."""

    hyperparameters: HyperparametersOut


class MethodOut(Out):
    """How it is trained."""

    type: Literal["supervised"] = "supervised"
    supervised: SupervisedOut


class FineTuneOut(Out):
    """A fine-tuning job: a view of a job of kind tuning."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: FineTuneError | None
    finished_at: int | None
    fine_tuned_model: str | None = Field(description="what was made; it answers calls at once")
    hyperparameters: HyperparametersOut
    model: str = Field(description="the base")
    organization_id: str
    result_files: list[str] = Field(description="ids of CSV files: metrics, step by step")
    seed: int
    status: Status = Field(description="validating_files: a worker reads the data")
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    integrations: list[Any]
    method: MethodOut
    metadata: dict[str, str]
    job_id: UUID = Field(description="ours: `/v1/jobs/{job_id}` has its logs, metrics, attempts and artifacts")
    paused: bool = Field(description="ours: held; OpenAI has no status for that, so it is queued")
    progress: ProgressOut = Field(description="ours")
    lora: dict[str, Any] | None = Field(description="ours: the adapter")
    cost: float = Field(description="ours: GPU-hours times the class's price")
    webhook: WebhookOut | None = Field(description="ours")

    @classmethod
    def of(cls, shown: FineTuneView, *, secret: str | None = None) -> Self:
        """The resource of a tuning; `secret` is the webhook secret that its submit made."""
        job, row, spec = shown.job, shown.row, shown.spec
        progress = ProgressOut.of(shown.view)
        numbers = HyperparametersOut.of(shown.hyperparameters)
        left, created = progress.eta_s, unix_seconds(job.created_at)
        assert created is not None
        return cls(
            id=public_id(job.id),
            created_at=created,
            error=_error(job.error),
            finished_at=unix_seconds(job.finished_at),
            fine_tuned_model=shown.model,
            hyperparameters=numbers,
            model=spec.model.partition("@")[0],
            organization_id=f"org-{job.tenant_id.hex}",
            result_files=[] if row.result_file_id is None else [prefixed(FILE, row.result_file_id)],
            seed=spec.training.seed,
            status=shown.status,
            trained_tokens=row.trained_tokens,
            training_file=shown.training_file,
            validation_file=shown.validation_file,
            estimated_finish=None if left is None else int(job.updated_at.timestamp() + left),
            integrations=[],
            method=MethodOut(supervised=SupervisedOut(hyperparameters=numbers)),
            metadata=job.meta,
            job_id=job.id,
            paused=job.held_at is not None,
            progress=progress,
            lora=None if spec.lora is None else spec.lora.model_dump(mode="json") | {"method": spec.method.value},
            cost=job.cost,
            webhook=None if job.webhook is None else WebhookOut(**job.webhook, secret=secret),
        )


class FineTuneEventOut(Out):
    """Something that happened in a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def of(cls, event: Event) -> Self:
        """The resource of an event."""
        return cls(**vars(event) | {"created_at": int(event.created_at.timestamp())})


class FineTuneCheckpointOut(Out):
    """A checkpoint of a job."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str | None = Field(description="it answers calls; null where the job did not ask")
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]

    @classmethod
    def of(cls, shown: FineTuneCheckpoint) -> Self:
        """The resource of a checkpoint."""
        row = shown.row
        return cls(
            id=checkpoint_id(row),
            created_at=int(row.created_at.timestamp()),
            fine_tuned_model_checkpoint=shown.model,
            fine_tuning_job_id=public_id(row.job_id),
            step_number=row.step,
            metrics=figures(row.step, row.metrics, whole=True),
        )


def _error(stored: dict[str, Any] | None) -> FineTuneError | None:
    if stored is None:
        return None
    message = f"{stored['title']}: {stored['detail']}" if stored.get("detail") else stored["title"]
    return FineTuneError(code=stored["code"], message=message, param=None)
