"""The lines of a job and the response cache, which they share with interactive calls."""

from collections.abc import Iterator
from typing import Any

import pytest

from services.catalog import service as catalog
from services.responses import service as responses
from services.responses.keys import key_of
from services.responses.service import Limits
from services.responses.types import Key
from shared.cache import Cache
from shared.contracts.caching import CacheWish
from shared.contracts.jobs import State
from shared.contracts.openai import CompletionBody, parse
from shared.storage import Store
from tests.services.responses import answers
from tests.support.stores import RunningStores
from tests.workers.conftest import World
from tests.workers.test_inference import TINY, results, submit

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


@pytest.fixture
def store(world: World) -> Store:
    opened = Store.of(world.settings)
    catalog.register_folder(world.database, opened, world.tenant, name="yard-tiny", folder=TINY)
    return opened


@pytest.fixture
def cache(stores: RunningStores) -> Iterator[Cache]:
    opened = Cache(stores.cache_url, quick_s=5)
    yield opened
    opened.close()


def key(world: World, **fields: Any) -> Key:
    """The key of an interactive call."""
    with world.database.transaction() as session:
        digest = catalog.get(session, world.tenant, "yard-tiny").digest
    body = {"model": "yard-tiny", "temperature": 0, "max_tokens": 8, **fields}
    made = key_of(parse(body, CompletionBody), tenant_id=world.tenant, digest=digest)
    assert made is not None
    return made


class TestLines:
    def test_what_chats_have_asked_needs_no_engine(self, world: World, store: Store, cache: Cache):
        # Given the answers that two interactive calls left
        for prompt in ("def f(", "import os"):
            asked = key(world, prompt=prompt)
            looked = responses.look(cache, asked, token="t")
            assert looked is not None
            answer = answers.completion(f"{prompt}…")
            responses.put(cache, {asked: answer}, stamp=looked.stamp, limits=Limits(2**20, 60))
        # When a job asks the same
        job = submit(world, ["def f(", "import os", "def f("])
        runner = world.runner()
        ended = world.wait_for(job, State.SUCCEEDED, timeout=60)
        # Then it has their answers and their usage, and cost no device anything
        texts = [line["output"]["text"] for line in results(world, store, job)]
        assert texts == ["def f(…", "import os…", "def f(…"]
        assert (ended.progress_done, ended.completion_tokens, ended.gpu_seconds) == (3, 6, 0)
        assert list(runner.host.engines) == []

    def test_what_a_job_has_asked_is_there_for_chats_and_other_jobs(self, world: World, store: Store, cache: Cache):
        first = submit(world, ["def f(", "import os"])
        runner = world.runner()
        asked = world.wait_for(first, State.SUCCEEDED, timeout=60)
        assert asked.gpu_seconds > 0
        # a chat finds them under its own key
        both = [key(world, prompt="def f("), key(world, prompt=["import os"], stream=True)]
        assert list(responses.look_many(cache, both).found) == both
        # another job does not ask again
        second = submit(world, ["import os", "def f("])
        runner.wake("cpu.serve")
        found = world.wait_for(second, State.SUCCEEDED, timeout=20)
        assert found.gpu_seconds == 0
        assert found.completion_tokens == asked.completion_tokens
        texts = [line["output"] for line in results(world, store, first)]
        assert [line["output"] for line in results(world, store, second)] == texts[::-1]
        # one that does not want the cache does, and so does one that samples
        for wish in ({"cache": CacheWish(mode="off")}, {"temperature": 0.9}):
            third = submit(world, ["def f("], **wish)
            runner.wake("cpu.serve")
            assert world.wait_for(third, State.SUCCEEDED, timeout=20).gpu_seconds > 0

    def test_a_purge_makes_a_job_ask(self, world: World, store: Store, cache: Cache):
        first = submit(world, ["def f("])
        runner = world.runner()
        world.wait_for(first, State.SUCCEEDED, timeout=60)
        responses.purge(cache, world.tenant)
        second = submit(world, ["def f("])
        runner.wake("cpu.serve")
        assert world.wait_for(second, State.SUCCEEDED, timeout=20).gpu_seconds > 0


class TestAway:
    def test_a_dead_cache_costs_a_job_nothing(self, world: World, store: Store, stores: RunningStores):
        stores.kill("cache")
        try:
            job = submit(world, ["def f(", "def f("])
            world.runner()
            assert world.wait_for(job, State.SUCCEEDED, timeout=60).completion_tokens == 16
        finally:
            stores.restart("cache")
