"""Calls that make a job, done once however often they come: by `Idempotency-Key`, or as the SDK marks a retry."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.orm import Session

from gateway.deps import Seconds, wait_of
from gateway.schemas.jobs import JobOut
from services.accounts.service import Caller
from services.idempotency.service import Answer, Key
from services.jobs import service, views
from services.jobs.service import Submitted
from services.jobs.views import View
from shared.contracts.jobs import Driver, JobRequest
from shared.errors import InvalidField

ACCEPTED = 202
BLIND_RETRY_S = (
    60.0  #: OpenAI's SDK sends a request again without naming it; within this, the same body is the same job
)

_KEY = re.compile(r'"([\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')


@dataclass(frozen=True)
class Accepted:
    """A job that is committed, and the body that says so."""

    job_id: UUID
    body: bytes
    replayed: bool = False
    webhook_secret: str | None = None  #: made just now, for this answer alone

    @property
    def secret(self) -> str | None:
        """The webhook secret that was made for the job: of a repeated call, as the first one was told."""
        hook: dict[str, str | None] | None = orjson.loads(self.body)["webhook"] if self.replayed else None
        return self.webhook_secret if hook is None else hook["secret"]


@dataclass(frozen=True)
class Once:
    """What tells one call from its repetition."""

    key: str | None = None
    blind_retry: bool = False
    route: str = "POST /v1/jobs"  #: a key means another call where another route takes it

    @classmethod
    def of(cls, header: str | None, *, retries: str | None = None) -> "Once":
        """The `Idempotency-Key` header, bare or quoted (RFC 8941), and `x-stainless-retry-count`.

        Raises:
            InvalidField: the key is empty, longer than 255 characters, or not printable ASCII.
        """
        blind = (retries or "").isdigit() and retries != "0"
        if header is None:
            return cls(blind_retry=blind)
        match = _KEY.fullmatch(header.strip())
        if match is None:
            raise InvalidField("A key has 1–255 printable ASCII characters.", param="Idempotency-Key")
        return cls(key=match[1] or match[2])


class _Query(BaseModel):
    """Query parameters of a submit, which `openapi.SUBMIT` declares."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    wait: Seconds | None = Field(None, ge=0)
    validate_only: bool = False


@dataclass(frozen=True)
class Wish:
    """What a submit asks for beside its body. Read here, because FastAPI's way costs a quarter of the request."""

    wait: float
    validate_only: bool
    once: Once

    @classmethod
    def of(cls, request: Request) -> "Wish":
        """The query and the headers of a request.

        Raises:
            RequestValidationError: a query parameter has a wrong value.
            InvalidField: as `Once.of`.
        """
        query, headers = _NO_QUERY, request.headers
        if request.scope["query_string"]:
            try:
                query = _Query.model_validate(dict(request.query_params))
            except ValidationError as error:
                found = error.errors(include_url=False, include_input=False, include_context=False)
                raise RequestValidationError([{**each, "loc": ("query", *each["loc"])} for each in found]) from error
        once = Once.of(headers.get("idempotency-key"), retries=headers.get("x-stainless-retry-count"))
        return cls(wait_of(query.wait, headers.get("prefer")), query.validate_only, once)


_NO_QUERY = _Query()


def retry(session: Session, caller: Caller, job_id: UUID, *, once: Once) -> Accepted:
    """Run a finished job again, as a new one."""
    key = _key(caller, once, route="POST /v1/jobs/{job_id}/retry", digest=lambda: job_id.bytes)
    return _once(session, key, lambda: service.retry(session, caller.tenant_id, job_id))


def is_first(session: Session, caller: Caller, request: JobRequest, *, once: Once) -> bool:
    """Whether a call has to be looked at before it makes a job: it has no key, or its key has made none yet.

    Raises:
        IdempotencyMismatch: the key came with another request before.
    """
    key = _key(caller, once, route=once.route, digest=lambda: service.fingerprint(request))
    return key is None or key.first(session) is None


def accept_all(session: Session, asked: Sequence[tuple[Caller, JobRequest]]) -> list[Accepted]:
    """Write several jobs that have nothing to do with each other, in one statement."""
    made = service.submit_all(session, [(caller.tenant_id, request) for caller, request in asked])
    return [_accepted(session, each) for each in made]


def accept(session: Session, caller: Caller, request: JobRequest, *, once: Once) -> Accepted:
    """Write a job, or find the one that this call has made before."""
    if once.blind_retry and once.key is None:
        twin = views.recent_twin(session, caller.tenant_id, request, within_s=BLIND_RETRY_S)
        if twin is not None:
            return Accepted(twin.job.id, JobOut.of(twin).json_bytes(), replayed=True)
    key = _key(caller, once, route=once.route, digest=lambda: service.fingerprint(request))
    return _once(session, key, lambda: service.submit(session, caller.tenant_id, request))


def _key(caller: Caller, once: Once, *, route: str, digest: Callable[[], bytes]) -> Key | None:
    return None if once.key is None else Key(caller.tenant_id, route, once.key, digest())


def _once(session: Session, key: Key | None, work: Callable[[], Submitted]) -> Accepted:
    """Do `work`, or replay the answer of the call that has done it."""
    if key and (first := key.replay(session)):
        return Accepted(UUID(orjson.loads(first.body)["id"]), first.body, replayed=True)
    accepted = _accepted(session, work())
    if key:
        key.keep(session, Answer(ACCEPTED, accepted.body))
    return accepted


def _accepted(session: Session, made: Submitted) -> Accepted:
    view = View(made.job)
    if made.job.driver == Driver.CHILDREN:  # it has begun already, and its children count
        view = views.one(session, made.job.tenant_id, made.job.id)
    body = JobOut.of(view, secret=made.webhook_secret).json_bytes()
    return Accepted(made.job.id, body, webhook_secret=made.webhook_secret)
