"""The `import_model` kind from claim to version, from every source."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from minio import Minio

from services.catalog import service as catalog
from services.files import service as files
from services.jobs import repository, service
from shared.contracts.jobs import JobRequest, State
from shared.db.models import Job, Model
from shared.errors import UnknownModel
from shared.storage import Blob, Store
from tests.services.imports import build
from tests.support import wait_until
from tests.support.configured import configured
from tests.workers.conftest import SERVE, World

pytestmark = [pytest.mark.timeout(120)]

LARGE = 3 * 2**30
HUB = {"type": "huggingface", "repo_id": "org/model", "revision": build.COMMIT}

Import = Callable[..., Job]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def hub(root: Path) -> Iterator[build.Hub]:
    with build.hub(build.tiny(root / "repository")) as running:
        yield running


@pytest.fixture
def imported(world: World, root: Path, hub: build.Hub) -> Iterator[Import]:
    """Import something, and wait for the job's end."""
    own = {
        "models_root": root,
        "models_s3": [f"{world.settings.s3_bucket}/imports/{{tenant}}/"],
        "huggingface_endpoint": hub.url,
    }
    with configured(world.settings, **own) as settings:
        world.settings = settings
        runner = world.runner()

        def run(source: dict[str, Any], *, end: State = State.SUCCEEDED, **spec: Any) -> Job:
            job = submit(world, source, **spec)
            runner.wake(SERVE)
            return world.wait_for(job, end, timeout=30)

        yield run


def model(world: World, name: str = "m") -> Model:
    with world.database.transaction() as session:
        return catalog.get(session, world.tenant, name)


def submit(world: World, source: dict[str, Any], **spec: Any) -> UUID:
    request = JobRequest(kind="import_model", spec={"name": "m", "source": source, **spec})
    with world.database.transaction() as session:
        return service.submit(session, world.tenant, request).job.id


def upload(world: World, folder: Path) -> dict[str, str]:
    """Put a folder's files up, as the gateway would; path → id."""
    store, found = Store.of(world.settings), {}
    for path in sorted(folder.iterdir()):
        with world.database.transaction() as session:
            made = files.create(
                session, store, world.tenant, filename=path.name, purpose="model", chunks=[path.read_bytes()]
            )
            found[path.name] = files.public_id(made)
    return found


def client(world: World) -> Minio:
    given = world.settings
    return Minio(
        given.s3_endpoint,
        access_key=given.s3_access_key,
        secret_key=given.s3_secret_key.get_secret_value(),
        secure=False,
        region="us-east-1",
    )


def scratch(world: World) -> list[Path]:
    return list((world.settings.data_dir / "worker" / "jobs").iterdir())


class TestFolder:
    def test_becomes_a_version_that_model_json_tells_of(self, world: World, root: Path, imported: Import) -> None:
        build.tiny(root / "mine")
        job = imported({"type": "folder", "path": "mine"}, serving={"max_in_flight": 8}, alias="prod")
        made = model(world, "prod")
        assert (made.name, made.version, made.serving) == ("m", 1, {"max_in_flight": 8})
        assert made.source == {"type": "folder", "path": "mine"}
        assert (job.progress_done, job.progress_total, job.progress_unit) == (made.bytes, made.bytes, "bytes")
        with world.database.transaction() as session:
            (artifact,) = repository.artifacts(session, world.tenant, [job.id])
        told = json.loads(Store.of(world.settings).read(world.tenant, Blob(artifact.sha256, artifact.bytes)))
        assert (artifact.name, told["id"], told["version"]) == ("model.json", str(made.id), 1)
        assert scratch(world) == []

    def test_a_pickle_fails_the_job_for_good(self, world: World, root: Path, imported: Import) -> None:
        (build.tiny(root / "mine") / "pytorch_model.bin").write_bytes(b"\x80\x04")
        job = imported({"type": "folder", "path": "mine"}, end=State.FAILED)
        assert job.error is not None
        assert (job.error["code"], job.attempt) == ("unsafe_model", 1)
        assert "pytorch_model.bin" in job.error["title"]
        with pytest.raises(UnknownModel):
            model(world)

    def test_two_imports_at_once_make_two_versions(self, world: World, root: Path, imported: Import) -> None:
        build.tiny(root / "one")
        (build.tiny(root / "two") / "README.md").write_text("# two")
        jobs = [submit(world, {"type": "folder", "path": path}) for path in ("one", "two")]
        imported({"type": "folder", "path": "one"})
        for job in jobs:
            world.wait_for(job, State.SUCCEEDED, timeout=30)
        with world.database.transaction() as session:
            assert [row.version for row in catalog.versions(session, world.tenant, "m")] == [2, 1]


class TestFiles:
    def test_uploads_become_a_version_without_a_copy(self, world: World, root: Path, imported: Import) -> None:
        folder = build.tiny(root / "mine")
        uploaded = upload(world, folder)
        imported({"type": "files", "files": uploaded})
        made = model(world)
        assert {entry["path"] for entry in made.manifest} == set(uploaded)
        assert made.source == {"type": "files"}

    def test_a_truncated_file_is_named(self, world: World, root: Path, imported: Import) -> None:
        folder = build.tiny(root / "mine")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-7])
        job = imported({"type": "files", "files": upload(world, folder)}, end=State.FAILED)
        assert job.error is not None
        assert job.error["code"] == "unsafe_model"
        assert job.error["title"].startswith("model.safetensors")


class TestS3:
    def test_a_prefix_becomes_a_version(self, world: World, root: Path, imported: Import) -> None:
        folder, prefix = build.tiny(root / "mine"), f"imports/{world.tenant}/tiny"
        for path in folder.iterdir():
            client(world).fput_object(world.settings.s3_bucket, f"{prefix}/{path.name}", str(path))
        imported({"type": "s3", "prefix": prefix})
        assert model(world).bytes == sum(path.stat().st_size for path in folder.iterdir())
        assert scratch(world) == []

    def test_nothing_there(self, world: World, imported: Import) -> None:
        job = imported({"type": "s3", "prefix": f"imports/{world.tenant}/none"}, end=State.FAILED)
        assert job.error is not None
        assert job.error["code"] == "source_not_found"


class TestHub:
    def test_a_repository_becomes_a_version(self, world: World, hub: build.Hub, imported: Import) -> None:
        (hub.folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
        (hub.folder / "original").mkdir()
        (hub.folder / "original" / "params.json").write_text("{}")
        hub.breaks = 2
        imported(HUB)
        made = model(world)
        assert made.source == HUB
        paths = {entry["path"] for entry in made.manifest}
        assert "model.safetensors" in paths
        assert not paths & {"pytorch_model.bin", "original/params.json"}
        ranges = [headers["range"] for path, headers in hub.asked if path.startswith("/cdn/") and "range" in headers]
        assert len(ranges) == 2  # it went on where it broke

    def test_other_bytes_than_promised(self, hub: build.Hub, imported: Import) -> None:
        hub.lies = True
        job = imported(HUB, end=State.FAILED)
        assert job.error is not None
        assert job.error["code"] == "source_unreachable"

    @pytest.mark.parametrize(
        ("status", "code"), [(404, "source_not_found"), (401, "source_forbidden"), (500, "source_unreachable")]
    )
    def test_a_hub_that_says_no(self, hub: build.Hub, imported: Import, status: int, code: str) -> None:
        hub.status = status
        job = imported(HUB, end=State.FAILED)
        assert job.error is not None
        assert (job.error["code"], job.attempt) == (code, 1)


class TestCancel:
    def test_a_transfer_stops_and_leaves_nothing(self, world: World, root: Path, imported: Import) -> None:
        del imported
        folder = build.tiny(root / "mine")
        header = json.dumps({"a": {"dtype": "U8", "shape": [LARGE], "data_offsets": [0, LARGE]}}).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + LARGE)  # sparse: long to hash, nothing to store
        job = submit(world, {"type": "folder", "path": "mine"})
        wait_until(lambda: world.get(job).progress_done > 0, timeout=20, what="bytes")
        world.cancel(job)
        world.wait_for(job, State.CANCELLED, timeout=10)
        assert scratch(world) == []

    def test_a_silent_hub_holds_nobody_up(self, world: World, hub: build.Hub, imported: Import) -> None:
        del imported
        hub.gate.clear()
        job = submit(world, HUB)
        wait_until(lambda: world.get(job).progress_done > 0, timeout=20, what="bytes")
        world.cancel(job)
        world.wait_for(job, State.CANCELLED, timeout=12)
        assert scratch(world) == []


class TestKill:
    def test_the_next_worker_begins_again_and_sweeps_what_lies_there(
        self, world: World, root: Path, hub: build.Hub
    ) -> None:
        with configured(world.settings, models_root=root, huggingface_endpoint=hub.url) as world.settings:
            hub.gate.clear()
            worker = world.worker()
            job = submit(world, HUB)
            wait_until(lambda: world.get(job).progress_done > 0, timeout=30, what="bytes")
            worker.kill()
            worker.wait()
            assert scratch(world) != []
            hub.gate.set()
            world.runner()
            assert world.wait_for(job, State.SUCCEEDED, timeout=40).attempt == 2
            assert model(world).version == 1
            assert scratch(world) == []


@pytest.mark.slow
class TestServed:
    def test_a_job_is_answered_under_its_alias(self, world: World, root: Path, imported: Import) -> None:
        build.tiny(root / "mine")
        imported({"type": "folder", "path": "mine"}, alias="prod")
        request = JobRequest(kind="inference", spec={"model": "prod", "prompts": ["def f("], "max_tokens": 4})
        with world.database.transaction() as session:
            job = service.submit(session, world.tenant, request).job
        world.runners[0].wake(job.queue)
        assert world.wait_for(job.id, State.SUCCEEDED, timeout=60).completion_tokens == 4
