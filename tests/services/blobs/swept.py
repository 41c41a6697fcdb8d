"""What tests of the content's life share: letting the grace pass, sweeping, uploads in parts."""

from typing import Any
from uuid import UUID

from sqlalchemy import text

from services.blobs import service
from services.files import uploads
from services.files.uploads import NewUpload
from shared.db.session import Database
from shared.storage import Store

GRACE_S = 60.0  #: longer than any test; `age` makes it pass
DATA = b"precious" * 1000


def age(database: Database) -> None:
    """Let the grace pass."""
    with database.transaction() as session:
        session.execute(text("UPDATE garbage SET since = since - interval '1 hour'"))


def candidates(database: Database) -> int:
    with database.transaction() as session:
        return int(session.execute(text("SELECT count(*) FROM garbage")).scalar_one())


def sweep(database: Database, store: Store, *, limit: int = 100) -> int:
    return service.sweep(database, store, grace_s=GRACE_S, limit=limit)


def later(database: Database, store: Store) -> int:
    """Blobs that are removed once the grace has passed."""
    age(database)
    return sweep(database, store)


def parted(database: Database, store: Store, tenant: UUID, parts: list[bytes]) -> tuple[str, list[Any]]:
    """A pending upload with these parts; it is announced with the bytes of the first two."""
    blobs = [store.put_bytes(tenant, data) for data in parts]
    with database.transaction() as session:
        new = NewUpload("f", "user_data", "text/plain", sum(map(len, parts[:2])))
        upload_id = uploads.public_id(uploads.create(session, tenant, new, open_s=3600).upload)
        return upload_id, [uploads.add_part(session, tenant, upload_id, blob=blob) for blob in blobs]
