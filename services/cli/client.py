"""How the command line talks to a gateway: where it is, one key, patient retries, errors in words.

The address comes from `--url`/`--api-key` (or MODELYARD_URL, MODELYARD_API_KEY), else from the yard in
`--data`: its `yard.json` and `admin.key`. The yard's key goes to the yard's own address only.

    CallError
    ├── NoAddress      neither a URL nor a yard to call
    ├── NoKey          no API key for this address
    ├── Unreachable    nobody answered, also after retries
    └── Refused        the platform answered with an error: status, code, field
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO, Self
from uuid import uuid4

import httpx

from services.cli.fixes import FIXES
from services.cli.output import ExitCode
from services.cli.sse import ServerSentEvent, parse
from shared.embedded import state
from shared.embedded.layout import layout

CONNECT_S = 5.0
READ_S = 60.0  # a long poll is answered within 30 s, a stream says `: ping` every 15 s
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before each retry: a gateway that restarts is back within them
ABSENT_PAUSES = 2  # how many of them a refused connection gets: a yard keeps its port open through restarts
LONGEST_PAUSE_S = 10.0
PAGE = 100  # rows of a page that a list asks for


class CallError(Exception):
    """The call did not work. `fix` says what to do about it, `body` is what `--json` prints."""

    code = "call_failed"
    exit_code = ExitCode.FAILED
    fix = ""

    @property
    def body(self) -> dict[str, Any]:
        """The error in the form that the platform gives its own."""
        return {"error": {"code": self.code, "message": str(self), "param": None, "type": "client_error"}}


class NoAddress(CallError):
    """There is no yard here, and no URL was given."""

    code = "no_address"
    exit_code = ExitCode.UNREACHABLE
    fix = "Start one with `modelyard up`, name its folder with --data, or give --url and --api-key."


class NoKey(CallError):
    """No API key was given."""

    code = "no_api_key"
    exit_code = ExitCode.REFUSED
    fix = FIXES["invalid_api_key"]


class Unreachable(CallError):
    """Nobody answers."""

    code = "unreachable"
    exit_code = ExitCode.UNREACHABLE
    fix = "Is the yard up? Start it with `modelyard up`; `modelyard status` shows what runs."


class Refused(CallError):
    """The platform refused, and said why."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.code = str(problem.get("code") or f"http_{status}")
        self.fix = FIXES.get(self.code, "")
        super().__init__("\n".join(_lines(status, problem)))

    @property
    def exit_code(self) -> ExitCode:  # type: ignore[override]
        """NOT_FOUND for what is not there, UNREACHABLE for a platform that cannot answer now, else REFUSED."""
        if self.status == HTTPStatus.NOT_FOUND and self.code != "model_not_found":
            return ExitCode.NOT_FOUND
        return ExitCode.UNREACHABLE if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else ExitCode.REFUSED

    @property
    def body(self) -> dict[str, Any]:
        return dict(self.problem)


@dataclass(frozen=True)
class Address:
    """Where the gateway is, and the key it asks for."""

    url: str
    key: str = field(repr=False)


def address(data: Path, *, url: str | None = None, api_key: str | None = None) -> Address:
    """The gateway to call.

    Raises:
        NoAddress: no URL, and no yard in `data`.
        NoKey: a URL of somebody else's, and no key.
    """
    place = layout(data)
    yard = state.load(place)
    base = (url or (yard.url if yard else "")).rstrip("/")
    if not base:
        raise NoAddress(f"There is no yard in {place.data}, and no URL was given.")
    if api_key is None and yard is not None and base == yard.url and place.admin_key_file.exists():
        api_key = place.admin_key_file.read_text().strip()
    if not api_key:
        raise NoKey(f"No API key was given for {base}.")
    return Address(base, api_key)


class Client:
    """One connection to a gateway. Reads may be repeated; everything that creates carries an Idempotency-Key."""

    def __init__(self, where: Address) -> None:
        self.url = where.url
        try:
            self._http = httpx.Client(
                base_url=where.url,
                headers={"authorization": f"Bearer {where.key}", "user-agent": f"modelyard/{state.our_version()}"},
                timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
                follow_redirects=True,
                trust_env=not _is_loopback(where.url),  # no proxy stands between us and this host
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise NoAddress(f"{where.url!r} is not a URL that can be called.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON behind a path; parameters that are None are left out. Raises Unreachable, Refused."""
        return self._send("GET", path, params=_given(params)).json()

    def rows(self, path: str, *, limit: int | None, after: str | None = None, **params: Any) -> tuple[list[Any], bool]:
        """Up to `limit` rows of a list (None: all), page by page, and whether there are more behind them."""
        found, more = list[Any](), True
        while more and (limit is None or len(found) < limit):
            wanted = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self.get(path, after=after, limit=wanted, **params)
            found += page["data"]
            more, after = page["has_more"], page["last_id"]
        return found, more

    def post(self, path: str, body: Any = None, *, key: str | None = None, **params: Any) -> Any:
        """Send JSON, under one Idempotency-Key through every retry. Raises Unreachable, Refused."""
        headers = {"idempotency-key": key or str(uuid4())}
        return self._send("POST", path, params=_given(params), json=body, headers=headers).json()

    def put(self, path: str, body: Any) -> Any:
        """Say what a path is to hold. Raises Unreachable, Refused."""
        return self._send("PUT", path, json=body).json()

    def patch(self, path: str, body: Any) -> Any:
        """Change what a path holds. Raises Unreachable, Refused."""
        return self._send("PATCH", path, json=body).json()

    def upload(self, file: BinaryIO, *, name: str, purpose: str, expires_s: int | None = None) -> Any:
        """Send a file, read from its beginning at every try. Raises Unreachable, Refused."""
        fields = {"purpose": purpose}
        if expires_s is not None:
            fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(expires_s)}
        return self._send(
            "POST", "/v1/files", files={"file": (name, file, "application/octet-stream")}, data=fields
        ).json()

    def upload_part(self, upload_id: str, data: BinaryIO) -> Any:
        """Send a part of an upload. Raises Unreachable, Refused."""
        return self._send("POST", f"/v1/uploads/{upload_id}/parts", files={"data": ("part", data)}).json()

    def delete(self, path: str) -> Any:
        """End a thing, and its last state. Raises Unreachable, Refused."""
        return self._send("DELETE", path).json()

    def events(self, path: str, *, after: int = 0, silence_s: float = READ_S) -> Iterator[ServerSentEvent]:
        """The events of a stream from number `after` + 1 on, until it ends, breaks, or is silent for `silence_s`.

        Raises:
            Refused: the gateway refused the stream. A broken one just ends: ask again from the last number.
        """
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        timeout = httpx.Timeout(silence_s, connect=CONNECT_S)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as answer:
                if _is_worth_repeating(answer):
                    return
                _check(answer)
                yield from parse(answer.iter_lines())
        except httpx.TransportError:
            return

    def stream(self, path: str, body: Any, *, patience_s: float) -> Iterator[ServerSentEvent]:
        """Send JSON once, and the events of its answer as they come. Raises Unreachable, Refused."""
        timeout = httpx.Timeout(patience_s, connect=CONNECT_S)
        try:
            with self._http.stream("POST", path, json=body, timeout=timeout) as answer:
                yield from parse(_check(answer).iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    @contextmanager
    def download(self, path: str, *, start: int = 0) -> Iterator[httpx.Response]:
        """The bytes of a path from offset `start` on, as an open response: 206 from there, 200 from the beginning."""
        headers = {"range": f"bytes={start}-"} if start else {}
        try:
            with self._http.stream("GET", path, headers={"accept-encoding": "identity", **headers}) as answer:
                if answer.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    _check(answer)
                yield answer
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        for number in range(len(PAUSES) + 1):
            try:
                answer = self._http.request(method, path, **request)
                if not _is_worth_repeating(answer) or number == len(PAUSES):
                    return _check(answer)
                pause = _asked_pause(answer, otherwise=PAUSES[number])
            except httpx.TransportError as error:
                refused = isinstance(error, httpx.ConnectError) and number >= ABSENT_PAUSES
                if refused or number == len(PAUSES) or isinstance(error, httpx.UnsupportedProtocol):
                    raise self._unreachable(error) from error
                pause = PAUSES[number]
            time.sleep(pause)
        raise AssertionError("the last round returned or raised")

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        why = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
        return Unreachable(f"{self.url} does not answer ({why}).")


def _check(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    answer.read()
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": answer.reason_phrase, "error": {"message": answer.text[:200], "code": None}}
    raise Refused(answer.status_code, problem)


def _lines(status: int, problem: Mapping[str, Any]) -> Iterator[str]:
    """An error's body in words: what, which fields, and the request's id for whoever reads the logs."""
    message = problem.get("detail") or problem.get("title") or "refused"
    fields = problem.get("errors") or []
    param = problem.get("param")
    where = f"{param}: " if param and not fields and not str(message).startswith(str(param)) else ""
    yield f"{where}{message} ({problem.get('code') or 'HTTP'}, {status})"
    for found in fields:
        yield f"  {found.get('param') or 'body'}: {found.get('message')}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and problem.get("request_id"):
        yield f"  request {problem['request_id']}"


def _is_worth_repeating(answer: httpx.Response) -> bool:
    """Full, away for a moment, or the same request is still being answered (the gateway says when to return)."""
    busy = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
    asked = answer.status_code == HTTPStatus.CONFLICT and "retry-after-ms" in answer.headers
    return answer.status_code in busy or asked


def _asked_pause(answer: httpx.Response, *, otherwise: float) -> float:
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return min(max(float(answer.headers[name]) * unit, otherwise), LONGEST_PAUSE_S)
        except (KeyError, ValueError):
            continue
    return otherwise


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
