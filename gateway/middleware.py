"""What happens to every request before and after its route. Plain ASGI: nothing here reads or copies a body.

From the outside in: `Envelope` (request id, headers, figures, the 500), `Hosts` (DNS rebinding), `BodyLimit`.
"""

import re
from collections.abc import Sequence
from http import HTTPStatus

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import InternalError, UnknownHost, response
from services.files.service import FILE_BYTES
from services.files.uploads import PART_BYTES
from shared.clock import monotonic
from shared.errors import ModelyardError, TooLarge
from shared.ids import new_id
from shared.telemetry import counter, histogram, logger

BODY_BYTES = 1024**2
JOB_BYTES = 8 * 1024**2  #: inline jobs; longer input is a file
FRAME_BYTES = 64 * 1024  #: what a form may add to its file
CALL_BYTES = 8 * 1024**2  #: chats, completions and embeddings
LIMITS = {
    ("POST", "/v1/jobs"): JOB_BYTES,
    ("POST", "/v1/document_sets"): JOB_BYTES,
    ("POST", "/v1/files"): FILE_BYTES + FRAME_BYTES,
    ("POST", "/v1/chat/completions"): CALL_BYTES,
    ("POST", "/v1/completions"): CALL_BYTES,
    ("POST", "/v1/embeddings"): CALL_BYTES,
}
_PART = re.compile(r"/v1/uploads/[^/]+/parts")

#: on every answer; as bytes, because that is what goes out
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
#: on answers that do not say better
DEFAULT_HEADERS = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}

REQUESTS = counter("http_requests", "Requests answered", "method", "route", "status")
DURATIONS = histogram("http_request_seconds", "Time until the first byte of the answer", "route")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
log = logger(__name__)


class Envelope:
    """Names the request, times it, adds headers, and answers 500 when a route raised what nobody expected."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = monotonic(), 0
        request_id = scope.setdefault("state", {})["request_id"] = _request_id(scope)

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _finish(scope, message, request_id=request_id, seconds=monotonic() - began)
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except ClientDisconnect:
            REQUESTS.labels("OTHER", "unknown", "499").inc()
        except Exception:
            log.exception("request raised", extra={"request_id": request_id, "path": scope["path"]})
            if status:
                raise  # too late to say anything else: the server closes the connection
            await _refuse(InternalError(), scope, receive, sent)


class Hosts:
    """Answers only to the names that this gateway has: a rebound name would give a web page our origin."""

    def __init__(self, app: ASGIApp, *, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = frozenset(host.lower() for host in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._serves(Headers(scope=scope).get("host", "")):
            await _refuse(UnknownHost(), scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _serves(self, host: str) -> bool:
        name = host.lower() if host.endswith("]") else re.sub(r":\d{1,5}$", "", host.lower())
        return "*" in self._allowed or name in self._allowed


class BodyLimit:
    """Refuses a body by its Content-Length, and counts what comes, for that header may lie or be missing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        limit = _limit(scope["method"], scope["path"])
        error = TooLarge(f"The body is larger than the {limit} bytes that this route accepts.")
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            await _refuse(error, scope, receive, send)
            return
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > limit:
                raise error
            return message

        await self._app(scope, counted, send)


def _limit(method: str, path: str) -> int:
    if method == "POST" and _PART.fullmatch(path):
        return PART_BYTES + FRAME_BYTES
    return LIMITS.get((method, path), BODY_BYTES)


async def _refuse(error: ModelyardError, scope: Scope, receive: Receive, send: Send) -> None:
    answer = response(error, path=scope["path"], request_id=scope["state"]["request_id"])
    await answer(scope, receive, send)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{new_id().hex}"


def _finish(scope: Scope, message: Message, *, request_id: str, seconds: float) -> None:
    given = {name for name, _ in message["headers"]}
    message["headers"] = [
        *message["headers"],
        (b"x-request-id", request_id.encode()),
        (b"openai-processing-ms", b"%d" % round(seconds * 1000)),
        *SECURITY_HEADERS,
        *((name, value) for name, value in DEFAULT_HEADERS.items() if name not in given),
    ]
    route, status = scope.get("route"), message["status"]
    path = route.path if isinstance(route, APIRoute) else "unknown"
    method = scope["method"] if isinstance(route, APIRoute) else "OTHER"
    REQUESTS.labels(method, path, str(status)).inc()
    DURATIONS.labels(path).observe(seconds)
    if status >= HTTPStatus.BAD_REQUEST:
        told = {"request_id": request_id, "method": method, "route": path, "status": status}
        log.info("request refused", extra=told | {"ms": round(seconds * 1000, 1)})
