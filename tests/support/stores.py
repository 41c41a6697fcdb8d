"""Real PostgreSQL, two Redis and S3, started once per test session from the embedded yard's own pieces."""

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from shared.db import migrate
from shared.embedded import environment, layout, ports
from shared.embedded.credentials import Credentials
from shared.embedded.postgres import url as postgres_url
from shared.embedded.process import Child, await_ready, stop
from shared.embedded.stores import PORTS, Stores
from shared.settings import Environment, Settings
from tests.support.polling import wait_until

TEMPLATE = "migrated"


@dataclass(frozen=True)
class RunningStores:
    """The session's stores. `children` are their processes by role: postgres, broker, cache, store."""

    stores: Stores
    children: dict[str, Child]

    def settings(self, **overrides: Any) -> Settings:
        """Settings that point at these stores; environment `test` unless told otherwise."""
        return Settings(
            **{
                "environment": Environment.TEST,
                "data_dir": self.stores.place.data,
                **self.stores.settings(),
                **overrides,
            }
        )

    def kill(self, role: str) -> None:
        """SIGKILL a store and wait until it is gone."""
        self.children[role].send(signal.SIGKILL)
        wait_until(lambda: self.children[role].pid is None, what=f"{role} is gone")

    def restart(self, role: str) -> None:
        """Start a store again that was killed or stopped, and wait until it answers."""
        await_running(self.children[role])

    @property
    def database_url(self) -> str:
        """An empty database; `database` gives a migrated one of your own."""
        return self.stores.settings()["database_url"]

    @property
    def broker_url(self) -> str:
        return self.stores.settings()["broker_url"]

    @property
    def cache_url(self) -> str:
        return self.stores.settings()["cache_url"]

    @property
    def s3_endpoint(self) -> str:
        return self.stores.settings()["s3_endpoint"]

    @property
    def s3_access_key(self) -> str:
        return self.stores.credentials.s3_access_key

    @property
    def s3_secret_key(self) -> str:
        return self.stores.credentials.s3_secret_key.get_secret_value()

    @property
    def s3_bucket(self) -> str:
        return self.stores.bucket

    def url_of(self, database: str) -> str:
        """The SQLAlchemy URL of another database of this server."""
        return postgres_url(self.stores.credentials, port=self.stores.ports["postgres"], database=database)

    def execute(self, statement: str) -> None:
        """One statement outside any transaction, as the superuser (CREATE DATABASE and the like)."""
        address = self.url_of("postgres").replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def running_stores(folder: Path, *, fsync: bool = False) -> Iterator[RunningStores]:
    """Start the four stores in `folder`; stop them at the end. They die with the test process."""
    place = layout.layout(folder)
    place.create_data()
    place.create_run()
    credentials = Credentials.load(place)
    stores = Stores(place=place, credentials=credentials, ports=ports.pick(PORTS, keep={}))
    env = environment.base(place, given=os.environ)
    children = [Child(replace(role, parent_death=signal.SIGKILL)) for role in stores.roles(env=env, fsync=fsync)]
    try:
        for child in children:
            child.start()
        late = await_ready(children, timeout_s=60)
        assert not late, [f"{child.role.name}: {child.role.log.read_text()[-2000:]}" for child in late]
        yield RunningStores(stores=stores, children={child.role.name: child for child in children})
    finally:
        stop(children)
        place.remove_run()


def await_running(child: Child, *, timeout: float = 60) -> None:
    """Start a dead child until it answers: PostgreSQL may refuse while its old back ends still live."""

    def up() -> bool:
        if child.pid is None:
            child.start()
        return child.ready

    wait_until(up, timeout=timeout, every=0.1, what=f"{child.role.name} is back")


@contextmanager
def migrated_template(stores: RunningStores) -> Iterator[str]:
    """A database at the newest schema, to be cloned; its name."""
    stores.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate.upgrade(stores.url_of(TEMPLATE))
    yield TEMPLATE
    stores.execute(f"DROP DATABASE {TEMPLATE} WITH (FORCE)")


@contextmanager
def cloned_database(stores: RunningStores, template: str) -> Iterator[str]:
    """A database of one test's own; its SQLAlchemy URL."""
    name = f"t_{uuid.uuid4().hex}"
    stores.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield stores.url_of(name)
    finally:
        stores.execute(f"DROP DATABASE {name} WITH (FORCE)")
