"""A gateway that misbehaves by script: a real HTTP server that gives its answers one after the other."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from services.cli.client import Address, Client


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Gateway:
    """Where it listens, and what it was asked so far."""

    url: str
    asked: list[Asked] = field(default_factory=list)

    def client(self) -> Client:
        return Client(Address(self.url, "modelyard_test"))


Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int, body: Any = None, /, **headers: str) -> Answer:
    """A whole answer: JSON, or bytes as they are."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(sent)))
        handler.end_headers()
        handler.wfile.write(sent)

    return answer


def cut(status: int, body: bytes, *, promised: int, **headers: str) -> Answer:
    """An answer that breaks off: it promises more bytes than come."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(promised))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def stream(*events: dict[str, Any]) -> Answer:
    """Server-sent events, then the end of the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.end_headers()
        for event in events:
            text = f"id: {event['id']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"
            handler.wfile.write(b": ping\n\n" + text.encode())

    return answer


def reset(handler: BaseHTTPRequestHandler) -> None:
    """RST instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@contextmanager
def gateway(*script: Answer) -> Iterator[Gateway]:
    """Gives these answers in order, the last one for good."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            with lock:
                number = len(running.asked)
                running.asked.append(Asked(self.command, self.path, headers, body))
            script[min(number, len(script) - 1)](self)
            self.close_connection = True

        do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - the names are http.server's

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that goes away is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    running = Gateway(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
