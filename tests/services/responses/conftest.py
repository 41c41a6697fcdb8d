from collections.abc import Iterator

import pytest

from shared.cache import Cache
from tests.support.stores import RunningStores


@pytest.fixture
def cache(stores: RunningStores) -> Iterator[Cache]:
    opened = Cache(stores.cache_url, quick_s=5)  # only the tests of its patience are in a hurry
    yield opened
    opened.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
