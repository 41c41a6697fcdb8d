from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from shared.db.session import Database
from tests.support.stores import RunningStores, cloned_database


@pytest.fixture(scope="module")
def modules_database(stores: RunningStores, migrated: str) -> Iterator[Database]:
    """One for all tests of a module, because a clone costs more than most of them do."""
    with cloned_database(stores, migrated) as url:
        opened = Database(url)
        yield opened
        opened.close()


@pytest.fixture
def uncommitted(modules_database: Database) -> Iterator[Session]:
    """A session whose rows are gone after the test; it must not commit."""
    with Session(modules_database.engine, expire_on_commit=False) as opened:
        yield opened
