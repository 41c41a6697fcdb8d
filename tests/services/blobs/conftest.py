from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from services.blobs import service
from services.files import service as files
from shared.db.models import File, Tenant
from shared.db.session import Database
from shared.ids import new_id
from shared.settings import Settings
from shared.storage import Store
from tests.services.blobs.swept import DATA, GRACE_S


@pytest.fixture
def store(settings: Settings, database: Database) -> Store:
    """A store that says what it keeps, as those of our processes do."""
    opened = Store.of(settings, keep=service.keeper(database, grace_s=GRACE_S))
    opened.probe()
    return opened


@pytest.fixture
def tenant(database: Database) -> UUID:
    with database.transaction() as session:
        row = Tenant(id=new_id(), name="blobs")
        session.add(row)
    return row.id


@pytest.fixture
def upload(database: Database, store: Store, tenant: UUID) -> Callable[..., File]:
    def made(data: bytes = DATA, **options: Any) -> File:
        with database.transaction() as session:
            return files.create(
                session, store, tenant, filename="f", purpose="user_data", chunks=iter([data]), **options
            )

    return made
