"""`/v1/fine_tuning/jobs`: tuning as OpenAI's clients ask for it. Each is a job of kind `tuning`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from gateway import openapi
from gateway.deps import PAGE, CallerDep, Limit, SessionDep
from gateway.edge import edge_of
from gateway.examining import look
from gateway.routing import Route, caller_of, needs
from gateway.schemas.common import Page
from gateway.schemas.fine_tuning import FineTuneCheckpointOut, FineTuneEventOut, FineTuneOut
from gateway.schemas.fine_tuning_request import FineTuneRequest
from gateway.submission import Once
from gateway.submitter import Accept
from services.accounts.service import Scope
from services.tuning import openai_events, openai_jobs, openai_views
from services.tuning.openai_views import FineTuneView
from shared.errors import InvalidField, Unprocessable, ValidationFailed, outside

JSON = "application/json"
OK = 200
NOBODY = "null"  #: `metadata=null`: jobs that have none
METADATA = "metadata"

#: fields of a tuning's spec, as this route calls them; the longest beginning counts
FIELDS = {
    "data": "training_file",
    "validation": "validation_file",
    "name": "suffix",
    "lora.rank": "lora.r",
    "training.batch_size": "hyperparameters.batch_size",
    "training.learning_rate": "hyperparameters.learning_rate_multiplier",
    "training.epochs": "hyperparameters.n_epochs",
    "training.max_length": "lora.max_seq_len",
    "training.packing": "lora.packing",
    "training.schedule": "lora.scheduler",
    "training.warmup": "lora.warmup",
    "training.seed": "seed",
}

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine_tuning"], route_class=Route)

FineTuneId = Annotated[str, Path(description="id of a fine-tuning job, `ftjob-…`")]
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", description="one job however often it is sent; kept for a day")
]
After = Annotated[str | None, Query(description="id of the row before the page")]


@router.post("", response_model=FineTuneOut, openapi_extra=needs(Scope.JOBS_WRITE, **openapi.CREATE_FINE_TUNE))
async def create_fine_tuning_job(request: Request, body: dict[str, Any], key: IdempotencyKey = None) -> Response:
    """Tune a model on an uploaded file. What was made answers calls as soon as the job has succeeded."""
    edge, caller = edge_of(request), caller_of(request)
    job = FineTuneRequest.of(body).as_job()
    once = Once.of(key, retries=request.headers.get("x-stainless-retry-count"))
    once = replace(once, route="POST /v1/fine_tuning/jobs")
    with _as_openai():
        await look(edge, caller, job, once=once)
        accept = Accept(caller, job, once, bytes=len(await request.body()))
        accepted = await request.app.state.submitter.submit(accept)
    shown = await edge.transact(lambda session: openai_views.one(session, caller.tenant_id, accepted.job_id))
    made = FineTuneOut.of(shown, secret=accepted.secret)
    return _answer(made.json_bytes(), accepted.job_id, replayed=accepted.replayed)


@router.get("", openapi_extra=needs(Scope.JOBS_READ, **openapi.LIST_FINE_TUNES))
def list_fine_tuning_jobs(
    request: Request, session: SessionDep, caller: CallerDep, *, limit: Limit = 20, after: After = None
) -> Page[FineTuneOut]:
    """Fine-tuning jobs, newest first; with `metadata[key]=value`, those that have all of these pairs."""
    limit = min(limit, PAGE)
    rows = openai_views.page(session, caller.tenant_id, limit=limit + 1, after=after, metadata=_pairs(request))
    return Page[FineTuneOut].of(rows, limit=limit, shown=FineTuneOut.of)


@router.get("/{fine_tuning_job_id}", response_model=FineTuneOut, openapi_extra=needs(Scope.JOBS_READ))
def get_fine_tuning_job(fine_tuning_job_id: FineTuneId, session: SessionDep, caller: CallerDep) -> Response:
    """One fine-tuning job."""
    job = openai_jobs.job_of(session, caller.tenant_id, fine_tuning_job_id)
    return _shown(openai_views.one(session, caller.tenant_id, job.id))


@router.post("/{fine_tuning_job_id}/cancel", response_model=FineTuneOut, openapi_extra=needs(Scope.JOBS_CANCEL))
def cancel_fine_tuning_job(fine_tuning_job_id: FineTuneId, session: SessionDep, caller: CallerDep) -> Response:
    """Stop a job; its last checkpoint is kept. It is `running` until nothing of it runs any more."""
    job = openai_jobs.cancel(session, caller.tenant_id, fine_tuning_job_id)
    return _shown(openai_views.one(session, caller.tenant_id, job.id))


@router.post("/{fine_tuning_job_id}/pause", response_model=FineTuneOut, openapi_extra=needs(Scope.JOBS_WRITE))
def pause_fine_tuning_job(fine_tuning_job_id: FineTuneId, session: SessionDep, caller: CallerDep) -> Response:
    """Hold a job: it writes a checkpoint, and is `queued` with `paused` true."""
    job = openai_jobs.pause(session, caller.tenant_id, fine_tuning_job_id)
    return _shown(openai_views.one(session, caller.tenant_id, job.id))


@router.post("/{fine_tuning_job_id}/resume", response_model=FineTuneOut, openapi_extra=needs(Scope.JOBS_WRITE))
def resume_fine_tuning_job(fine_tuning_job_id: FineTuneId, session: SessionDep, caller: CallerDep) -> Response:
    """Let a held job go on from its checkpoint."""
    job = openai_jobs.resume(session, caller.tenant_id, fine_tuning_job_id)
    return _shown(openai_views.one(session, caller.tenant_id, job.id))


@router.get("/{fine_tuning_job_id}/events", openapi_extra=needs(Scope.JOBS_READ))
def list_fine_tuning_events(
    fine_tuning_job_id: FineTuneId,
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = 20,
    after: After = None,
) -> Page[FineTuneEventOut]:
    """What happened in a job, newest first: messages, and the metrics of its steps."""
    limit = min(limit, PAGE)
    job = openai_jobs.job_of(session, caller.tenant_id, fine_tuning_job_id)
    rows = openai_events.page(session, job, limit=limit + 1, after=after)
    return Page[FineTuneEventOut].of(rows, limit=limit, shown=FineTuneEventOut.of)


@router.get("/{fine_tuning_job_id}/checkpoints", openapi_extra=needs(Scope.JOBS_READ))
def list_fine_tuning_checkpoints(
    fine_tuning_job_id: FineTuneId,
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = 10,
    after: After = None,
) -> Page[FineTuneCheckpointOut]:
    """Checkpoints of a job that are kept, newest first; each answers calls by its model name."""
    limit = min(limit, PAGE)
    job = openai_jobs.job_of(session, caller.tenant_id, fine_tuning_job_id)
    rows = openai_views.checkpoints(session, job, limit=limit + 1, after=after)
    return Page[FineTuneCheckpointOut].of(rows, limit=limit, shown=FineTuneCheckpointOut.of)


def _pairs(request: Request) -> dict[str, str] | None:
    """The filter by metadata; an empty one asks for jobs that have none.

    Raises:
        InvalidField: it is something else than `metadata[key]=value` or `metadata=null`.
    """
    given = request.query_params.multi_items()
    pairs = {name[len(METADATA) + 1 : -1]: value for name, value in given if name.startswith(f"{METADATA}[")}
    whole = [value for name, value in given if name == METADATA]
    if not whole:
        return pairs or None
    if pairs or whole != [NOBODY]:
        raise InvalidField("Filter by metadata[key]=value, or by metadata=null.", param=METADATA)
    return {}


@contextmanager
def _as_openai() -> Iterator[None]:
    """Name fields as this route does, and answer 400 to a body that cannot be used, as OpenAI does."""
    try:
        with outside("spec"):
            yield
    except Unprocessable as error:
        if type(error) not in (Unprocessable, ValidationFailed):
            raise  # a class that cannot hold it, a key that came with another body: those are ours
        errors = tuple(replace(each, param=_field(each.param)) for each in error.errors)
        said = None if errors and error.message == type(error).__doc__ else error.message
        raise InvalidField(said, param=_field(error.param or "model"), errors=errors) from error


def _field(param: str) -> str:
    return next((own for name, own in FIELDS.items() if f"{param}.".startswith(f"{name}.")), param)


def _shown(shown: FineTuneView) -> Response:
    return _answer(FineTuneOut.of(shown).json_bytes(), shown.job.id)


def _answer(body: bytes, job_id: UUID, *, replayed: bool = False) -> Response:
    headers = {"x-job-id": str(job_id)} | ({"idempotent-replayed": "true"} if replayed else {})
    return Response(body, OK, headers=headers, media_type=JSON)
