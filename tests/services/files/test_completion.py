"""The parts of an upload, streamed into one blob."""

from uuid import UUID

import pytest
from sqlalchemy import text

from services.files import completion, uploads
from services.files import service as files
from services.files.completion import Joining
from services.files.uploads import Shown
from shared.blobs import BlobMissing
from shared.db.session import Database
from shared.storage import Store
from tests.services.blobs.swept import parted
from tests.services.jobs import build


@pytest.fixture
def tenant(database: Database) -> UUID:
    with database.transaction() as session:
        return build.tenant(session)


class TestCompletion:
    def test_a_lost_part_names_no_file(self, database: Database, store: Store, tenant: UUID):
        upload_id, parts = parted(database, store, tenant, [b"a" * 10, b"b" * 10])
        store.delete(tenant, parts[1].sha256)
        with database.transaction() as session:
            joining = completion.begin(
                session, tenant, upload_id, part_ids=[uploads.public_part_id(part) for part in parts]
            )
        assert isinstance(joining, Joining)
        with pytest.raises(BlobMissing):
            completion.finish(database, store, joining)
        with database.transaction() as session:
            assert uploads.pending(session, tenant, upload_id).completing_until is None
            assert files.page(session, tenant) == []

    def test_the_hold_is_renewed_while_bytes_flow(
        self, database: Database, store: Store, tenant: UUID, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(completion, "LEASE_S", 0.0)
        upload_id, parts = parted(database, store, tenant, [b"a" * 10, b"b" * 10])
        named = [uploads.public_part_id(part) for part in parts]
        with database.transaction() as session:
            joining = completion.begin(session, tenant, upload_id, part_ids=named)
            uploads.cancel(session, tenant, upload_id)
        assert isinstance(joining, Joining)
        with pytest.raises(uploads.UploadCancelled):
            completion.finish(database, store, joining)

    def test_rows_of_parts_are_kept_for_a_repetition_then_swept(self, database: Database, store: Store, tenant: UUID):
        upload_id, parts = parted(database, store, tenant, [b"a", b"b"])
        named = [uploads.public_part_id(part) for part in parts]
        with database.transaction() as session:
            joining = completion.begin(session, tenant, upload_id, part_ids=named)
        assert isinstance(joining, Joining)
        first = completion.finish(database, store, joining)
        with database.transaction() as session:
            again = completion.begin(session, tenant, upload_id, part_ids=named)
            assert isinstance(again, Shown)
            assert again.file is not None
            assert first.file is not None
            assert (again.file.id, uploads.expire(session)) == (first.file.id, 0)
            session.execute(text("UPDATE uploads SET expires_at = clock_timestamp() - interval '1 s'"))
            assert uploads.expire(session) == 0
            assert session.execute(text("SELECT count(*) FROM upload_parts")).scalar_one() == 0
            with pytest.raises(uploads.UploadCompleted):
                completion.begin(session, tenant, upload_id, part_ids=named)
