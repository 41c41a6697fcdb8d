"""One tiny Llama for all tests of quantization, and words to calibrate it with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.contracts.forge_orders import Data
from tests.workers.forge.quantization.models import plain, saved, texts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """transformers and llm-compressor warn of their own doings."""
    for item in items:
        if "quantization" in item.path.parts:
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
    return saved(tmp_path_factory.mktemp("quantized") / "tiny")


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return texts(tmp_path_factory.mktemp("words") / "words.jsonl")


@pytest.fixture(scope="session")
def original(tiny: Path) -> Any:
    return plain(tiny)


@pytest.fixture(scope="session")
def ids() -> Any:
    return torch.randint(2, 4096, (4, 24), generator=torch.Generator().manual_seed(1))
