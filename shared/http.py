"""A request to an address that a user gave: a total deadline, no redirects, no proxy, a short answer.

The timeouts of HTTP libraries count from one read to the next, so a receiver that drips a byte every few
seconds outlasts them; here every socket operation gets what is left of one deadline. A name is resolved once
and the connection goes to an address of that answer: `resolve` is where a policy about addresses belongs.
"""

import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpcore
import httpx

from shared.clock import monotonic

READ_BYTES = 64 * 1024  # of an answer; the rest is left unread
MIN_TIMEOUT_S = 0.001  # zero would mean a non-blocking socket

#: (name, port) to numeric addresses, in the order in which they are tried
Resolve = Callable[[str, int], list[str]]


class Reason(StrEnum):
    """Why a request got no answer."""

    URL = "url"  #: not a URL that may be sent to
    DNS = "dns"  #: the name has no address
    CONNECT = "connect"  #: refused, unreachable, or reset before an answer
    TLS = "tls"  #: no trusted encrypted connection
    TIMEOUT = "timeout"  #: the deadline passed
    PROTOCOL = "protocol"  #: what came back is not HTTP


class Unanswered(Exception):
    """No HTTP status came back."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason.value)


@dataclass(frozen=True)
class Reply:
    """A status, the headers (names in lower case) and at most the first `READ_BYTES` of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name as the system knows them. The system's resolver keeps its own time limit."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Outbound:
    """Sends requests, each on a connection of its own. Thread-safe."""

    def __init__(self, *, timeout_s: float, allow_http: bool, resolve: Resolve = resolve) -> None:
        self._timeout_s = timeout_s
        self._schemes = {b"https", b"http"} if allow_http else {b"https"}
        self._resolve = resolve
        self._tls = httpx.create_ssl_context(trust_env=False)

    def post(self, url: str, *, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send `body` and return what the receiver said, within the deadline.

        A status that arrived counts, even when its body is cut off by the deadline or by the receiver.

        Raises:
            Unanswered: no status came back in time; `reason` says why.
        """
        target = self._target(url)
        wire = _Wire(monotonic() + self._timeout_s, self._resolve)
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self._tls, network_backend=wire, retries=0) as pool,
                pool.stream("POST", target, headers=list(headers.items()), content=body) as response,
            ):
                named = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in response.headers}
                return Reply(response.status, named, _head(response.iter_stream()))
        except httpcore.TimeoutException as error:
            raise Unanswered(Reason.TIMEOUT, f"no answer within {self._timeout_s:g} s") from error
        except httpcore.NetworkError as error:
            raise Unanswered(*_cause(error)) from error
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise Unanswered(Reason.PROTOCOL, str(error)) from error

    def _target(self, url: str) -> httpcore.URL:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise Unanswered(Reason.URL, "not a URL") from error
        if parsed.raw_scheme not in self._schemes:
            raise Unanswered(Reason.URL, f"{parsed.scheme or 'no'} scheme is not allowed")
        if parsed.userinfo or not parsed.host:
            raise Unanswered(Reason.URL, "a host without user or password is needed")
        return httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)


class _Wire(httpcore.NetworkBackend):
    """Connections that share one deadline."""

    def __init__(self, deadline: float, resolve: Resolve) -> None:
        self._deadline = deadline
        self._resolve = resolve
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(  # noqa: PLR0917 - the signature is httpcore's
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        del timeout
        try:
            addresses = self._resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        failed: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                stream = self._sockets.connect_tcp(
                    address,
                    port,
                    left(self._deadline, httpcore.ConnectTimeout),
                    local_address,
                    socket_options,
                )
                return _Stream(stream, self._deadline)
            except httpcore.ConnectError as error:
                failed = error
        raise failed or httpcore.ConnectError(f"{host} has no address")


class _Stream(httpcore.NetworkStream):
    """A connection whose every operation gets what is left until the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        return self._stream.read(max_bytes, left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        self._stream.write(buffer, left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        del timeout
        seconds = left(self._deadline, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def left(deadline: float, late: type[httpcore.TimeoutException]) -> float:
    """Seconds until `deadline` (monotonic).

    Raises:
        httpcore.TimeoutException: it has passed; the kind is `late`.
    """
    seconds = deadline - monotonic()
    if seconds < MIN_TIMEOUT_S:
        raise late("the deadline has passed")
    return seconds


def _head(chunks: Iterable[bytes]) -> bytes:
    """The first bytes of a body; whatever interrupts it ends it."""
    body = bytearray()
    try:
        for chunk in chunks:
            body += chunk
            if len(body) >= READ_BYTES:
                break
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        pass
    return bytes(body[:READ_BYTES])


def _cause(error: httpcore.NetworkError) -> tuple[Reason, str]:
    cause = error.args[0] if error.args else None  # the pool drops __cause__
    if isinstance(cause, socket.gaierror):
        return Reason.DNS, cause.strerror or "the name has no address"
    if isinstance(cause, ssl.SSLError):
        return Reason.TLS, cause.reason or "the handshake failed"
    return Reason.CONNECT, str(error)
