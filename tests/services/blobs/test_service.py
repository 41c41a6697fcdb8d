"""Content is removed a while after nothing names it, and never before."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.files import completion, uploads
from services.files import service as files
from services.files.completion import Joining
from services.files.uploads import NewUpload
from shared.db.models import BatchJob, Checkpoint, CompressionFile, DocumentSetFile, InferenceJob, Job, TuningFile
from shared.db.session import Database
from shared.ids import new_id
from shared.manifest import Entry, Manifest
from shared.storage import Blob, Store
from tests.services.blobs.swept import DATA, age, candidates, later, parted, sweep
from tests.services.inference import build as inference
from tests.services.jobs import build


class TestUnreachable:
    def test_a_deleted_files_content_goes_after_the_grace(self, database: Database, store: Store, tenant: UUID, upload):
        file = upload()
        with database.transaction() as session:
            files.delete(session, tenant, files.public_id(file))
        assert sweep(database, store) == 0
        assert store.size(tenant, file.sha256) == len(DATA)
        assert later(database, store) == 1
        assert store.size(tenant, file.sha256) is None
        assert candidates(database) == 0

    def test_so_does_an_expired_ones(self, database: Database, store: Store, tenant: UUID, upload):
        file = upload(expires_in_s=3600)
        assert later(database, store) == 0
        with database.transaction() as session:
            session.execute(text("UPDATE files SET expires_at = clock_timestamp() - interval '1 s'"))
        assert later(database, store) == 0  # nobody has noticed yet
        with database.transaction() as session:
            assert files.expire(session) == 1
        assert later(database, store) == 1
        assert store.size(tenant, file.sha256) is None

    def test_what_was_stored_and_never_named(self, database: Database, store: Store, tenant: UUID):
        blob = store.put_bytes(tenant, DATA)
        assert sweep(database, store) == 0
        assert later(database, store) == 1
        assert store.size(tenant, blob.sha256) is None

    def test_parts_of_an_upload_that_was_cancelled_or_expired(self, database: Database, store: Store, tenant: UUID):
        for end in (uploads.cancel, _let_expire):
            upload_id, parts = parted(database, store, tenant, [b"a" * 10, b"b" * 10])
            assert later(database, store) == 0
            with database.transaction() as session:
                end(session, tenant, upload_id)
            assert later(database, store) == 2
            assert [store.size(tenant, part.sha256) for part in parts] == [None, None]

    def test_parts_of_a_completed_one(self, database: Database, store: Store, tenant: UUID):
        upload_id, parts = parted(database, store, tenant, [b"a" * 10, b"b" * 10, b"unused"])
        named = [uploads.public_part_id(part) for part in parts[:2]]
        with database.transaction() as session:
            joining = completion.begin(session, tenant, upload_id, part_ids=named)
        assert isinstance(joining, Joining)
        shown = completion.finish(database, store, joining)
        assert later(database, store) == 3
        assert [store.size(tenant, part.sha256) for part in parts] == [None] * 3
        assert shown.file is not None
        assert store.read(tenant, Blob(shown.file.sha256, 20)) == b"a" * 10 + b"b" * 10

    def test_one_tenants_content_is_not_anothers(self, database: Database, store: Store, tenant: UUID, upload):
        file = upload()
        with database.transaction() as session:
            other = build.tenant(session)
        store.put_bytes(other, DATA)
        assert later(database, store) == 1
        assert (store.size(tenant, file.sha256), store.size(other, file.sha256)) == (len(DATA), None)

    def test_a_round_has_a_limit(self, database: Database, store: Store, tenant: UUID):
        for number in range(5):
            store.put_bytes(tenant, b"%d" % number)
        age(database)
        assert [sweep(database, store, limit=3) for _ in range(3)] == [3, 2, 0]


class TestReachable:
    """Each of these names is enough."""

    @staticmethod
    def artifact(session: Session, tenant: UUID, blob: Blob) -> None:
        artifacts.add(session, NewArtifact("out", "text/plain", blob), **_running(session, tenant))

    @staticmethod
    def folder(session: Session, tenant: UUID, blob: Blob) -> None:
        manifest = Manifest.of([Entry("a", "ab" * 32, 1), Entry("b", blob.sha256, blob.bytes)])
        new = NewArtifact("model", "application/json", Blob("cd" * 32, 2), manifest=manifest)
        artifacts.add(session, new, **_running(session, tenant))

    @staticmethod
    def checkpoint(session: Session, tenant: UUID, blob: Blob) -> None:
        manifest = [{"path": "w", "sha256": blob.sha256, "bytes": blob.bytes}]
        row = Checkpoint(id=new_id(), step=1, fingerprint="f", manifest=manifest, **_running(session, tenant))
        session.add(row)

    @staticmethod
    def model(session: Session, tenant: UUID, blob: Blob) -> None:
        inference.model(session, tenant, manifest=[{"path": "w", "sha256": blob.sha256, "bytes": blob.bytes}])

    @staticmethod
    def deleted_model(session: Session, tenant: UUID, blob: Blob) -> None:
        TestReachable.model(session, tenant, blob)
        session.execute(text("UPDATE models SET deleted_at = clock_timestamp()"))

    @staticmethod
    def file(session: Session, tenant: UUID, blob: Blob) -> None:
        files.add_output(session, tenant, filename="out.jsonl", blob=blob, expires_in_s=None)

    @staticmethod
    def part(session: Session, tenant: UUID, blob: Blob) -> None:
        shown = uploads.create(session, tenant, NewUpload("f", "user_data", "text/plain", blob.bytes), open_s=3600)
        uploads.add_part(session, tenant, uploads.public_id(shown.upload), blob=blob)

    @pytest.mark.parametrize("name", ["artifact", "folder", "checkpoint", "model", "deleted_model", "file", "part"])
    def test_it_stays(self, database: Database, store: Store, tenant: UUID, name: str):
        blob = store.put_bytes(tenant, DATA)
        with database.transaction() as session:
            getattr(self, name)(session, tenant, blob)
        assert later(database, store) == 0
        assert candidates(database) == 0  # its name will tell
        assert store.read(tenant, blob) == DATA

    def test_by_a_second_file(self, database: Database, store: Store, tenant: UUID, upload):
        first, second = upload(), upload()
        for file, removed in ((first, 0), (second, 1)):
            with database.transaction() as session:
                files.delete(session, tenant, files.public_id(file))
            assert later(database, store) == removed

    @staticmethod
    def of_inference(session: Session, job: Job, file_id: UUID) -> None:
        model = inference.model(session, job.tenant_id)
        session.add(
            InferenceJob(
                job_id=job.id,
                tenant_id=job.tenant_id,
                model_id=model.id,
                model_digest=model.digest,
                input_file_id=file_id,
            )
        )

    @staticmethod
    def of_batch(session: Session, job: Job, file_id: UUID) -> None:
        row = BatchJob(job_id=job.id, tenant_id=job.tenant_id, input_file_id=file_id, endpoint="/v1/completions")
        row.completion_window = "24h"
        session.add(row)

    @staticmethod
    def of_documents(session: Session, job: Job, file_id: UUID) -> None:
        session.add(DocumentSetFile(job_id=job.id, position=0, tenant_id=job.tenant_id, file_id=file_id))

    @staticmethod
    def of_compression(session: Session, job: Job, file_id: UUID) -> None:
        session.add(CompressionFile(job_id=job.id, tenant_id=job.tenant_id, file_id=file_id))

    @staticmethod
    def of_tuning(session: Session, job: Job, file_id: UUID) -> None:
        session.add(TuningFile(job_id=job.id, tenant_id=job.tenant_id, file_id=file_id))

    @pytest.mark.parametrize("kind", ["of_inference", "of_batch", "of_documents", "of_compression", "of_tuning"])
    def test_a_deleted_file_waits_for_the_jobs_that_read_it(
        self, database: Database, store: Store, tenant: UUID, *, kind: str, upload
    ):
        file = upload()
        with database.transaction() as session:
            job = build.job(session, tenant)
            getattr(self, kind)(session, job, file.id)
            files.delete(session, tenant, files.public_id(file))
        for _ in range(2):
            assert later(database, store) == 0
        with database.transaction() as session:
            session.execute(text("UPDATE jobs SET cancel_requested_at = clock_timestamp()"))
            session.execute(text("UPDATE jobs SET state = 'cancelled', finished_at = clock_timestamp()"))
        assert later(database, store) == 1
        assert store.size(tenant, file.sha256) is None


def _let_expire(session: Session, _tenant: UUID, _upload_id: str) -> None:
    session.execute(text("UPDATE uploads SET expires_at = clock_timestamp() - interval '1 s' WHERE status = 'pending'"))
    assert uploads.expire(session) == 1


def _running(session: Session, tenant: UUID) -> dict[str, Any]:
    job = build.job(session, tenant)
    (claimed,) = build.claim(session)
    return {"tenant_id": tenant, "job_id": job.id, "attempt": claimed.attempt}
