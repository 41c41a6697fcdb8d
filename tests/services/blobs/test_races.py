"""Fault 33: content is removed while somebody stores the same bytes."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from shared import failpoints
from shared.db.session import Database
from shared.errors import StoreUnavailable
from shared.failpoints import Injected
from shared.settings import Settings
from shared.storage import Blob, Store, key_of
from tests.services.blobs.swept import DATA, age, candidates, later, sweep
from tests.support.polling import wait_until
from tests.support.stores import RunningStores
from tests.support.webhooks import closed_port

_WRITERS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL")


class TestRaces:
    def test_who_stores_it_waits_and_stores_it_anew(self, database: Database, store: Store, tenant: UUID, upload):
        blob = store.put_bytes(tenant, DATA)
        age(database)
        with ThreadPoolExecutor(2) as threads, failpoints.armed("gc.before_delete:sleep=0.5"):
            removing = threads.submit(sweep, database, store)
            wait_until(lambda: _locked(database), what="the sweeper holds the content")
            storing = threads.submit(upload)
            assert removing.result() == 1
            assert storing.result().sha256 == blob.sha256
        assert store.read(tenant, blob) == DATA
        assert later(database, store) == 0
        assert store.read(tenant, blob) == DATA

    def test_in_any_order(self, database: Database, store: Store, tenant: UUID, upload):
        """Three who store, two who sweep, all at once: whatever is named can be read."""
        removed = 0
        for number in range(25):
            data = b"%d" % number * 1000
            store.put_bytes(tenant, data)
            age(database)
            start = threading.Barrier(5)
            with ThreadPoolExecutor(5) as threads:
                sweepers = [threads.submit(_after, start, partial(sweep, database, store)) for _ in range(2)]
                storing = [threads.submit(_after, start, partial(upload, data)) for _ in range(3)]
                for file in [each.result() for each in storing]:  # rclone lets nobody read what is being written
                    assert store.read(tenant, Blob(file.sha256, file.bytes)) == data
                removed += sum(sweeper.result() for sweeper in sweepers)
            assert store.read(tenant, Blob(hashlib.sha256(data).hexdigest(), len(data))) == data
        assert 0 <= removed <= 25
        assert later(database, store) == 0

    def test_a_removal_that_was_cut_short_is_not_trusted(
        self, database: Database, store: Store, tenant: UUID, stores: RunningStores
    ):
        """Its delete may still be on its way: who stores the content sends it, though it seems to be there."""
        blob = store.put_bytes(tenant, DATA)
        kept = stores.stores.place.store / stores.s3_bucket / key_of(tenant, blob.sha256)
        written = kept.stat().st_mtime_ns
        assert store.put_bytes(tenant, DATA) == blob
        assert kept.stat().st_mtime_ns == written
        age(database)
        with failpoints.armed("gc.before_delete:raise"), pytest.raises(Injected):
            sweep(database, store)
        assert store.put_bytes(tenant, DATA) == blob
        assert kept.stat().st_mtime_ns > written
        assert sweep(database, store) == 0

    def test_a_sweeper_that_dies_leaves_it_to_the_next(self, database: Database, store: Store, tenant: UUID):
        blob = store.put_bytes(tenant, DATA)
        age(database)
        with failpoints.armed("gc.before_delete:raise@1"):
            with pytest.raises(Injected):
                sweep(database, store)
            assert store.read(tenant, blob) == DATA
            assert sweep(database, store) == 1
        assert store.size(tenant, blob.sha256) is None

    def test_a_store_that_is_away_changes_nothing(
        self, database: Database, store: Store, tenant: UUID, settings: Settings
    ):
        blob = store.put_bytes(tenant, DATA)
        age(database)
        away = Store.of(settings.model_copy(update={"s3_endpoint": closed_port().split("/")[2]}))
        with pytest.raises(StoreUnavailable):
            sweep(database, away)
        assert (candidates(database), store.read(tenant, blob)) == (1, DATA)
        assert sweep(database, store) == 1


def _locked(database: Database) -> bool:
    """Whether somebody is in the middle of a write: the look takes no lock, for the sweeper skips what is locked."""
    with database.transaction() as session:
        return bool(session.execute(_WRITERS).scalar_one())


def _after(start: threading.Barrier, work: Callable[[], Any]) -> Any:
    start.wait(timeout=30)
    return work()
