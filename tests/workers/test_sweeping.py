"""The courier ends files and uploads whose time is over, and removes content that nothing names."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from services.blobs.service import keeper
from services.files import service as files
from services.files import uploads
from services.files.uploads import NewUpload
from shared.db.models import File
from shared.db.session import Database
from shared.http import Outbound
from shared.settings import Settings
from shared.storage import Store
from tests.services.blobs.swept import GRACE_S, age
from tests.services.jobs import build
from tests.support.configured import configured, environment
from tests.support.polling import wait_until
from workers.courier import Courier
from workers.tasks.control import Context


@pytest.fixture
def here(settings: Settings) -> Iterator[Settings]:
    with configured(settings, blob_grace_s=GRACE_S) as read:
        yield read


@pytest.fixture
def store(here: Settings, database: Database) -> Store:
    opened = Store.of(here, keep=keeper(database, grace_s=GRACE_S))
    opened.probe()
    return opened


@pytest.fixture
def tenant(database: Database) -> UUID:
    with database.transaction() as session:
        return build.tenant(session)


@pytest.fixture
def late(database: Database, store: Store, tenant: UUID) -> File:
    """A file whose time is over, and that nobody has noticed yet."""
    with database.transaction() as session:
        row = files.create(
            session, store, tenant, filename="f", purpose="user_data", chunks=iter([b"late"]), expires_in_s=3600
        )
    with database.transaction() as session:
        session.execute(text("UPDATE files SET expires_at = clock_timestamp() - interval '1 s'"))
    return row


@pytest.fixture
def look(database: Database, store: Store) -> Iterator[Callable[[], None]]:
    """A round of a courier, its minute between two sweeps over."""
    courier = Courier(Context(database, store), Outbound(timeout_s=1, allow_http=True), grace_s=GRACE_S)

    def looked() -> None:
        courier._sweep_at = 0.0
        courier.look()

    yield looked
    stopping = threading.Event()
    stopping.set()
    courier.run(stopping)


class TestSweep:
    def test_of_a_late_file_and_its_content(self, database: Database, store: Store, tenant: UUID, *, late: File, look):
        look()
        with database.transaction() as session:
            assert session.get_one(File, late.id).deleted_at is not None
        assert store.size(tenant, late.sha256) == late.bytes
        age(database)

        def gone() -> bool:
            look()
            return store.size(tenant, late.sha256) is None

        wait_until(gone, what="the content is removed after the grace")

    def test_of_an_upload_that_nobody_completed(self, database: Database, store: Store, tenant: UUID, look):
        part = store.put_bytes(tenant, b"part")
        with database.transaction() as session:
            row = uploads.create(session, tenant, NewUpload("f", "user_data", "text/plain", 4), open_s=3600).upload
            uploads.add_part(session, tenant, uploads.public_id(row), blob=part)
        with database.transaction() as session:
            session.execute(text("UPDATE uploads SET expires_at = clock_timestamp() - interval '1 s'"))

        def ended() -> bool:
            look()
            with database.transaction() as session:
                return uploads.find(session, tenant, uploads.public_id(row)).upload.status == "expired"

        wait_until(ended, what="the upload is expired")
        age(database)
        wait_until(lambda: ended() and store.size(tenant, part.sha256) is None, what="its part is removed")

    @pytest.mark.faults
    def test_by_one_that_is_killed_at_it(
        self, here: Settings, database: Database, store: Store, tenant: UUID, *, late: File, tmp_path: Path
    ):
        """The content stays until the next courier, which finds the row as it was."""
        with database.transaction() as session:
            assert files.expire(session) == 1
        age(database)
        env = {**environment(here, failpoints="gc.before_delete:kill9@once"), "PATH": os.environ["PATH"]}
        command = [sys.executable, "-m", "workers.courier"]
        with (tmp_path / "log").open("a") as log:
            assert subprocess.run(command, env=env, stderr=log, timeout=60, check=False).returncode == -9
            assert store.size(tenant, late.sha256) == late.bytes
            second = subprocess.Popen(command, env=env, stderr=log)
        try:
            wait_until(lambda: store.size(tenant, late.sha256) is None, timeout=30, what="the second one removes it")
        finally:
            second.kill()
            second.wait()
