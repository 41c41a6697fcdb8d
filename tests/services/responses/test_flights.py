import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from services.responses import service
from services.responses.flights import Found, Responses
from services.responses.service import Limits
from services.responses.streams import replayed
from services.responses.types import Key, Stored, Verdict
from shared.cache import Cache
from shared.clock import monotonic
from shared.contracts.caching import CacheWish
from tests.services.responses import answers
from tests.support.stores import RunningStores
from tests.support.webhooks import closed_port

pytestmark = pytest.mark.anyio

LIMITS = Limits(entry_bytes=2**20, ttl_s=60)
AUTO = CacheWish()
HELLO = answers.chat("Hello")
WAIT_S = 20.0


@asynccontextmanager
async def gateway(cache: Cache, *, limits: Limits = LIMITS) -> AsyncIterator[Responses]:
    """The cache of one gateway process."""
    responses = Responses(cache, limits)
    yield responses
    await responses.close()


@pytest.fixture
async def responses(cache: Cache) -> AsyncIterator[Responses]:
    async with gateway(cache) as opened:
        yield opened


@pytest.fixture
async def neighbour(stores: RunningStores) -> AsyncIterator[Responses]:
    """Another gateway, on the same Redis."""
    cache = Cache(stores.cache_url, quick_s=5)
    async with gateway(cache) as opened:
        yield opened
    cache.close()


@pytest.fixture
def key() -> Key:
    return Key(uuid4(), "base", None, "request")


@dataclass
class Engine:
    """Counts its requests and answers those that are let through."""

    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, responses: Responses, key: Key, *, wait_s: float = WAIT_S, fails: bool = False) -> Found:
        """A call as a route makes it."""
        found = await responses.find(key, AUTO, wait_s=wait_s)
        with found:
            if found.stored is None:
                self.asked += 1
                await self.gate.wait()
                if not fails:
                    found.keep(HELLO.body)
        return found


async def until(condition: Callable[[], object], *, timeout_s: float = 10) -> None:
    """Poll on the loop."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the loop's own wait_until
            await asyncio.sleep(0.01)


def scripts(cache: Cache) -> int:
    """Looks that Redis has answered."""
    told = cache.surely(lambda client: client.info("commandstats"))
    assert isinstance(told, dict)
    return int(told["cmdstat_evalsha"]["calls"])


def verdicts(calls: Iterable[Found]) -> list[Verdict]:
    return sorted(call.verdict for call in calls)


async def hit(responses: Responses, key: Key) -> Stored | None:
    """What is found once everything is kept."""
    found = await responses.find(key, AUTO, wait_s=WAIT_S)
    found.close()
    return found.stored


class TestFind:
    async def test_a_miss_then_hits(self, responses: Responses, key: Key):
        first = await responses.find(key, AUTO, wait_s=WAIT_S)
        first.keep(HELLO.body)
        second = await responses.find(key, AUTO, wait_s=WAIT_S)  # while it is being written
        assert (first.verdict, first.stored) == (Verdict.MISS, None)
        assert (second.verdict, second.stored) == (Verdict.HIT, HELLO)
        await until(lambda: not responses._flights)
        third = await responses.find(key, AUTO, wait_s=WAIT_S)
        assert (third.verdict, third.stored) == (Verdict.HIT, HELLO)

    async def test_a_stream_is_kept_as_a_whole_answer(self, responses: Responses, key: Key):
        with await responses.find(key, AUTO, wait_s=WAIT_S) as found:
            found.keep_stream(b"".join(replayed(HELLO, model="digest", include_usage=True)))
        stored = await hit(responses, key)
        assert stored is not None
        assert stored.json()["choices"] == HELLO.json()["choices"]

    async def test_no_key_is_a_bypass(self, responses: Responses):
        with await responses.find(None, AUTO, wait_s=WAIT_S) as found:
            found.keep(HELLO.body)
        assert (found.verdict, found.stored) == (Verdict.BYPASS, None)

    async def test_a_ttl_of_zero_switches_it_off(self, cache: Cache, key: Key):
        async with gateway(cache, limits=Limits(2**20, 0)) as responses:
            assert (await responses.find(key, AUTO, wait_s=WAIT_S)).verdict is Verdict.BYPASS

    async def test_refresh_replaces_what_is_there(self, responses: Responses, key: Key):
        with await responses.find(key, AUTO, wait_s=WAIT_S) as found:
            found.keep(HELLO.body)
        assert await hit(responses, key) == HELLO
        with await responses.find(key, CacheWish(mode="refresh"), wait_s=WAIT_S) as found:
            assert (found.verdict, found.stored) == (Verdict.MISS, None)
            found.keep(answers.chat("Better").body)
        await until(lambda: not responses._tasks)
        assert await hit(responses, key) == answers.chat("Better")

    async def test_a_purge_during_a_call_is_kept_to(self, cache: Cache, responses: Responses, key: Key):
        with await responses.find(key, AUTO, wait_s=WAIT_S) as found:
            service.purge(cache, key.tenant)
            found.keep(HELLO.body)
        await until(lambda: not responses._flights)
        assert (await responses.find(key, AUTO, wait_s=WAIT_S)).verdict is Verdict.MISS


class TestOneProcess:
    async def test_equal_calls_ask_once(self, cache: Cache, responses: Responses, key: Key):
        engine = Engine()
        calls = [asyncio.create_task(engine.call(responses, key)) for _ in range(8)]
        await until(lambda: engine.asked)
        engine.gate.set()
        found = await asyncio.gather(*calls)
        assert engine.asked == 1
        assert verdicts(found) == [Verdict.COALESCED] * 7 + [Verdict.MISS]
        await until(lambda: not responses._tasks)
        assert service.figures(cache, key.tenant).coalesced == 7

    async def test_a_leader_that_fails_makes_another_one_ask(self, responses: Responses, key: Key):
        engine = Engine()
        leader = asyncio.create_task(engine.call(responses, key, fails=True))
        await until(lambda: engine.asked)
        others = [asyncio.create_task(engine.call(responses, key)) for _ in range(4)]
        engine.gate.set()
        await leader
        assert verdicts(await asyncio.gather(*others)) == [Verdict.COALESCED] * 3 + [Verdict.MISS]
        assert engine.asked == 2

    async def test_so_does_one_whose_client_hangs_up(self, responses: Responses, key: Key):
        engine = Engine()
        leader = asyncio.create_task(engine.call(responses, key))
        await until(lambda: engine.asked)
        other = asyncio.create_task(engine.call(responses, key))
        await until(lambda: responses._flights[key].followers)
        leader.cancel()
        await until(lambda: engine.asked == 2)
        engine.gate.set()
        assert (await other).verdict is Verdict.MISS
        assert await hit(responses, key) == HELLO

    async def test_and_one_that_hangs_up_while_it_looks(self, responses: Responses, key: Key):
        calls = [asyncio.create_task(responses.find(key, AUTO, wait_s=WAIT_S)) for _ in range(2)]
        await asyncio.sleep(0)
        calls[0].cancel()
        assert (await calls[1]).verdict is Verdict.MISS

    async def test_nobody_waits_longer_than_its_own_patience(self, responses: Responses, key: Key):
        engine = Engine()
        leader = asyncio.create_task(engine.call(responses, key))
        await until(lambda: engine.asked)
        impatient = asyncio.create_task(engine.call(responses, key, wait_s=0.1))
        await until(lambda: engine.asked == 2, timeout_s=2)
        engine.gate.set()
        assert verdicts(await asyncio.gather(leader, impatient)) == [Verdict.MISS] * 2

    async def test_other_requests_are_not_held_up(self, responses: Responses, key: Key):
        first = await responses.find(key, AUTO, wait_s=WAIT_S)
        other = Key(key.tenant, key.digest, None, "another")
        assert (await responses.find(other, AUTO, wait_s=WAIT_S)).verdict is Verdict.MISS
        first.close()


class TestTwoProcesses:
    async def test_ask_once(self, cache: Cache, responses: Responses, neighbour: Responses, key: Key):
        engine = Engine()
        leader = asyncio.create_task(engine.call(responses, key))
        await until(lambda: engine.asked)
        looks = scripts(cache)
        others = [asyncio.create_task(engine.call(neighbour, key)) for _ in range(3)]
        await until(lambda: neighbour._flights and neighbour._flights[key].followers == 2 and scripts(cache) > looks)
        engine.gate.set()
        assert verdicts([await leader, *await asyncio.gather(*others)]) == [Verdict.COALESCED] * 3 + [Verdict.MISS]
        assert engine.asked == 1

    async def test_a_leader_that_fails_gives_its_lease_up(self, responses: Responses, neighbour: Responses, key: Key):
        engine = Engine()
        leader = asyncio.create_task(engine.call(responses, key, fails=True))
        await until(lambda: engine.asked)
        other = asyncio.create_task(engine.call(neighbour, key))
        await until(lambda: neighbour._flights)
        engine.gate.set()
        await leader
        assert (await other).verdict is Verdict.MISS

    async def test_a_lease_is_renewed_while_the_engine_works(
        self, cache: Cache, responses: Responses, key: Key, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("services.responses.flights.RENEW_S", 0.05)
        monkeypatch.setattr("services.responses.repository.LEASE_MS", 500)
        engine = Engine()
        leader = asyncio.create_task(engine.call(responses, key))
        await until(lambda: engine.asked)
        began = monotonic()
        await until(lambda: monotonic() - began > 1)  # two lives of a lease that nobody renews
        looked = service.look(cache, key, token="other")
        assert looked is not None
        assert not looked.lead
        engine.gate.set()
        await leader

    async def test_nobody_waits_longer_than_its_own_patience(
        self, responses: Responses, neighbour: Responses, key: Key
    ):
        engine = Engine()
        leader = asyncio.create_task(engine.call(responses, key))
        await until(lambda: engine.asked)
        impatient = asyncio.create_task(engine.call(neighbour, key, wait_s=0.2))
        await until(lambda: engine.asked == 2, timeout_s=2)
        engine.gate.set()
        await asyncio.gather(leader, impatient)


class TestAway:
    async def test_a_cache_that_is_away_is_a_miss_and_equal_calls_still_ask_once(self, key: Key):
        cache = Cache(f"redis://{closed_port().split('/')[2]}/0")
        async with gateway(cache) as responses:
            engine = Engine()
            calls = [asyncio.create_task(engine.call(responses, key)) for _ in range(3)]
            await until(lambda: engine.asked)
            engine.gate.set()
            assert verdicts(await asyncio.gather(*calls)) == [Verdict.COALESCED] * 2 + [Verdict.MISS]
            assert (await responses.find(key, AUTO, wait_s=WAIT_S)).verdict is Verdict.MISS
        cache.close()
