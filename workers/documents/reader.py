"""The worker's end of a reading process: started, asked, and ended with everything it started."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from shared.settings import passed_on
from workers.documents.protocol import Request
from workers.documents.refusals import damaged, too_large, too_much_text, too_slow
from workers.documents.types import Refused

PASSED: Final = ("PATH", "LANG", "LC_ALL")
ROOT: Final = Path(__file__).resolve().parents[2]  #: where `python -m workers.documents` finds us
_CHUNK: Final = 65_536
_PICTURE: Final = 32 * 1024**2  # bytes of a line that holds a picture; one of 16 million pixels has about 8 MiB


@dataclass(frozen=True)
class Ended:
    """How the process of one document ended."""

    status: int  #: exit status; negative: the signal
    peak_bytes: int
    cpu_s: float

    def refusal(self, request: Request) -> Refused:
        """What a death that nobody announced means for the document."""
        if self.status == -signal.SIGXCPU or self.cpu_s >= request.cpu_s:
            return too_slow(request.cpu_s)
        if self.peak_bytes > request.memory_bytes // 2:  # the allocation that failed never became resident
            return too_large(request.memory_bytes)
        how = signal.Signals(-self.status).name if self.status < 0 else f"status {self.status}"
        return damaged(f"Its reader crashed ({how}).")


class Reader:
    """One `python -m workers.documents`. It reads one document after the other, each in a fork of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._to, self._from = process, process.stdin, process.stdout
        self.idle = True  #: it waits for a document
        self.ended: Ended | None = None  #: how the last document's process ended

    @classmethod
    async def start(cls) -> "Reader":
        """Start one from this thread, whose end would kill it (PDEATHSIG)."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "workers.documents", str(os.getpid()),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                start_new_session=True, cwd=ROOT, env=passed_on(PASSED),
            )
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the process, which leads a group and a session."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs still."""
        return self._process.returncode is None

    async def answers(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """What it says about a document, the last line excepted.

        Raises:
            Refused: the process died over the document, or said too much.
            ConnectionError: it did not start, or it was killed from outside.
        """
        self.idle = False
        self._to.write(orjson.dumps(asdict(request), option=orjson.OPT_APPEND_NEWLINE))
        await self._to.drain()
        finished = False
        async for line in self._lines(most=max(2 * request.text_bytes, _PICTURE) + _CHUNK):
            told = _object(line)
            if "exit" in told:
                status = os.waitstatus_to_exitcode(told["exit"])
                self.ended, self.idle = Ended(status, told["peak_bytes"], told["cpu_s"]), True
                if status and not finished:
                    raise self.ended.refusal(request)
                return
            finished = finished or "refused" in told
            yield told
        raise ConnectionError("the process that reads documents ended")

    async def _lines(self, *, most: int) -> AsyncIterator[bytes]:
        """Lines of at most `most` bytes; JSON doubles a text at the worst, as control characters are dropped."""
        held = bytearray()
        while piece := await self._from.read(_CHUNK):
            *whole, rest = piece.split(b"\n")
            for line in whole:
                held += line
                if held:
                    yield bytes(held)
                held.clear()
            held += rest
            if len(held) > most:
                raise too_much_text(most)

    async def stop(self) -> None:
        """Let an idle process leave; end a busy one, and the fork that reads, at once."""
        self._to.close()
        if self.idle:
            await self._process.wait()
        await end(self._process)


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the group that it leads, and forget what it still had to say."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - `wait` waits for unread output, too
    await process.wait()


def _object(line: bytes) -> dict[str, Any]:
    """A line as an object; one that a death cut short says nothing."""
    with suppress(ValueError):
        told = orjson.loads(line)
        if isinstance(told, dict):
            return told
    return {}
