import os
from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from services.responses import service
from services.responses.service import Limits
from services.responses.types import Figures, Key, Stored
from shared.cache import Cache, CacheUnavailable
from tests.services.responses import answers
from tests.support import wait_until
from tests.support.webhooks import closed_port

LIMITS = Limits(entry_bytes=2**20, ttl_s=60)


def key(number: int = 0, *, tenant: UUID, digest: str = "base", adapter: str | None = None) -> Key:
    return Key(tenant, digest, adapter, f"{digest}{adapter}{number}")


def put(cache: Cache, *keys: Key, stored: Stored | None = None, limits: Limits = LIMITS, **more: int) -> None:
    """Look, ask, keep."""
    for each in keys:
        looked = service.look(cache, each, token="t")
        assert looked is not None
        service.put(cache, {each: stored or answers.chat("Hi")}, stamp=looked.stamp, limits=limits, **more)
        service.release(cache, each, token="t")


def found(cache: Cache, keys: Iterable[Key]) -> list[bool]:
    """Which of these keys have an answer."""
    given = list(keys)
    page = service.look_many(cache, given)
    return [each in page.found for each in given]


@pytest.fixture
def tenant() -> UUID:
    return uuid4()


class TestLook:
    def test_finds_what_was_put(self, cache: Cache, tenant: UUID):
        put(cache, key(tenant=tenant), stored=answers.chat("Hello"))
        page = service.look_many(cache, [key(tenant=tenant), key(1, tenant=tenant)])
        assert page.found == {key(tenant=tenant): answers.chat("Hello")}

    def test_one_asks_and_the_others_wait_until_the_lease_is_given_up(self, cache: Cache, tenant: UUID):
        looks = [service.look(cache, key(tenant=tenant), token=token) for token in ("a", "b")]
        assert [look.lead for look in looks if look] == [True, False]
        service.release(cache, key(tenant=tenant), token="b")  # not b's to give up
        again = service.look(cache, key(tenant=tenant), token="b")
        assert again is not None
        assert not again.lead
        service.release(cache, key(tenant=tenant), token="a")
        again = service.look(cache, key(tenant=tenant), token="b")
        assert again is not None
        assert again.lead

    def test_a_lease_that_nobody_renews_ends(self, cache: Cache, tenant: UUID):
        service.look(cache, key(tenant=tenant), token="dead")
        wait_until(
            lambda: (looked := service.look(cache, key(tenant=tenant), token="b")) and looked.lead, what="a lease ends"
        )

    def test_nothing_is_nothing(self, cache: Cache):
        assert service.look_many(cache, []).found == {}

    def test_a_large_answer_is_compressed(self, cache: Cache, tenant: UUID):
        large = answers.chat("tedious " * 20_000)
        put(cache, key(tenant=tenant), stored=large)
        assert service.look_many(cache, [key(tenant=tenant)]).found[key(tenant=tenant)] == large
        assert service.figures(cache, tenant).stored_bytes < len(large.body) / 10


class TestLimits:
    def test_an_answer_that_is_too_large_is_not_kept(self, cache: Cache, tenant: UUID):
        noise = answers.chat(os.urandom(4096).hex())
        put(cache, key(tenant=tenant), stored=noise, limits=Limits(entry_bytes=1024, ttl_s=60))
        assert found(cache, [key(tenant=tenant)]) == [False]

    def test_an_answer_lives_as_long_as_the_caller_says(self, cache: Cache, tenant: UUID):
        put(cache, key(tenant=tenant), ttl_s=1)
        put(cache, key(1, tenant=tenant))
        both = [key(tenant=tenant), key(1, tenant=tenant)]
        assert found(cache, both) == [True, True]
        wait_until(lambda: found(cache, both) == [False, True], what="the first one expires")

    def test_a_ttl_of_zero_keeps_nothing(self, cache: Cache, tenant: UUID):
        put(cache, key(tenant=tenant), limits=Limits(2**20, 0), ttl_s=60)
        assert found(cache, [key(tenant=tenant)]) == [False]


class TestTenants:
    def test_never_see_one_anothers_answers(self, cache: Cache, tenant: UUID):
        put(cache, key(tenant=tenant))
        assert found(cache, [key(tenant=uuid4())]) == [False]

    def test_nor_a_value_that_was_moved_under_their_key(self, cache: Cache, tenant: UUID):
        theirs, mine = key(tenant=uuid4()), key(tenant=tenant)
        put(cache, theirs)
        put(cache, mine)
        # Given a value under my key, with my stamp, that says it is theirs
        raw = cache.surely(lambda client: client.get(mine.name))
        assert isinstance(raw, bytes)
        forged = raw.replace(tenant.hex.encode(), theirs.tenant.hex.encode())
        cache.surely(lambda client: client.set(mine.name, forged))
        assert found(cache, [mine]) == [False]


class TestPurge:
    def test_of_a_tenant_takes_all_of_its_answers_and_nobody_elses(self, cache: Cache, tenant: UUID):
        mine = [key(tenant=tenant), key(tenant=tenant, digest="other")]
        theirs = [key(tenant=uuid4())]
        put(cache, *mine, *theirs)
        service.purge(cache, tenant)
        assert [found(cache, [each]) for each in mine + theirs] == [[False], [False], [True]]

    def test_of_a_model_takes_its_adapters_with_it(self, cache: Cache, tenant: UUID):
        base, tuned = key(tenant=tenant), key(tenant=tenant, adapter="tuned")
        other = key(tenant=tenant, digest="other")
        put(cache, base, tuned, other)
        service.purge(cache, tenant, digest="base")
        assert [found(cache, [each]) for each in (base, tuned, other)] == [[False], [False], [True]]

    def test_of_an_adapter_leaves_its_base(self, cache: Cache, tenant: UUID):
        base, tuned = key(tenant=tenant), key(tenant=tenant, adapter="tuned")
        put(cache, base, tuned)
        service.purge(cache, tenant, digest="tuned")
        assert [found(cache, [each]) for each in (base, tuned)] == [[True], [False]]

    def test_an_answer_begun_before_it_is_not_kept(self, cache: Cache, tenant: UUID):
        looked = service.look(cache, key(tenant=tenant), token="t")
        assert looked is not None
        service.purge(cache, tenant)
        service.put(cache, {key(tenant=tenant): answers.chat("old")}, stamp=looked.stamp, limits=LIMITS)
        assert found(cache, [key(tenant=tenant)]) == [False]
        put(cache, replace(key(tenant=tenant), sha256="new"))
        assert found(cache, [replace(key(tenant=tenant), sha256="new")]) == [True]

    def test_a_generation_that_was_evicted_brings_nothing_back(self, cache: Cache, tenant: UUID):
        put(cache, key(tenant=tenant))
        service.purge(cache, tenant)
        cache.surely(lambda client: client.delete(*key(tenant=tenant).generations))
        assert found(cache, [key(tenant=tenant)]) == [False]

    def test_a_cache_that_is_away_says_so(self, tenant: UUID):
        away = Cache(f"redis://{closed_port().split('/')[2]}/0")
        with pytest.raises(CacheUnavailable):
            service.purge(away, tenant)


class TestFigures:
    def test_count_what_was_done(self, cache: Cache, tenant: UUID):
        put(cache, key(tenant=tenant))
        found(cache, [key(tenant=tenant), key(1, tenant=tenant)])
        service.release(cache, key(tenant=tenant), token="t", coalesced=3)
        service.purge(cache, tenant)
        told = service.figures(cache, tenant)
        assert replace(told, stored_bytes=0) == Figures(hits=1, misses=2, coalesced=3, stored=1, purges=1)
        assert told.stored_bytes > len(answers.chat("Hi").body)
