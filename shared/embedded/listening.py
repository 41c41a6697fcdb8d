"""What the yard hears: stop signals, children's deaths, and the port that the gateway answers on."""

import select
import signal
import socket
from contextlib import ExitStack, suppress
from types import FrameType, TracebackType
from typing import Self

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Wakes one select() for every signal. Use as a context on the main thread."""

    def __init__(self) -> None:
        self.stop_asked = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._ear, mouth = socket.socketpair()
        for end in (self._ear, mouth):
            end.setblocking(False)
            self._stack.callback(end.close)
        before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        for number in (*STOP, signal.SIGCHLD):
            self._stack.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, timeout_s: float) -> None:
        """Return at the next signal, or after `timeout_s`."""
        if select.select([self._ear], [], [], timeout_s)[0]:
            with suppress(BlockingIOError):
                self._ear.recv(4096)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.stop_asked = self.stop_asked or number in STOP


def listen(host: str, port: int) -> socket.socket:
    """A socket that queues the gateway's callers from now on. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # Inherited by each connection. uvicorn takes a descriptor for a Unix socket's and does not set it: then an answer,
    # which goes out as head and body, waits 40 ms for the caller's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
