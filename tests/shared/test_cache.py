import pytest

from shared.cache import Cache, CacheUnavailable
from tests.support.stores import RunningStores
from tests.support.webhooks import closed_port


class TestPing:
    def test_a_cache_that_answers(self, stores: RunningStores):
        cache = Cache(stores.cache_url)
        cache.ping()
        cache.close()

    def test_a_cache_that_is_not_there(self):
        cache = Cache(f"redis://{closed_port().split('/')[2]}/0")
        with pytest.raises(CacheUnavailable):
            cache.ping()
