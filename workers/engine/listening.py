"""What an engine listens on and is served by: a socket for its own user, a server that leaves when told, a token."""

import hmac
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

BACKLOG = 2048

#: ASGI as asgiref's specification has it, so that no framework is needed for it here
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: SIGTERM drains first."""

    def __init__(self, app: App) -> None:
        super().__init__(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Token:
    """Asks for the bearer token on every call but `/health`; `refusal` answers whoever has another."""

    def __init__(self, app: App, *, token: str | None, refusal: App) -> None:
        self._app = app
        self._refusal = refusal
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        allowed = scope["path"] == "/health" or self._allows(dict(scope["headers"]))
        await (self._app if allowed else self._refusal)(scope, receive, send)

    def _allows(self, headers: dict[bytes, bytes]) -> bool:
        return self._expected is None or hmac.compare_digest(headers.get(b"authorization", b""), self._expected)


def bind(path: Path) -> socket.socket:
    """A listening socket for our own user alone. It gets its name last, so that whoever sees it can connect."""
    unnamed = Path(f"{path}~")
    unnamed.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(bytes(unnamed))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    unnamed.replace(path)  # also over the socket of a process that was killed
    return listener
