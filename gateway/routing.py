"""The route class of everything behind an API key.

Before a route's own code: who calls, may they, is every query parameter known, is the body JSON. In that order,
so that nobody without a key costs us the reading of a body.
"""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response

from gateway import json_body
from gateway.edge import edge_of
from gateway.errors import UnsupportedMediaType
from gateway.openapi import SCOPE
from services.accounts import service as accounts
from services.accounts.service import Caller, Scope
from shared.errors import FieldError, Unauthorized, UnknownParameter

_NO_BODY = (b"", b"{}")


def needs(scope: Scope, **extra: Any) -> dict[str, Any]:
    """`openapi_extra` of a route whose callers need `scope`."""
    return {SCOPE: scope.value, **extra}


class Route(APIRoute):
    """A route that asks for a key. Declaring it without `openapi_extra=needs(…)` is refused at import."""

    @property
    def scope(self) -> Scope:
        """What the key needs."""
        return Scope((self.openapi_extra or {})[SCOPE])

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        extra = self.openapi_extra or {}
        declared = [each for each in extra.get("parameters", ()) if each["in"] == "query"]
        scope, known = self.scope, _query_names(self.dependant) | {each["name"] for each in declared}
        deep = tuple(f"{each['name']}[" for each in declared if each.get("style") == "deepObject")
        reads = bool(extra.get("requestBody", {}).get("content"))  # the route reads the body by itself
        expects_json = self.body_field is not None

        async def guarded(request: Request) -> Response:
            request.state.caller = caller = await authenticate(request)
            caller.need(scope)
            _refuse_unknown(request, known, deep)
            if expects_json:
                request = await _read(request)
            elif not reads and request.method == "POST":
                await _refuse_body(request)
            return await handle(request)

        return guarded


class _Parsed(Request):
    """A request whose JSON has been read and checked."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._value = json_body.parse(body)

    async def json(self) -> Any:
        return self._value


async def authenticate(request: Request) -> Caller:
    """The holder of the key in `Authorization`, the only place where one is looked for.

    Raises:
        Unauthorized: there is no key, or it is not valid (any more).
    """
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized
    edge = edge_of(request)
    known = accounts.recall(edge.database, token.strip())
    if known is not None:
        return known
    return await edge.run(partial(accounts.authenticate, edge.database, token.strip()))


def caller_of(request: Request) -> Caller:
    """Whoever sent this request, as `Route` found out."""
    return cast("Caller", request.state.caller)


def _refuse_unknown(request: Request, known: frozenset[str], deep: tuple[str, ...]) -> None:
    """Refuse names that nobody declared; `deep`: beginnings of those that have members, as `metadata[`."""
    given = request.query_params if request.scope["query_string"] else ()
    unknown = [
        name for name in given if name not in known and not (deep and name.startswith(deep) and name.endswith("]"))
    ]
    if unknown:
        message = f"this call takes {', '.join(sorted(known)) or 'no query parameters'}"
        raise UnknownParameter(
            f"Unknown query parameter {unknown[0][:64]!r}.",
            errors=tuple(FieldError(name[:64], "unknown_parameter", message) for name in unknown),
        )


def expect_json(request: Request) -> None:
    """Go on only with a body that says it is JSON. Raises UnsupportedMediaType."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType(param="Content-Type")


async def _read(request: Request) -> Request:
    expect_json(request)
    return _Parsed(request, await request.body())


async def _refuse_body(request: Request) -> None:
    if (await request.body()).strip() not in _NO_BODY:
        raise UnknownParameter("This call takes no body.", param="body")


def _query_names(dependant: Dependant) -> frozenset[str]:
    own = frozenset(field.alias for field in dependant.query_params)
    return own.union(*(_query_names(each) for each in dependant.dependencies))
