import hashlib
from pathlib import Path
from typing import Any

import pytest

from services.cli import download
from services.cli.client import Unreachable
from services.cli.download import AlreadyThere, Corrupt, fetch, fetch_folder, size_of
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


class TestFolder:
    FILES = {"facts.json": b"{}", "charts/a b.png": CONTENT, "empty": b""}  # noqa: RUF012 - read alone

    @pytest.fixture
    def folder(self) -> dict[str, Any]:
        """A folder as the gateway shows it, files in the order of their paths."""
        files = [
            {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for path, content in sorted(self.FILES.items())
        ]
        return {**artifact(b"the manifest"), "id": "a", "files": files}

    def test_every_file_is_brought_below_it(self, folder: dict[str, Any], tmp_path: Path) -> None:
        seen: list[int] = []
        target = tmp_path / "made" / "calibration"
        answers = [reply(200, content) for _, content in sorted(self.FILES.items())]
        with gateway(*answers) as running, running.client() as client:
            assert fetch_folder(client, folder, target, force=False, progress=seen.append)
        assert {path: (target / path).read_bytes() for path in self.FILES} == self.FILES
        assert [asked.path for asked in running.asked] == [
            "/v1/artifacts/a/content?path=charts%2Fa%20b.png",
            "/v1/artifacts/a/content?path=empty",
            "/v1/artifacts/a/content?path=facts.json",
        ]
        assert seen == sorted(seen)
        assert seen[-1] == size_of(folder) == len(CONTENT) + 2

    def test_what_is_there_is_not_brought_again(self, folder: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "charts").mkdir()
        for path in ("facts.json", "charts/a b.png"):
            (tmp_path / path).write_bytes(self.FILES[path])
        (tmp_path / "mine.txt").write_bytes(b"mine")
        with gateway(reply(200, b"")) as running, running.client() as client:
            assert fetch_folder(client, folder, tmp_path, force=False, progress=lambda _: None)
            assert not fetch_folder(client, folder, tmp_path, force=False, progress=lambda _: None)
        assert [asked.path.rpartition("=")[2] for asked in running.asked] == ["empty"]
        assert (tmp_path / "mine.txt").read_bytes() == b"mine"

    def test_another_file_is_not_replaced(self, folder: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "facts.json").write_bytes(b"mine")
        answers = [reply(200, CONTENT), reply(200, b"")]
        with gateway(*answers) as running, running.client() as client, pytest.raises(AlreadyThere):
            fetch_folder(client, folder, tmp_path, force=False, progress=lambda _: None)
        assert (tmp_path / "facts.json").read_bytes() == b"mine"

    @pytest.mark.parametrize("taken", ["made", "made/charts"])
    def test_a_file_where_a_folder_belongs(self, folder: dict[str, Any], tmp_path: Path, taken: str) -> None:
        (tmp_path / taken).parent.mkdir(exist_ok=True)
        (tmp_path / taken).write_bytes(b"mine")
        with gateway(reply(500)) as running, running.client() as client, pytest.raises(AlreadyThere, match="is a file"):
            fetch_folder(client, folder, tmp_path / "made", force=False, progress=lambda _: None)
        assert running.asked == []

    def test_no_path_leaves_it(self, folder: dict[str, Any], tmp_path: Path) -> None:
        folder["files"][0]["path"] = "../theirs"
        with (
            gateway(reply(200, CONTENT)) as running,
            running.client() as client,
            pytest.raises(ValueError, match="path"),
        ):
            fetch_folder(client, folder, tmp_path / "made", force=False, progress=lambda _: None)
        assert list(tmp_path.iterdir()) == []
