from collections.abc import Iterator

import pytest
from openai import OpenAI

from shared.storage import Store
from tests.gateway.conftest import Gateway
from tests.gateway.tuning.desk import Desk, client, opened


@pytest.fixture(scope="module")
def desk(gateway: Gateway) -> Iterator[Desk]:
    Store.of(gateway.settings).probe()
    with opened(gateway) as found:
        yield found


@pytest.fixture(scope="module")
def sdk(gateway: Gateway, desk: Desk) -> Iterator[OpenAI]:
    with client(gateway, desk) as opened_client:
        yield opened_client
