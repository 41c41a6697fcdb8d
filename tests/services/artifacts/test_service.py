from uuid import UUID

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from services.artifacts import service
from services.artifacts.service import NewArtifact
from services.jobs import lifecycle
from services.jobs.types import Ending, Outcome
from shared.db.models import Job
from shared.errors import NotFound
from shared.ids import new_id
from shared.manifest import Manifest
from shared.ranges import wanted
from shared.storage import Store
from tests.services.jobs import build


@pytest.fixture
def running(session: Session) -> Job:
    """A job that its first attempt runs."""
    job = build.job(session, build.tenant(session))
    build.claim(session)
    return job


def add(session: Session, store: Store, job: Job, *, name: str = "results.jsonl", attempt: int = 1, **fields) -> UUID:
    new = NewArtifact(name, "application/jsonl", store.put_bytes(job.tenant_id, b"0123456789"), **fields)
    return service.add(session, new, tenant_id=job.tenant_id, job_id=job.id, attempt=attempt).id


class TestAdd:
    def test_in_the_order_of_their_places(self, session: Session, store: Store, running: Job):
        add(session, store, running, name="b", position=1)
        add(session, store, running, name="a", position=1)
        add(session, store, running)
        names = [artifact.name for artifact in service.of_job(session, running.tenant_id, running.id)]
        assert names == ["results.jsonl", "a", "b"]

    def test_only_for_the_attempt_that_runs(self, session: Session, store: Store, running: Job):
        with pytest.raises(DBAPIError, match="is not running"):
            add(session, store, running, attempt=2)

    def test_not_after_the_end(self, session: Session, store: Store, running: Job):
        lifecycle.end(session, [Ending(running.id, 1, Outcome.SUCCEEDED)])
        with pytest.raises(DBAPIError, match="is not running"):
            add(session, store, running)


class TestContent:
    def test_whole_and_sliced(self, session: Session, store: Store, running: Job):
        artifact = service.get(session, running.tenant_id, add(session, store, running))
        assert b"".join(service.content(store, artifact, wanted=wanted(None, artifact.bytes))) == b"0123456789"
        assert b"".join(service.content(store, artifact, wanted=wanted("bytes=-3", artifact.bytes))) == b"789"

    def test_files_of_a_folder(self, session: Session, store: Store, running: Job, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        manifest = Manifest.of_files(tmp_path, [tmp_path / "config.json"])
        store.put_file(running.tenant_id, tmp_path / "config.json")
        artifact = service.get(session, running.tenant_id, add(session, store, running, manifest=manifest))
        assert service.blob_of(artifact, "config.json").bytes == 2
        part = service.content(store, artifact, wanted=wanted(None, 2), path="config.json")
        assert b"".join(part) == b"{}"
        with pytest.raises(NotFound):
            service.blob_of(artifact, "../../secret")

    def test_another_tenants_artifact_is_not_there(self, session: Session, store: Store, running: Job):
        artifact_id = add(session, store, running)
        with pytest.raises(NotFound):
            service.get(session, new_id(), artifact_id)
        assert not service.of_job(session, new_id(), running.id)
