"""Fixtures for everybody: real stores once a session, a fresh migrated database a test.

`stores`    the session's PostgreSQL, Redis ×2 and S3; `stores.settings(**overrides)` points a process at them
`database`  a `shared.db.session.Database` on a migrated database of this test's own
`session`   a SQLAlchemy session on it, rolled back at the end unless the test commits
`store`     the session's blob store, opened
`settings`  settings of this test: the stores, with `database` as the database
`yard`      starts whole yards: `yard(lease_ttl_s=5)` is a `modelyard up --detach` with that setting; all are stopped
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from shared.db.session import Database
from shared.settings import Settings
from shared.storage import Store
from tests.support.stores import RunningStores, cloned_database, migrated_template, running_stores
from tests.support.yards import StartYard, yards


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStores]:
    with running_stores(tmp_path_factory.mktemp("stores")) as running:
        yield running


@pytest.fixture(scope="session")
def migrated(stores: RunningStores) -> Iterator[str]:
    with migrated_template(stores) as template:
        yield template


@pytest.fixture
def database(stores: RunningStores, migrated: str) -> Iterator[Database]:
    with cloned_database(stores, migrated) as url:
        opened = Database(url)
        yield opened
        opened.close()


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with Session(database.engine, expire_on_commit=False) as opened:
        yield opened


@pytest.fixture
def store(stores: RunningStores) -> Store:
    opened = Store.of(stores.settings())
    opened.probe()
    return opened


@pytest.fixture
def settings(stores: RunningStores, database: Database, tmp_path: Path) -> Settings:
    return stores.settings(database_url=database.url, data_dir=tmp_path)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[StartYard]:
    with yards(tmp_path) as start:
        yield start
