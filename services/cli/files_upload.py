"""Files on their way to a gateway: several at once, large ones in parts, all under one bar."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, cast

from services.cli.client import CallError, Client
from services.cli.output import ExitCode, note

WHOLE_BYTES = 64 * 1024**2  # a larger file goes in parts, which a broken connection does not cost all of
PART_BYTES = 32 * 1024**2
AT_ONCE = 4

Tell = Callable[[int], None]  # told how many more bytes are sent; fewer when a try was in vain


class _Stopped(Exception):
    """Another file could not be sent, or somebody pressed Ctrl-C."""


class NoFile(CallError):
    """There is no such file, or it cannot be read."""

    code = "no_file"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Outgoing:
    """A file to send, and the name that it gets."""

    path: Path
    name: str
    purpose: str
    expires_s: int | None = None

    @property
    def bytes(self) -> int:
        """Its size now. Raises NoFile."""
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise NoFile(f"{self.path} cannot be read: {error.strerror}.") from error


def send(client: Client, outgoing: Outgoing) -> dict[str, Any]:
    """Upload one file, its bar in sight; the file as the gateway shows it. Raises NoFile, Refused, Unreachable."""
    (sent,) = send_all(client, [outgoing])
    return sent


def send_all(client: Client, files: Sequence[Outgoing], *, at_once: int = AT_ONCE) -> list[dict[str, Any]]:
    """Upload files, several at once, under one bar; in their order. All, or what was sent is forgotten.

    Raises:
        NoFile: one of them cannot be read.
        Refused, Unreachable: as the gateway answers.
    """
    sizes, stopped = [each.bytes for each in files], Event()
    with bar(sum(sizes), files=len(files)) as show, ThreadPoolExecutor(at_once, thread_name_prefix="upload") as threads:

        def tell(count: int) -> None:
            if stopped.is_set():
                raise _Stopped
            show(count)

        work = [threads.submit(_send, client, each, size, tell) for each, size in zip(files, sizes, strict=True)]
        try:
            for done in as_completed(work):
                done.result()
        except BaseException:
            stopped.set()
            threads.shutdown(wait=True, cancel_futures=True)
            forget(client, (each.result()["id"] for each in work if _sent(each)))
            raise
        return [each.result() for each in work]


@contextmanager
def bar(total: int, *, files: int) -> Iterator[Tell]:
    """A bar on a terminal, a line elsewhere. What it yields may be called from any thread."""
    if not sys.stderr.isatty():
        note(f"uploading {f'{files} files, ' if files > 1 else ''}{total} bytes")
        yield lambda _count: None
        return
    from rich import progress as bars  # noqa: PLC0415 - 100 ms that a script need not pay
    from rich.console import Console  # noqa: PLC0415

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn())
    with bars.Progress(*columns, bars.TransferSpeedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("upload" if files == 1 else f"upload {files} files", total=total)
        yield lambda count: progress.update(task, advance=count)


class Told:
    """A stretch of a file that tells how much of it is read, and untells what is read again."""

    def __init__(self, file: BinaryIO, tell: Tell, *, start: int = 0, length: int | None = None) -> None:
        self._file, self._tell, self._start = file, tell, start
        self._length = file.seek(0, 2) - start if length is None else length
        self._told = 0
        file.seek(start)

    def read(self, size: int = -1, /) -> bytes:
        left = self._length - self.tell()
        data = self._file.read(left if size < 0 else min(size, left))
        self._say()
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        base = {0: 0, 1: self.tell(), 2: self._length}[whence]
        self._file.seek(self._start + base + offset)
        if whence == 0:  # the others only ask for the length
            self._say()
        return self.tell()

    def tell(self) -> int:
        return self._file.tell() - self._start

    def _say(self) -> None:
        self._tell(self.tell() - self._told)
        self._told = self.tell()


def _send(client: Client, outgoing: Outgoing, size: int, tell: Tell) -> dict[str, Any]:
    if size > WHOLE_BYTES:
        return _in_parts(client, outgoing, size, tell)
    with _opened(outgoing.path) as file:
        told = cast("BinaryIO", Told(file, tell))
        return dict(client.upload(told, name=outgoing.name, purpose=outgoing.purpose, expires_s=outgoing.expires_s))


def _in_parts(client: Client, outgoing: Outgoing, size: int, tell: Tell) -> dict[str, Any]:
    """One upload of parts of `PART_BYTES`, one after the other: other files are on their way beside it."""
    wanted: dict[str, Any] = {
        "filename": outgoing.name,
        "purpose": outgoing.purpose,
        "bytes": size,
        "mime_type": "application/octet-stream",
    }
    if outgoing.expires_s is not None:
        wanted["expires_after"] = {"anchor": "created_at", "seconds": outgoing.expires_s}
    upload = client.post("/v1/uploads", wanted)["id"]
    try:
        with _opened(outgoing.path) as file:
            parts = [
                client.upload_part(upload, cast("BinaryIO", Told(file, tell, start=start, length=length)))["id"]
                for start, length in _stretches(size)
            ]
        return dict(client.post(f"/v1/uploads/{upload}/complete", {"part_ids": parts})["file"])
    except BaseException:
        with suppress(CallError):
            client.post(f"/v1/uploads/{upload}/cancel")
        raise


def _stretches(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, PART_BYTES):
        yield start, min(PART_BYTES, size - start)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise NoFile(f"{path} cannot be read: {error.strerror or error}.") from error


def forget(client: Client, file_ids: Iterable[str]) -> None:
    """Delete files that nothing needs any more; one that cannot be deleted stays."""
    for file_id in file_ids:
        with suppress(CallError):
            client.delete(f"/v1/files/{file_id}")


def _sent(work: Future[dict[str, Any]]) -> bool:
    return work.done() and not work.cancelled() and work.exception() is None
