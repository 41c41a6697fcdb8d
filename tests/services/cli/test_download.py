import hashlib
from pathlib import Path
from typing import Any

import pytest

from services.cli import download
from services.cli.client import Unreachable
from services.cli.download import AlreadyThere, Corrupt, fetch
from tests.services.cli.scripted import cut, gateway, reply

CONTENT = bytes(range(256)) * 40
HALF = len(CONTENT) // 2


def artifact(content: bytes = CONTENT) -> dict[str, Any]:
    return {"id": "a", "name": "results.jsonl", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES", (0.01, 0.01))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


class TestFetch:
    def test_brings_the_bytes(self, target: Path) -> None:
        seen: list[int] = []
        with gateway(reply(200, CONTENT)) as running, running.client() as client:
            assert fetch(client, artifact(), target, force=False, progress=seen.append)
        assert target.read_bytes() == CONTENT
        assert seen[-1] == len(CONTENT)
        assert list(target.parent.iterdir()) == [target]

    def test_a_cut_transfer_goes_on_by_range(self, target: Path) -> None:
        broken = cut(200, CONTENT[:HALF], promised=len(CONTENT))
        with gateway(broken, reply(206, CONTENT[HALF:])) as running, running.client() as client:
            fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert target.read_bytes() == CONTENT
        assert running.asked[1].headers["range"] == f"bytes={HALF}-"

    def test_a_part_of_an_earlier_call_is_gone_on_with(self, target: Path) -> None:
        script = (cut(200, CONTENT[:HALF], promised=len(CONTENT)), cut(206, b"", promised=9))
        with gateway(*script) as running, running.client() as client, pytest.raises(Unreachable):
            fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert not target.exists()
        with gateway(reply(206, CONTENT[HALF:])) as running, running.client() as client:
            fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert target.read_bytes() == CONTENT
        assert running.asked[0].headers["range"] == f"bytes={HALF}-"

    def test_a_part_of_something_else_counts_for_nothing(self, target: Path) -> None:
        target.with_name("results.jsonl.part").write_bytes(b"x" * HALF)
        with gateway(reply(206, CONTENT[HALF:]), reply(200, CONTENT)) as running, running.client() as client:
            fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert target.read_bytes() == CONTENT

    def test_a_part_that_is_too_long_counts_for_nothing(self, target: Path) -> None:
        target.with_name("results.jsonl.part").write_bytes(CONTENT + b"more")
        script = (reply(416, {"code": "range_not_satisfiable"}), reply(200, CONTENT))
        with gateway(*script) as running, running.client() as client:
            fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert target.read_bytes() == CONTENT

    def test_a_store_that_ignores_ranges_is_no_trouble(self, target: Path) -> None:
        target.with_name("results.jsonl.part").write_bytes(CONTENT[:HALF])
        with gateway(reply(200, CONTENT)) as running, running.client() as client:
            fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert target.read_bytes() == CONTENT

    def test_other_bytes_than_promised_are_refused(self, target: Path) -> None:
        with gateway(reply(200, CONTENT[:-1] + b"!")) as running, running.client() as client, pytest.raises(Corrupt):
            fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert list(target.parent.iterdir()) == []

    def test_nothing_is_an_artifact_too(self, target: Path) -> None:
        with gateway(reply(200, b"")) as running, running.client() as client:
            fetch(client, artifact(b""), target, force=False, progress=lambda _: None)
        assert target.read_bytes() == b""


class TestExisting:
    def test_the_same_is_not_brought_again(self, target: Path) -> None:
        target.write_bytes(CONTENT)
        with gateway(reply(500)) as running, running.client() as client:
            assert not fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert running.asked == []

    def test_another_is_not_replaced(self, target: Path) -> None:
        target.write_bytes(b"mine")
        with gateway(reply(200, CONTENT)) as running, running.client() as client, pytest.raises(AlreadyThere):
            fetch(client, artifact(), target, force=False, progress=lambda _: None)
        assert target.read_bytes() == b"mine"

    def test_unless_asked_to(self, target: Path) -> None:
        target.write_bytes(b"mine")
        with gateway(reply(200, CONTENT)) as running, running.client() as client:
            assert fetch(client, artifact(), target, force=True, progress=lambda _: None)
        assert target.read_bytes() == CONTENT
