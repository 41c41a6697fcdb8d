"""One tiny Llama for all tests of tuning, and chats to train it on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shared.contracts.forge_orders import Data
from tests.workers.forge.quantization.models import saved
from tests.workers.forge.tuning.given import chats


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """transformers, TRL and PEFT warn of their own doings."""
    for item in items:
        if "tuning" in item.path.parts and "forge" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of 64 columns are not worth a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("tuned") / "tiny")


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return chats(tmp_path_factory.mktemp("examples") / "chats.jsonl")
