"""Files of an attempt: transfers that stop, disks that are full, checkpoints that become models where they lie."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar, cast
from uuid import uuid4

import pytest

from services.catalog.files import adopt, materialise
from shared.manifest import Manifest
from shared.storage import Store
from workers.runtime.forge_files import Halted, carry, put, space_told
from workers.runtime.host import Host
from workers.runtime.work import JobFailed

T = TypeVar("T")

pytestmark = pytest.mark.timeout(60)


class TestCarry:
    """Transfers stop at the next piece, and are over when a halt has been told."""

    def test_a_cancelled_transfer_has_ended(self) -> None:
        moved, ended = threading.Event(), threading.Event()

        def endless(tell: Callable[[int], None]) -> None:
            try:
                while True:
                    moved.set()
                    tell(1)
            finally:
                ended.set()

        async def scene() -> None:
            carrying = asyncio.create_task(carry(host(), endless))
            await asyncio.to_thread(moved.wait)
            carrying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await carrying
            assert ended.is_set()

        asyncio.run(scene())

    def test_what_it_found_comes_back(self) -> None:
        assert asyncio.run(carry(host(), lambda _: 42)) == 42


def host() -> Host:
    """As much of a worker as a transfer needs."""

    async def insist(work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)

    return cast("Host", SimpleNamespace(insist=insist))


class TestDisk:
    def test_a_full_disk_is_another_hosts_chance(self) -> None:
        async def write() -> None:
            async with space_told():
                Path("/dev/full").write_bytes(b"x")  # noqa: ASYNC240 - it fails at once

        with pytest.raises(JobFailed) as failed:
            asyncio.run(write())
        assert (failed.value.error.code, failed.value.error.retryable, failed.value.permanent) == (
            "disk_full",
            True,
            False,
        )

    def test_other_errors_of_a_disk_stay_what_they_are(self) -> None:
        async def write() -> None:
            async with space_told():
                Path("/dev/full/x").write_bytes(b"x")  # noqa: ASYNC240 - it fails at once

        with pytest.raises(NotADirectoryError):
            asyncio.run(write())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A checkpoint."""
    folder = tmp_path / "jobs" / "checkpoint"
    (folder / "more").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "more" / "notes.txt").write_text("notes")
    return folder


def manifest_of(folder: Path) -> Manifest:
    return Manifest.of_files(folder, [path for path in folder.rglob("*") if path.is_file()])


class TestAdopt:
    def test_it_becomes_the_models_folder(self, made: Path, tmp_path: Path) -> None:
        manifest, models = manifest_of(made), tmp_path / "models"
        models.mkdir()
        folder = adopt(made, manifest, models)
        assert folder == models / manifest.digest
        assert manifest.differences(folder) == []
        assert (folder.stat().st_mode & 0o777, (folder / "config.json").stat().st_mode & 0o777) == (0o555, 0o444)
        assert not made.exists()

    def test_one_that_is_there_stays(self, made: Path, tmp_path: Path) -> None:
        manifest, models = manifest_of(made), tmp_path / "models"
        (models / manifest.digest).mkdir(parents=True)
        adopt(made, manifest, models)
        assert list((models / manifest.digest).iterdir()) == []
        assert not made.exists()


class TestFolder:
    def test_it_is_stored_whole_and_halted_when_it_is_fetched(self, made: Path, tmp_path: Path, store: Store) -> None:
        tenant, models = uuid4(), tmp_path / "models"
        new = put(store, tenant, made, name="calibration", media_type="application/json")
        assert new.manifest == manifest_of(made)

        def halted(count: int) -> None:
            assert count > 0
            raise Halted

        with pytest.raises(Halted):
            materialise(store, tenant, new.manifest, models, tell=halted)
        assert [path.suffix for path in models.iterdir()] == [".lock"]
        assert new.manifest.differences(materialise(store, tenant, new.manifest, models)) == []
