"""The process that reads: what it is left with, and how it ends."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.settings import Settings
from tests.support.polling import wait_until
from tests.workers.documents.made import MIB, pages_pdf, stream, text_pdf, zeros
from tests.workers.documents.reading import codes
from workers.documents.protocol import Request
from workers.documents.reader import Ended, Reader
from workers.documents.reading import Readers, parse
from workers.documents.types import Parsed, Refused

MEMORY = 512 * MIB


@pytest.fixture
def busy(tmp_path):
    """A document that takes seconds to read."""
    path = Path(tmp_path, "busy.html")
    path.write_bytes(b"<p>hello <b>world</b></p>" * 400_000)
    return path


def readers_of_this_process() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [each for each in found if each.is_running() and "workers.documents" in each.cmdline()]


async def forked() -> psutil.Process:
    """The process that reads a document now, once it is inside its limits."""

    def found() -> psutil.Process | None:
        forks = [fork for reader in readers_of_this_process() for fork in reader.children()]
        return next((fork for fork in forks if fork.rlimit(psutil.RLIMIT_NOFILE) == (64, 64)), None)

    return await asyncio.to_thread(wait_until, found)


def while_reading(path: Path, act: Callable[[psutil.Process], Awaitable[Any]], **settings: Any) -> Any:
    """Start to read, do something to the process, and say what came of both."""

    async def run() -> Any:
        async with Readers(Settings(document_memory_bytes=MEMORY, **settings)) as readers:
            reading = asyncio.ensure_future(readers.parse(path, filename=path.name))
            done = await act(await forked())
            (ended,) = await asyncio.gather(reading, return_exceptions=True)
            return done, ended

    return asyncio.run(run())


class TestLimits:
    def test_it_has_no_network_no_privileges_no_settings_and_bounds(self, busy):
        async def look(process: psutil.Process) -> dict[str, Any]:
            seen = {name: Path(f"/proc/{process.pid}/{name}").read_text() for name in ("status", "net/dev")}  # noqa: ASYNC240
            found = {
                "environment": set(process.environ()),
                "privileges": "NoNewPrivs:\t1" in seen["status"],
                "interfaces": seen["net/dev"].count(":"),
                "limits": [
                    process.rlimit(kind)[1]
                    for kind in (psutil.RLIMIT_AS, psutil.RLIMIT_CPU, psutil.RLIMIT_FSIZE, psutil.RLIMIT_CORE)
                ],
                "group": os.getpgid(process.pid) == process.ppid() != os.getpgid(0),
            }
            process.kill()
            return found

        found, _ = while_reading(busy, look, document_cpu_s=50)
        assert found.pop("environment") <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE"}
        own = Path("/proc/net/dev").read_text().count(":")
        assert found.pop("interfaces") in {1, own}  # all of them only where the kernel forbids namespaces
        assert found == {"privileges": True, "limits": [MEMORY, 51, 0, 0], "group": True}

    def test_memory_ends_before_the_limit(self, tmp_path):
        path = pages_pdf(tmp_path / "zeros.pdf", 1, stream(zeros(1024 * MIB)))
        request = Request(
            str(path), path.name, pages=9, text_bytes=MIB, cpu_s=30, memory_bytes=MEMORY // 2, images=False
        )

        async def run() -> Ended | None:
            reader = await Reader.start()
            try:
                with pytest.raises(Refused, match="more than 256 MiB"):
                    assert [told async for told in reader.answers(request)] == [{"format": "pdf"}]
                return reader.ended
            finally:
                await reader.stop()

        ended = asyncio.run(run())
        assert ended is not None
        assert ended.peak_bytes < MEMORY // 2

    def test_cpu_time_ends(self, busy):
        assert codes(busy, document_cpu_s=1) == ["parser_timeout"]

    def test_time_by_the_clock_ends_what_takes_no_cpu_time(self, busy):
        async def stop(process: psutil.Process) -> None:
            process.suspend()

        _, ended = while_reading(busy, stop, document_cpu_s=1)
        assert isinstance(ended, Refused)
        assert ended.error.code == "parser_timeout"
        assert readers_of_this_process() == []


class TestDeaths:
    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
    def test_a_crash_costs_one_document(self, busy, tmp_path, number: signal.Signals):
        good = text_pdf(tmp_path / "good.pdf", ["Good"])

        async def run() -> tuple[list[Any], int]:
            async with Readers(Settings(document_parsers=1)) as readers:
                reading = [asyncio.ensure_future(readers.parse(path, filename=path.name)) for path in (busy, good)]
                process = await forked()
                reader = process.ppid()
                process.send_signal(number)
                ended = await asyncio.gather(*reading, return_exceptions=True)
                return ended, [each.pid for each in readers_of_this_process()].count(reader)

        (crashed, read), kept = asyncio.run(run())
        assert isinstance(crashed, Refused)
        assert crashed.error.code == "damaged_document"
        assert number.name in crashed.error.title
        assert isinstance(read, Parsed)
        assert kept == 1  # the same process went on

    def test_the_reading_process_itself_may_be_tried_again(self, busy, tmp_path):
        async def kill(process: psutil.Process) -> int:
            os.kill(process.ppid(), signal.SIGKILL)
            return process.pid

        fork, ended = while_reading(busy, kill)
        assert isinstance(ended, ConnectionError)
        wait_until(lambda: not psutil.pid_exists(fork) or psutil.Process(fork).status() == psutil.STATUS_ZOMBIE)

    def test_cancellation_leaves_nothing(self, busy):
        async def run() -> int:
            reading = asyncio.ensure_future(parse(busy, filename="a.html", settings=Settings()))
            fork = await forked()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            return fork.pid

        fork = asyncio.run(run())
        assert readers_of_this_process() == []
        wait_until(lambda: not psutil.pid_exists(fork) or psutil.Process(fork).status() == psutil.STATUS_ZOMBIE)


class TestReaders:
    def test_no_more_than_asked_for_at_once_and_they_are_kept(self, tmp_path):
        paths = [text_pdf(tmp_path / f"{number}.pdf", [f"Number {number}"]) for number in range(12)]

        async def run() -> tuple[list[str], int, int]:
            async with Readers(Settings(document_parsers=2)) as readers:
                found = await asyncio.gather(*(readers.parse(path, filename="a.pdf") for path in paths))
                kept = {each.pid for each in readers_of_this_process()}
                await readers.parse(paths[0], filename="a.pdf")
                return (
                    [each.pages[0].text for each in found],
                    len(kept),
                    len(kept & {each.pid for each in readers_of_this_process()}),
                )

        texts, kept, still = asyncio.run(run())
        assert texts == [f"Number {number}" for number in range(12)]
        assert (kept, still) == (2, 2)
        assert readers_of_this_process() == []

    def test_one_that_died_while_it_waited_is_replaced(self, tmp_path):
        path = text_pdf(tmp_path / "a.pdf", ["Text"])

        async def run() -> tuple[str, bool]:
            async with Readers(Settings()) as readers:
                await readers.parse(path, filename="a.pdf")
                [first] = readers_of_this_process()
                first.kill()
                await asyncio.to_thread(wait_until, lambda: not first.is_running())
                found = await readers.parse(path, filename="a.pdf")
                return found.pages[0].text, first.pid in {each.pid for each in readers_of_this_process()}

        assert asyncio.run(run()) == ("Text", False)

    def test_a_file_that_is_not_there_is_an_error_of_ours(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            asyncio.run(parse(tmp_path / "none.pdf", filename="none.pdf", settings=Settings()))
