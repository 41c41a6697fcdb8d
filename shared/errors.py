"""Every error that a caller can meet.

    ModelyardError
    ├── BadRequest 400            InvalidField · UnknownParameter · UnsupportedParameter · InvalidCursor
    ├── Unauthorized 401
    ├── Forbidden 403             MissingScope
    ├── NotFound 404              UnknownModel
    ├── Conflict 409              AlreadyFinished · NotFinished; NameTaken · ModelInUse in services.catalog;
    │                             UploadCompleted · UploadCancelled · UploadExpired in services.files
    ├── PreconditionFailed 412
    ├── TooLarge 413
    ├── RangeNotSatisfiable 416   in shared.ranges
    ├── Unprocessable 422         IdempotencyMismatch · Unplaceable · UnknownClass · ValidationFailed;
    │                             UnsafeModel · InvalidAdapter in services.catalog;
    │                             SourceNotAllowed · SourceNotFound · SourceForbidden in services.imports
    ├── TooManyRequests 429
    ├── Unavailable 503           DatabaseUnavailable · StoreUnavailable · EngineUnavailable;
    │                             CacheUnavailable in shared.cache, BrokerUnavailable in shared.broker
    ├── BlobMissing · BlobCorrupt in shared.blobs: a row promises what the store does not hold
    └── Fenced                    a stale attempt tried to write; never reaches HTTP

The docstring is the default message. `code` is stable and documented; `param` names the offending field.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar


@dataclass(frozen=True)
class FieldError:
    """One offending field: its path (`spec.max_tokens`), a code and a sentence with the fix."""

    param: str
    code: str
    message: str


class ModelyardError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str | None = None, *, param: str | None = None, errors: tuple[FieldError, ...] = ()
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.param = param or (errors[0].param if errors else None)
        self.errors = errors
        super().__init__(self.message)


@contextmanager
def inside(path: str) -> Iterator[None]:
    """Name fields of errors raised in the block by where they stand: `spec` is `on_success.0.spec` in the request."""
    try:
        yield
    except ModelyardError as error:
        error.param = f"{path}.{error.param}" if error.param else path
        error.errors = tuple(replace(field, param=f"{path}.{field.param}") for field in error.errors)
        raise


@contextmanager
def outside(path: str) -> Iterator[None]:
    """Name fields of errors as they stand in a body, not at `path` in the job that it becomes."""
    try:
        yield
    except ModelyardError as error:
        start = f"{path}."
        error.param = error.param and error.param.removeprefix(start)
        error.errors = tuple(replace(field, param=field.param.removeprefix(start)) for field in error.errors)
        raise


class BadRequest(ModelyardError):
    """The request cannot be understood."""

    code = "bad_request"
    status = 400


class InvalidField(BadRequest):
    """A field has a value that is not allowed."""

    code = "invalid_field"


class UnknownParameter(BadRequest):
    """The parameter is not known."""

    code = "unknown_parameter"


class UnsupportedParameter(BadRequest):
    """The parameter is known, but the engine cannot honour it."""

    code = "unsupported_parameter"


class InvalidCursor(BadRequest):
    """The page cursor does not name an object of yours."""

    code = "invalid_cursor"


class Unauthorized(ModelyardError):
    """No valid API key was given: send `Authorization: Bearer modelyard_…`."""

    code = "invalid_api_key"
    status = 401


class Forbidden(ModelyardError):
    """This key may not do that."""

    code = "forbidden"
    status = 403


class MissingScope(Forbidden):
    """The key lacks the scope that this call needs."""

    code = "missing_scope"


class NotFound(ModelyardError):
    """There is no such object."""

    code = "not_found"
    status = 404


class UnknownModel(NotFound):
    """There is no model of that name."""

    code = "model_not_found"


class Conflict(ModelyardError):
    """The object is in a state that does not allow this."""

    code = "conflict"
    status = 409


class AlreadyFinished(Conflict):
    """The job has already finished."""

    code = "already_finished"


class NotFinished(Conflict):
    """The job has not finished yet."""

    code = "not_finished"


class PreconditionFailed(ModelyardError):
    """The object has changed since you read it (If-Match)."""

    code = "precondition_failed"
    status = 412


class TooLarge(ModelyardError):
    """The body is larger than this route accepts."""

    code = "body_too_large"
    status = 413


class Unprocessable(ModelyardError):
    """The request is well-formed but can never be carried out."""

    code = "unprocessable"
    status = 422


class ValidationFailed(Unprocessable):
    """A field is missing, unknown or has a wrong value."""

    code = "validation_failed"


class IdempotencyMismatch(Unprocessable):
    """This Idempotency-Key was used before with another body."""

    code = "idempotency_mismatch"


class UnknownClass(Unprocessable):
    """There is no GPU class of that name."""

    code = "unknown_gpu_class"


class Unplaceable(Unprocessable):
    """No configured GPU class can ever run this job."""

    code = "unplaceable"


class TooManyRequests(ModelyardError):
    """Too many requests: slow down."""

    code = "rate_limited"
    status = 429
    retryable = True


class Unavailable(ModelyardError):
    """The service cannot answer right now."""

    code = "unavailable"
    status = 503
    retryable = True


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached right now: send the request again, with the same Idempotency-Key."""

    code = "database_unavailable"


class StoreUnavailable(Unavailable):
    """The object store cannot be reached right now."""

    code = "store_unavailable"


class EngineUnavailable(Unavailable):
    """No engine is ready for this model right now."""

    code = "engine_unavailable"


class Fenced(ModelyardError):
    """This attempt no longer owns the job: nothing was written."""

    code = "fenced"
