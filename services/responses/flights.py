"""The response cache for the gateway's loop: equal requests that come together ask the engine once.

    found = await responses.find(key, wish, wait_s=60)
    with found:                       # or found.close() at the end of the stream
        if found.stored is None:      # miss or bypass
            found.keep(body)          # or found.keep_stream(all of its bytes)

Inside one process the first such call leads and the others wait for what it keeps; across processes a lease in Redis
does the same, looked at again every few milliseconds. A leader that closes without an answer (an error, a client that
hung up) makes one of those who wait the next leader. Whoever has waited for `wait_s` asks the engine itself.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Any, Final, Self, TypeVar

from services.responses import service, streams
from services.responses.repository import LEASE_MS, Looked
from services.responses.service import Limits
from services.responses.types import Key, Stored, Verdict, unpacked
from shared import metrics
from shared.cache import Cache
from shared.clock import monotonic
from shared.contracts.caching import CacheWish
from shared.settings import Settings

THREADS: Final = 4  #: that talk to the cache; a look takes 0.2 ms
FIRST_LOOK_S, LONGEST_LOOK_S = 0.01, 0.1  #: between two looks at another process's lease
RENEW_S: Final = LEASE_MS / 3000

T = TypeVar("T")
Landed = tuple[Stored, Verdict]


@dataclass(eq=False)
class _Flight:
    """One request on its way to the engine, and those of this process who wait for its answer."""

    key: Key
    ttl_s: int | None
    landed: asyncio.Future[Landed | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    token: str = field(default_factory=lambda: token_hex(8))
    stamp: bytes | None = None  #: None: the cache is away, nothing can be kept in it
    followers: int = 0
    answered: bool = False  #: the engine has: whoever comes now did not wait for it
    renewing: asyncio.Task[None] | None = None

    def land(self, answer: Landed | None) -> None:
        """Let those who wait go."""
        if not self.landed.done():
            self.landed.set_result(answer)


class Found:
    """What a call is to do: give `stored` where there is one, else ask the engine and keep its answer."""

    def __init__(
        self,
        verdict: Verdict,
        stored: Stored | None = None,
        *,
        land: Callable[[bytes | None, bool], None] | None = None,
    ) -> None:
        self.verdict = verdict
        self.stored = stored
        self._land = land

    def keep(self, body: bytes) -> None:
        """Keep the engine's whole answer, of status 200. Returns at once."""
        self._end(body)

    def keep_stream(self, events: bytes) -> None:
        """Keep a stream that has ended: every event from the engine, its usage chunk included. Returns at once."""
        self._end(events, stream=True)

    def close(self) -> None:
        """Without an answer kept before: let one of those who wait ask. May be called twice."""
        self._end(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, answer: bytes | None, *, stream: bool = False) -> None:
        if self._land is not None:
            self._land(answer, stream)
            self._land = None


class Responses:
    """The response cache of one gateway process. Used on its loop; Redis is talked to in threads of its own."""

    def __init__(self, cache: Cache, limits: Limits) -> None:
        self._cache = cache
        self._limits = limits
        self._flights: dict[Key, _Flight] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cache")
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, settings: Settings, cache: Cache) -> "Responses":
        """With the limits that the settings say."""
        return cls(cache, Limits.of(settings))

    async def find(self, key: Key | None, wish: CacheWish, *, wait_s: float) -> Found:
        """What to do with a call. `key` is `keys.key_of(body, …, wish=wish)`; `wait_s` is the call's own patience."""
        found = await self._find(key, wish, wait_s)
        metrics.CACHE_CALLS.labels(found.verdict).inc()
        return found

    async def _find(self, key: Key | None, wish: CacheWish, wait_s: float) -> Found:
        if key is None or not self._limits.ttl_s:
            return Found(Verdict.BYPASS)
        until = monotonic() + wait_s
        if wish.mode == "refresh":
            return await self._ask(_Flight(key, wish.ttl), until, refresh=True)
        return await self._follow(key, until) or await self._ask(_Flight(key, wish.ttl), until)

    async def close(self) -> None:
        """Finish what is being kept, and let the threads go."""
        for flight in self._flights.values():
            flight.land(None)
        for task in self._renewing:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, key: Key, until: float) -> Found | None:
        """What a call of this process that is under way for the same key gets; None when it is ours to ask."""
        while (flight := self._flights.get(key)) is not None:
            early = not flight.answered
            flight.followers += early
            try:
                landed = await asyncio.wait_for(asyncio.shield(flight.landed), until - monotonic())
            except TimeoutError:
                return None
            finally:
                flight.followers -= early
            if landed is not None:
                stored, verdict = landed
                return Found(verdict if early else Verdict.HIT, stored)
        return None

    async def _ask(self, flight: _Flight, until: float, *, refresh: bool = False) -> Found:
        """Look in Redis; on a miss the lead. There is no await before the flight is known to the others."""
        key = flight.key
        self._flights.setdefault(key, flight)
        land = partial(self._land, flight)
        try:
            looked, verdict = await self._look(flight, until, refresh=refresh)
        except BaseException:
            land(None, False)
            raise
        stored = unpacked(looked.found, key.tenant) if looked and looked.found else None
        if stored is None:
            flight.stamp = looked.stamp if looked else None
            if looked and looked.lead and not refresh:
                flight.renewing = self._spawn(self._renew(flight), among=self._renewing)
            return Found(Verdict.MISS, land=land)
        self._forget(flight)
        flight.land((stored, verdict))
        return Found(verdict, stored)

    async def _look(self, flight: _Flight, until: float, *, refresh: bool) -> tuple[Looked | None, Verdict]:
        """Look until there is an answer, the lease is ours, or patience is over."""
        counted, verdict, pause = ("refreshes" if refresh else "hits"), Verdict.HIT, FIRST_LOOK_S
        while True:
            looked = await self._thread(
                partial(service.look, self._cache, flight.key, token=flight.token, counted=counted)
            )
            if looked is None or looked.found or looked.lead or monotonic() + pause > until:
                return looked, verdict
            counted, verdict = "coalesced", Verdict.COALESCED
            await asyncio.sleep(pause)
            pause = min(LONGEST_LOOK_S, pause * 1.5)

    def _land(self, flight: _Flight, answer: bytes | None, stream: bool) -> None:  # noqa: FBT001
        """The engine has answered, or never will."""
        if answer is None:
            self._forget(flight)
            flight.land(None)
            self._spawn(self._release(flight, coalesced=0))
        else:
            flight.answered = True
            self._spawn(self._keep(flight, answer, stream=stream))

    async def _keep(self, flight: _Flight, answer: bytes, *, stream: bool) -> None:
        # Found here until Redis has it: whoever comes in between must not ask again.
        read = streams.assembled if stream else streams.kept
        stored = await self._thread(partial(read, answer))
        coalesced = flight.followers if stored else 0
        flight.land((stored, Verdict.COALESCED) if stored else None)
        if stored and flight.stamp is not None:
            put = partial(service.put, self._cache, {flight.key: stored}, stamp=flight.stamp)
            await self._thread(partial(put, limits=self._limits, ttl_s=flight.ttl_s))
        self._forget(flight)
        await self._release(flight, coalesced=coalesced)

    async def _renew(self, flight: _Flight) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._thread(partial(service.renew, self._cache, flight.key, token=flight.token))

    async def _release(self, flight: _Flight, *, coalesced: int) -> None:
        if flight.renewing is not None:
            flight.renewing.cancel()
        release = partial(service.release, self._cache, flight.key, token=flight.token, coalesced=coalesced)
        await self._thread(release)

    def _forget(self, flight: _Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _spawn(
        self, work: Coroutine[Any, Any, None], *, among: set[asyncio.Task[None]] | None = None
    ) -> asyncio.Task[None]:
        """A task that somebody holds on to."""
        task, group = asyncio.get_running_loop().create_task(work), self._tasks if among is None else among
        group.add(task)
        task.add_done_callback(group.discard)
        return task
