"""The Hugging Face Hub, as it is and as it should not be."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.catalog.tensors import UnsafeModel
from services.imports.hub import Hub, HubFile, SourceUnreachable
from shared.contracts.imports import HuggingFaceSource
from tests.services.imports import build
from tests.support.webhooks import closed_port

SOURCE = HuggingFaceSource(type="huggingface", repo_id="org/model", revision=build.COMMIT)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[build.Hub]:
    with build.hub(build.tiny(tmp_path / "repository")) as running:
        yield running


def ignore(_count: int) -> None:
    """Nobody listens."""


class TestFiles:
    def test_one_set_of_weights_from_the_top(self, hub: build.Hub) -> None:
        for name in ("consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "modeling.py"):
            (hub.folder / name).write_bytes(b"x")
        (hub.folder / "original").mkdir()
        (hub.folder / "original" / "model.safetensors").write_bytes(b"x")
        with Hub(SOURCE, endpoint=hub.url) as opened:
            found = {file.path for file in opened.files()}
        assert {path for path in found if path.endswith(".safetensors")} == {"model.safetensors"}
        assert found >= {"config.json", "tokenizer.json"}
        assert not found & {"modeling.py", "pytorch_model.bin"}

    def test_shards_that_the_index_names(self, hub: build.Hub) -> None:
        (hub.folder / "model.safetensors").rename(hub.folder / "model-00001-of-00001.safetensors")
        (hub.folder / "model.safetensors.index.json").write_text("{}")
        (hub.folder / "consolidated.safetensors").write_bytes(b"x")
        with Hub(SOURCE, endpoint=hub.url) as opened:
            weights = [file.path for file in opened.files() if file.path.endswith(".safetensors")]
        assert weights == ["model-00001-of-00001.safetensors"]

    def test_a_repository_of_pickles(self, hub: build.Hub) -> None:
        (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
        with Hub(SOURCE, endpoint=hub.url) as opened, pytest.raises(UnsafeModel) as refused:
            opened.files()
        assert refused.value.param == "pytorch_model.bin"


class TestFetch:
    def test_the_token_goes_to_the_hub_alone(self, hub: build.Hub, tmp_path: Path) -> None:
        with Hub(SOURCE, endpoint=hub.url, token="hf_secret") as opened:
            file = next(file for file in opened.files() if file.path == "model.safetensors")
            opened.fetch(file, tmp_path / "weights", tell=ignore)
        told = {path: headers.get("authorization") for path, headers in hub.asked}
        assert told.pop("/cdn/model.safetensors") is None
        assert set(told.values()) == {"Bearer hf_secret"}

    def test_more_bytes_than_promised_are_not_taken(self, hub: build.Hub, tmp_path: Path) -> None:
        with Hub(SOURCE, endpoint=hub.url) as opened, pytest.raises(SourceUnreachable, match="more bytes"):
            opened.fetch(HubFile("tokenizer.json", 10, None), tmp_path / "tokenizer.json", tell=ignore)


class TestAway:
    def test_says_where_and_what_to_do_instead(self) -> None:
        nowhere = closed_port().removesuffix("/")
        with Hub(SOURCE, endpoint=nowhere, pauses=[0]) as opened, pytest.raises(SourceUnreachable) as refused:
            opened.files()
        assert "127.0.0.1 cannot be reached" in refused.value.message
        assert "modelyard models register" in refused.value.message
        assert not refused.value.retryable
