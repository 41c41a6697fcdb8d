"""Checkpoints are saved once, and never written to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.forge.evaluation.models import quantized, runner, tiny_llama
from workers.forge.evaluation.subjects import Runner


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of 64 columns are not worth a second thread, and the first would wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluated")
    base = tiny_llama(root / "base")
    return {
        "base": base,
        "near": tiny_llama(root / "near", noise=0.05),
        "w8": quantized(base, root / "w8", activations=False),
        "w8a8": quantized(base, root / "w8a8", activations=True),
    }


@pytest.fixture(scope="session")
def base(folders: dict[str, Path]) -> Runner:
    return runner(folders["base"], "base")


@pytest.fixture(scope="session")
def near(folders: dict[str, Path]) -> Runner:
    return runner(folders["near"], "near")


@pytest.fixture(scope="session")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A model whose weights are finite and whose logits are not."""
    folder = tiny_llama(tmp_path_factory.mktemp("loud"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= 3e38
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return runner(folder, "loud")
