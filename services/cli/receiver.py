"""A webhook receiver on this host: a real HTTP server that keeps what it is sent, for the demo to look at."""

import base64
import hmac
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import Any, Self

LARGEST_BODY = 1024 * 1024


@dataclass(frozen=True)
class Received:
    """One request as it arrived. Names of headers are in lower case; the body is untouched."""

    headers: dict[str, str]
    body: bytes


def signature_of(received: Received, secret: str) -> str:
    """The signature that a genuine request carries: Standard Webhooks 1.0.0, as any receiver would compute it.

    `v1,` and base64 of HMAC-SHA-256 over `{webhook-id}.{webhook-timestamp}.{body}`, keyed with the bytes behind
    `whsec_`. A receiver also refuses timestamps that are minutes old, so that nobody can send a request again.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    head = f"{received.headers.get('webhook-id')}.{received.headers.get('webhook-timestamp')}."
    digest = hmac.digest(key, head.encode() + received.body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


class Receiver:
    """Answers every POST with 204. `url` is where to send to while the context is open."""

    def __init__(self) -> None:
        self._arrived = arrived = SimpleQueue[Received]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                if length > LARGEST_BODY:
                    self.send_error(413)
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                arrived.put(Received(headers, self.rfile.read(length)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing: the demo tells the story."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, *, timeout_s: float) -> Received | None:
        """The next request; None when none came in time."""
        try:
            return self._arrived.get(timeout=timeout_s)
        except Empty:
            return None
