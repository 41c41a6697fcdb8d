import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from shared.cache import RETRY_S, Cache, CacheUnavailable
from shared.clock import monotonic
from tests.support import wait_until
from tests.support.stores import RunningStores
from tests.support.webhooks import closed_port


@pytest.fixture
def cache(stores: RunningStores) -> Iterator[Cache]:
    opened = Cache(stores.cache_url)
    yield opened
    opened.close()


@contextmanager
def frozen(stores: RunningStores) -> Iterator[None]:
    """The cache holds its connections and says nothing."""
    stores.children["cache"].send(signal.SIGSTOP)
    try:
        yield
    finally:
        stores.children["cache"].send(signal.SIGCONT)


def answers(cache: Cache) -> bool:
    return cache.quickly(lambda client: bool(client.ping()), otherwise=False)


def seconds(cache: Cache, *, times: int = 1) -> float:
    """What it costs to go without, `times` over."""
    began = monotonic()
    assert not any(answers(cache) for _ in range(times))
    return monotonic() - began


class TestPing:
    def test_a_cache_that_answers(self, cache: Cache):
        cache.ping()

    def test_a_cache_that_is_not_there(self):
        cache = Cache(f"redis://{closed_port().split('/')[2]}/0")
        with pytest.raises(CacheUnavailable):
            cache.ping()


class TestQuickly:
    def test_returns_what_the_cache_says(self, cache: Cache):
        assert cache.quickly(lambda client: client.exists("nothing"), otherwise=7) == 0

    def test_an_error_of_our_own_is_not_swallowed(self, cache: Cache):
        def broken(client: Redis) -> bytes:
            raise KeyError(client)

        with pytest.raises(KeyError):
            cache.quickly(broken, otherwise=b"")

    def test_a_connection_that_was_closed_meanwhile_is_opened_again(self, stores: RunningStores, cache: Cache):
        assert answers(cache)
        stores.kill("cache")
        stores.restart("cache")
        assert answers(cache)


@pytest.mark.faults
class TestAway:
    def test_a_frozen_cache_costs_its_patience_once(self, stores: RunningStores, cache: Cache):
        assert answers(cache)
        with frozen(stores):
            assert 0.04 < seconds(cache) < 0.2
            assert seconds(cache, times=1000) < 0.1
        wait_until(lambda: answers(cache), timeout=3 * RETRY_S, what="the cache is used again")

    def test_a_killed_cache_costs_nothing(self, stores: RunningStores, cache: Cache):
        assert answers(cache)
        stores.kill("cache")
        try:
            assert seconds(cache, times=1000) < 0.2
        finally:
            stores.restart("cache")
        wait_until(lambda: answers(cache), timeout=3 * RETRY_S, what="the cache is used again")

    def test_one_caller_tries_while_the_others_go_on_without(self, stores: RunningStores):
        cache = Cache(stores.cache_url, quick_s=1.0)
        tried: list[float] = []

        def call() -> None:
            began = monotonic()
            answers(cache)
            tried.append(monotonic() - began)

        with frozen(stores):
            assert seconds(cache) > 0.9  # from here on it is away
            wait_until(lambda: monotonic() > cache._away_until, what="it may be tried again")
            threads = [threading.Thread(target=call) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sum(took > 0.5 for took in tried) == 1
        cache.close()
