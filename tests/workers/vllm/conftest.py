"""vLLM for real, on CPU, started as a yard starts it. Without `.venv-vllm` these tests are skipped."""

from collections.abc import Iterator

import pytest

from shared.settings import Settings
from tests.support.guarded import YARD_TINY, GuardedServer, StartGuarded, guarded_servers
from tests.workers.engine.plain import Plain
from workers.runtime.launch.vllm import PYTHON

MIB = 2**20
STARTS_S = 240  # about 40 on two idle cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs vLLM where it is not installed."""
    for item in items:
        if "vllm" in item.path.parts:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(2 * STARTS_S + 60))  # the yard starts two
            if not PYTHON.exists():
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: `make setup-vllm` makes .venv-vllm"))


@pytest.fixture(scope="session")
def start_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGuarded]:
    with guarded_servers(tmp_path_factory.mktemp("v")) as start:
        yield start


@pytest.fixture(scope="session")
def plain() -> Plain:
    return Plain(YARD_TINY)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings()


@pytest.fixture(scope="module")
def engine(start_vllm: StartGuarded, settings: Settings) -> Iterator[GuardedServer]:
    """yard-tiny in vLLM, with LoRA."""
    server = start_vllm(
        "vllm",
        settings,
        threads=1,
        token="secret",
        context_length=512,
        max_in_flight=16,
        max_adapters=2,
        order={"kv_bytes": 64 * MIB},
    )
    yield server.wait_ready(timeout=STARTS_S)
    server.process.terminate()
    assert server.process.wait(timeout=20) == 0
