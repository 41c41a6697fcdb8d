from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.files import service
from shared.db.models import File, Tenant
from shared.db.session import Database
from shared.errors import InvalidField, NotFound, TooLarge
from shared.ids import new_id
from shared.ranges import wanted
from shared.storage import Store


@pytest.fixture
def tenant(database: Database) -> UUID:
    with database.transaction() as session:
        row = Tenant(id=new_id(), name="files")
        session.add(row)
    return row.id


@pytest.fixture
def upload(database: Database, store: Store, tenant: UUID):
    def made(data: bytes = b"{}\n", *, filename: str = "lines.jsonl", purpose: str = "user_data", **options) -> File:
        with database.transaction() as session:
            return service.create(
                session, store, tenant, filename=filename, purpose=purpose, chunks=_chunks(data), **options
            )

    return made


def _chunks(data: bytes) -> Iterator[bytes]:
    yield data[: len(data) // 2]
    yield data[len(data) // 2 :]


class TestCreate:
    def test_it_is_there_with_its_content(self, session: Session, store: Store, tenant: UUID, upload):
        file = upload(b"0123456789")
        found = service.get(session, tenant, service.public_id(file))
        assert (found.filename, found.purpose, found.bytes, found.status) == (
            "lines.jsonl",
            "user_data",
            10,
            "processed",
        )
        assert b"".join(service.content(store, found, wanted=wanted("bytes=2-4", 10))) == b"234"
        assert b"".join(service.content(store, found, wanted=wanted(None, 10))) == b"0123456789"

    def test_batch_files_expire_after_thirty_days_unless_told_otherwise(self, upload):
        batch, short, other = upload(purpose="batch"), upload(purpose="batch", expires_in_s=3600), upload()
        assert (batch.expires_at - batch.created_at).days in (29, 30)
        assert 3595 < (short.expires_at - short.created_at).total_seconds() < 3605
        assert other.expires_at is None

    @pytest.mark.parametrize(
        ("param", "options"),
        [
            ("purpose", {"purpose": "mischief"}),
            ("file", {"filename": ""}),
            ("file", {"filename": "x" * 256}),
            ("file", {"filename": "a\x00b"}),
            ("file", {"filename": "a\nb"}),
            ("file", {"filename": "\ud800"}),
            ("expires_after.seconds", {"expires_in_s": 3599}),
            ("expires_after.seconds", {"expires_in_s": 2_592_001}),
        ],
    )
    def test_bad_fields_are_named(self, store: Store, param, options):
        wish = {"filename": "lines.jsonl", "purpose": "batch", "chunks": [b"{}"], **options}
        with pytest.raises(InvalidField) as raised:
            service.create(Session(), store, new_id(), **wish)
        assert raised.value.param == param

    def test_names_are_normalised(self, upload):
        assert upload(filename="u\u0308.txt").filename == "ü.txt"

    def test_too_large(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(service, "BATCH_BYTES", 10)
        with pytest.raises(TooLarge):
            service.create(Session(), store, new_id(), filename="f", purpose="batch", chunks=_chunks(b"x" * 11))


class TestFind:
    def test_pages_by_purpose_and_order(self, session: Session, tenant: UUID, upload):
        files = [upload(purpose=purpose) for purpose in ("batch", "user_data", "batch")]
        ids = [file.id for file in files]
        assert [f.id for f in service.page(session, tenant)] == ids[::-1]
        assert [f.id for f in service.page(session, tenant, purpose="batch")] == [ids[2], ids[0]]
        assert [f.id for f in service.page(session, tenant, oldest_first=True, limit=1)] == ids[:1]
        after = service.public_id(files[1])
        assert [f.id for f in service.page(session, tenant, after=after)] == ids[:1]
        assert [f.id for f in service.page(session, tenant, after=after, oldest_first=True)] == ids[2:]

    def test_unknown_ids(self, session: Session, tenant: UUID):
        for file_id in ("", "file-", "file-zz", "nonsense", f"file-{new_id().hex}"):
            with pytest.raises(NotFound):
                service.get(session, tenant, file_id)

    def test_another_tenants_file_is_not_there(self, session: Session, upload):
        file_id = service.public_id(upload())
        stranger = new_id()
        with pytest.raises(NotFound):
            service.get(session, stranger, file_id)
        with pytest.raises(NotFound):
            service.delete(session, stranger, file_id)
        with pytest.raises(NotFound):
            service.page(session, stranger, after=file_id)
        assert not service.page(session, stranger)


class TestEnd:
    def test_a_deleted_file_is_gone(self, session: Session, tenant: UUID, upload):
        file_id = service.public_id(upload())
        service.delete(session, tenant, file_id)
        for call in (service.get, service.delete):
            with pytest.raises(NotFound):
                call(session, tenant, file_id)

    def test_an_expired_file_is_gone_before_it_is_swept(self, session: Session, tenant: UUID, upload):
        file = upload(expires_in_s=3600)
        session.execute(text("UPDATE files SET expires_at = clock_timestamp() - interval '1 s'"))
        with pytest.raises(NotFound):
            service.get(session, tenant, service.public_id(file))
        assert service.expire(session) == 1
        assert service.expire(session) == 0
