"""One body for every error: RFC 9457 members at the top, and OpenAI's `error` object beside them.

Errors that only HTTP knows, under those of `shared.errors`:

    BadRequest 400            InvalidJson
    NotFound 404              UnknownRoute
    MethodNotAllowed 405
    TooLarge 413
    UnsupportedMediaType 415
    UnknownHost 421
    InternalError 500
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared.errors import (
    BadRequest,
    DatabaseUnavailable,
    FieldError,
    InvalidField,
    ModelyardError,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnknownParameter,
    ValidationFailed,
)
from shared.telemetry import logger

PROBLEM_JSON = "application/problem+json"
#: paths that OpenAI's clients call: they expect plain JSON
OPENAI_PATHS = (
    "/v1/models",
    "/v1/files",
    "/v1/batches",
    "/v1/uploads",
    "/v1/fine_tuning",
    "/v1/chat",
    "/v1/completions",
    "/v1/embeddings",
)
RETRY_AFTER_MS = 1000
TOLD = 3  #: fields that the detail tells of; `errors` has them all
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

log = logger(__name__)


class InvalidJson(BadRequest):
    """The body is not JSON as we accept it."""

    code = "invalid_json"


class UnknownRoute(NotFound):
    """There is nothing at this path."""

    code = "unknown_route"


class MethodNotAllowed(ModelyardError):
    """This path does not take that method."""

    code = "method_not_allowed"
    status: ClassVar[int] = 405


class UnsupportedMediaType(ModelyardError):
    """The body must be `application/json`."""

    code = "unsupported_media_type"
    status: ClassVar[int] = 415


class UnknownHost(ModelyardError):
    """The Host header names a host that this gateway does not serve (`MODELYARD_ALLOWED_HOSTS`)."""

    code = "unknown_host"
    status: ClassVar[int] = 421


class InternalError(ModelyardError):
    """Something went wrong on our side; the request id finds it in the log."""

    code = "internal_error"


def problem(error: ModelyardError, *, path: str, request_id: str) -> dict[str, Any]:
    """The body that describes `error`."""
    code, detail = error.code, _detail(error)
    kind = _OPENAI_TYPES.get(error.status) or ("server_error" if error.status >= 500 else "invalid_request_error")
    return {
        "type": f"/docs#{code}",
        "title": (type(error).__doc__ or HTTPStatus(error.status).phrase).strip(),
        "status": error.status,
        "detail": detail,
        "instance": path,
        "code": code,
        "param": error.param,
        "request_id": request_id,
        "retryable": error.retryable,
        "errors": [{"param": f.param, "code": f.code, "message": f.message} for f in error.errors],
        "error": {"message": detail, "type": kind, "param": error.param, "code": code},
    }


def response(
    error: ModelyardError, *, path: str, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The whole answer to a request that met `error`."""
    media_type = "application/json" if path.startswith(OPENAI_PATHS) else PROBLEM_JSON
    return Response(
        orjson.dumps(problem(error, path=path, request_id=request_id)),
        status_code=error.status,
        media_type=media_type,
        headers=_advice(error) | dict(headers or {}),
    )


def install(app: FastAPI) -> None:
    """Map every error that a route may raise. What is left over is `middleware.Envelope`'s: a 500."""
    table: dict[type[Exception], Callable[[Any], ModelyardError]] = {
        ModelyardError: lambda error: error,
        RequestValidationError: _invalid,
        HTTPException: _http,
        PoolTimeout: lambda _: DatabaseUnavailable(),
        DataError: lambda _: InvalidField("A value has characters that cannot be stored, such as NUL."),
        UnicodeEncodeError: lambda _: InvalidField("A value is not valid Unicode."),
    }
    for kind, mapped in table.items():
        app.add_exception_handler(kind, _handler(mapped))


def _handler(mapped: Callable[[Any], ModelyardError]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, raised: Exception) -> Response:
        error = _named(mapped(raised))
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            fields = {"code": error.code, "request_id": request.state.request_id}
            log.warning("request failed", exc_info=raised, extra=fields)
        return response(
            error,
            path=request.url.path,
            request_id=request.state.request_id,
            headers=getattr(raised, "headers", None),
        )

    return handle


def _named(error: ModelyardError) -> ModelyardError:
    """A request whose only fault is fields that we do not know is a 400 of that name, as OpenAI answers."""
    unknown = {field.code for field in error.errors} == {UnknownParameter.code}
    return UnknownParameter(errors=error.errors) if unknown and isinstance(error, ValidationFailed) else error


def _detail(error: ModelyardError) -> str:
    """The message; of wrong fields, what is wrong with the first ones, for callers who show one line."""
    if not error.errors or error.message != (type(error).__doc__ or "").strip():
        return error.message
    told = [f"{field.param}: {field.message}" for field in error.errors[:TOLD]]
    more = len(error.errors) - TOLD
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _advice(error: ModelyardError) -> dict[str, str]:
    """Headers that tell a client, and OpenAI's SDK above all, whether and when to try again."""
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, TooManyRequests | Unavailable):
        return {"retry-after": "1", "retry-after-ms": str(RETRY_AFTER_MS)}
    return {"x-should-retry": "false"} if error.status == HTTPStatus.CONFLICT and not error.retryable else {}


def _invalid(error: RequestValidationError) -> ModelyardError:
    """Findings of pydantic, without the input; an id in the path that is none names nothing: 404."""
    if any(item["loc"][0] == "path" for item in error.errors()):
        return NotFound()
    return ValidationFailed(errors=tuple(_field(item) for item in error.errors()))


def _field(item: Mapping[str, Any]) -> FieldError:
    path = ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0])
    code = UnknownParameter.code if item["type"] == "extra_forbidden" else item["type"]
    return FieldError(path, code, item["msg"])


def _http(error: HTTPException) -> ModelyardError:
    """What Starlette's router and form parser raise."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return UnknownRoute()
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowed()
    return BadRequest("The request cannot be understood.")
