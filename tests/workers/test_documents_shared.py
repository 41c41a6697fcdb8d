"""How much of documents a worker holds at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.workers.engine_yard import until
from workers.documents.reading import Readers
from workers.documents.types import Parsed, Refused
from workers.operations.documents_shared import Shelf

Take = Callable[[str], AbstractAsyncContextManager[Parsed]]


@asynccontextmanager
async def shelf(
    tmp_path: Path, *, capacity: int, at_once: int = 2, fetched: list[Path] | None = None
) -> AsyncIterator[Take]:
    """A shelf on which texts are put by what they say; their paths come to `fetched`."""
    opened = Shelf(Readers(Settings()), at_once=at_once, capacity=capacity)

    def take(text: str) -> AbstractAsyncContextManager[Parsed]:
        path = tmp_path / text[:4]

        async def fetch() -> None:
            await asyncio.to_thread(path.write_text, text)
            if fetched is not None:
                fetched.append(path)

        return opened.take(path, filename="a.txt", fetch=fetch)

    try:
        yield take
    finally:
        await opened.close()


def background(taking: AbstractAsyncContextManager[Parsed], leave: asyncio.Event) -> "asyncio.Task[str]":
    async def hold() -> str:
        async with taking as parsed:
            await leave.wait()
            return parsed.pages[0].text

    return asyncio.create_task(hold())


class TestShelf:
    def test_a_text_waits_until_there_is_room_for_it(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with shelf(tmp_path, capacity=150) as take:
                leave = asyncio.Event()
                leave.set()
                async with take("one " * 25):
                    second, third = background(take("two " * 25), leave), background(take("tri " * 10), leave)
                    await until(third.done)
                    assert not second.done()
                assert (await second).startswith("two")

        asyncio.run(scenario())
        assert list(tmp_path.iterdir()) == []

    def test_one_that_is_larger_than_all_room_has_it_alone(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with shelf(tmp_path, capacity=10) as take, take("large " * 25) as parsed:
                assert len(parsed.pages[0].text) > 100

        asyncio.run(scenario())

    def test_whoever_leaves_without_waiting_longer_takes_nothing(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            leave = asyncio.Event()
            leave.set()
            fetched: list[Path] = []
            async with shelf(tmp_path, capacity=150, at_once=1, fetched=fetched) as take:
                async with take("one " * 25):
                    second = background(take("two " * 25), leave)
                    await until(lambda: len(fetched) == 2 and not fetched[1].exists())  # it is read, and waits for room
                    assert not second.done()
                    second.cancel()
                    await asyncio.gather(second, return_exceptions=True)
                    assert second.cancelled()
                assert (await background(take("tri " * 30), leave)).startswith("tri")

        asyncio.run(scenario())

    def test_a_refused_document_leaves_its_place(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with shelf(tmp_path, capacity=150, at_once=1) as take:
                for _ in range(2):
                    with pytest.raises(Refused):
                        async with take(" "):
                            pytest.fail("there is nothing in it")

        asyncio.run(scenario())
        assert list(tmp_path.iterdir()) == []
