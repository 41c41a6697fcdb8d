"""A receiver of webhooks that does as it is told: a real HTTP server on a thread of this process."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request as it came: path, headers (lower case), raw body."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Notes the request, then gives the next answer of the script (the last one again and again)."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {key.lower(): value for key, value in self.headers.items()}
        answer = self.server.note(Received(self.path, headers, body))
        try:
            answer(self)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The receiver. `received` holds every request, in order."""

    daemon_threads = True

    def __init__(self, script: list[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[Received] = []
        self.over = threading.Event()
        self._script = script
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    def note(self, request: Received) -> Answer:
        with self._lock:
            self.received.append(request)
            return self._script[min(len(self.received), len(self._script)) - 1]


@contextmanager
def receiver(*script: Answer) -> Iterator[Server]:
    """A receiver that gives these answers one after the other; without any it accepts everything."""
    server = Server(list(script) or [status(204)])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int, *, body: bytes = b"", **headers: str) -> Answer:
    """Answer with a status; `retry_after="2"` is the header Retry-After."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hang(handler: Handler) -> None:
    """Never answer."""
    handler.server.over.wait()


def drip(handler: Handler) -> None:
    """A byte of the status line every 50 ms: each read is quick, the whole never ends."""
    while not handler.server.over.wait(0.05):
        handler.wfile.write(b"H")
        handler.wfile.flush()


def drip_body(handler: Handler) -> None:
    """200 at once, then a byte every 50 ms."""
    handler.send_response(200)
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    while not handler.server.over.wait(0.05):
        handler.wfile.write(b".")
        handler.wfile.flush()


def flood(handler: Handler) -> None:
    """200 and a body of 1 GB."""
    handler.send_response(200)
    handler.send_header("content-length", str(10**9))
    handler.end_headers()
    while not handler.server.over.is_set():
        handler.wfile.write(b"x" * 65536)


def reset(handler: Handler) -> None:
    """RST instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def garbage(handler: Handler) -> None:
    """An answer that is not HTTP."""
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    handler.close_connection = True


def closed_port() -> str:
    """A URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/hook"
