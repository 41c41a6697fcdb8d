"""One real gateway a module: uvicorn in a thread, on the session's stores; every test brings tenants of its own.

`gateway`   where it is, and how to get callers: `gateway.caller("jobs:read")` is a client with a key of a new tenant
`client`    a caller who may do everything
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import httpx
import pytest
import uvicorn

from gateway.app import create_app
from services.accounts import repository, service
from services.accounts.service import Caller
from shared.db.session import Database
from shared.ids import new_id
from shared.settings import Settings
from tests.support import wait_until
from tests.support.configured import configured
from tests.support.stores import RunningStores, cloned_database


@dataclass(frozen=True)
class Gateway:
    """A gateway that runs."""

    url: str
    settings: Settings
    database: Database

    def tenant(self) -> UUID:
        """A new tenant."""
        with self.database.transaction() as session:
            return repository.ensure_tenant(session, f"tenant-{new_id().hex}").id

    def key(self, *scopes: str, tenant: UUID | None = None) -> str:
        """A key with these scopes, all by default."""
        owner = Caller(tenant or self.tenant(), "", "", frozenset({service.ALL}))
        with self.database.transaction() as session:
            return service.create_key(session, owner, name="test", scopes=scopes or (service.ALL,)).token

    def caller(self, *scopes: str, tenant: UUID | None = None) -> httpx.Client:
        """A client that carries such a key."""
        headers = {"authorization": f"Bearer {self.key(*scopes, tenant=tenant)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=False)  # 23 ms less: no TLS here


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A gateway in a thread; its URL."""
    options = uvicorn.Config(
        create_app(settings), port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(options)
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    try:
        wait_until(lambda: server.started, what="the gateway serves")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running_gateway(stores: RunningStores, migrated: str, **changes: object) -> Iterator[Gateway]:
    """A gateway on a database of its own."""
    with cloned_database(stores, migrated) as url, configured(stores.settings(database_url=url, **changes)) as settings:
        database = Database(url, name="test")
        with serving(settings) as address:
            yield Gateway(address, settings, database)
        database.close()


@pytest.fixture(scope="module")
def gateway(stores: RunningStores, migrated: str) -> Iterator[Gateway]:
    with running_gateway(stores, migrated) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.caller() as opened:
        yield opened
