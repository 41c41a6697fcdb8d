"""Guards around scripted engines."""

from collections.abc import Iterator

import pytest

from tests.support.guarded import StartGuarded, guarded_servers


@pytest.fixture(scope="class")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGuarded]:
    with guarded_servers(tmp_path_factory.mktemp("g")) as started:
        yield started
