"""A database of a module's own, and a tenant with a model, for chains that name `$result`."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from shared.db.session import Database
from tests.services.compression.build import model
from tests.services.jobs import build
from tests.support.stores import RunningStores, cloned_database


@pytest.fixture(scope="module")
def modules_database(stores: RunningStores, migrated: str) -> Iterator[Database]:
    with cloned_database(stores, migrated) as url:
        opened = Database(url)
        yield opened
        opened.close()


@pytest.fixture
def session(modules_database: Database) -> Iterator[Session]:
    """Its rows are gone after the test; nobody commits."""
    with Session(modules_database.engine, expire_on_commit=False) as opened:
        yield opened


@pytest.fixture
def tenant(session: Session) -> UUID:
    owner = build.tenant(session)
    model(session, owner)
    return owner
