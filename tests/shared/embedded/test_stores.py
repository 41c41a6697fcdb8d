"""The stores of a yard: private, guarded by passwords, and whole again after a kill."""

import io
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import minio
import psutil
import psycopg
import pytest
import redis

from shared.embedded.credentials import Credentials
from shared.embedded.errors import YardError
from shared.embedded.layout import layout
from tests.support.stores import RunningStores, running_stores


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStores]:
    """Stores of this module's own, durable ones, in a folder that only its owner may enter."""
    folder = tmp_path_factory.mktemp("own") / ("long-" * 24) / "data"
    folder.mkdir(parents=True, mode=0o700)
    with running_stores(folder, fsync=True) as running:
        yield running


def postgres(stores: RunningStores) -> psycopg.Connection:
    return psycopg.connect(stores.database_url.replace("postgresql+psycopg", "postgresql"), connect_timeout=5)


def s3(stores: RunningStores, *, secret: str | None = None) -> minio.Minio:
    return minio.Minio(stores.s3_endpoint, stores.s3_access_key, secret or stores.s3_secret_key, secure=False)


def policy(url: str) -> tuple[str, ...]:
    with redis.Redis.from_url(url, decode_responses=True) as server:
        names = ("maxmemory-policy", "appendonly", "appendfsync")
        return tuple(server.config_get(name)[name] for name in names)


class TestPrivacy:
    def test_a_folder_of_mode_0700_and_150_characters_works(self, own: RunningStores) -> None:
        assert stat.S_IMODE(own.stores.place.data.stat().st_mode) == 0o700
        assert len(str(own.stores.place.data)) > 150
        with postgres(own) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)

    def test_processes_run_as_the_owner(self, own: RunningStores) -> None:
        owners = {psutil.Process(child.pid).uids().real for child in own.children.values()}
        assert owners == {os.geteuid()}

    def test_pids_are_the_servers_themselves(self, own: RunningStores) -> None:
        names = {role: psutil.Process(child.pid).name() for role, child in own.children.items()}
        assert names == {
            "store": "rclone",
            "broker": "redis-server",
            "cache": "redis-server",
            "postgres": "postgres",
        }

    def test_only_loopback_is_listened_on(self, own: RunningStores) -> None:
        for child in own.children.values():
            heard = [c for c in psutil.Process(child.pid).net_connections("inet") if c.status == "LISTEN"]
            assert {connection.laddr.ip for connection in heard} == {"127.0.0.1"}

    def test_passwords_are_demanded(self, own: RunningStores) -> None:
        with pytest.raises(psycopg.OperationalError, match="authentication"):
            psycopg.connect(host="127.0.0.1", port=own.stores.ports["postgres"], user="modelyard", password="wrong")
        for url in (own.broker_url, own.cache_url):
            with pytest.raises(redis.AuthenticationError):
                redis.Redis.from_url(url.replace("://:", "://:x")).ping()
        with pytest.raises(minio.error.MinioException, match="SignatureDoesNotMatch"):
            s3(own, secret="0" * 48).list_buckets()

    def test_no_secret_is_in_argv_or_a_log(self, own: RunningStores) -> None:
        secrets = {
            value.get_secret_value() for name, value in own.stores.credentials if name != "s3_access_key" and value
        }
        shown = [*(" ".join(psutil.Process(child.pid).cmdline()) for child in own.children.values())]
        shown += [path.read_text() for path in (own.stores.place.data / "logs").iterdir()]
        assert not [secret for secret in secrets for text in shown if secret in text]

    def test_files_of_secrets_are_the_owners_alone(self, own: RunningStores) -> None:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in own.stores.place.secrets.iterdir()}
        assert set(modes.values()) == {0o600}


class TestPolicies:
    def test_the_broker_keeps_and_the_cache_forgets(self, own: RunningStores) -> None:
        assert policy(own.broker_url) == ("noeviction", "yes", "everysec")
        assert policy(own.cache_url)[:2] == ("allkeys-lru", "no")

    def test_a_stuck_transaction_is_ended(self, own: RunningStores) -> None:
        with postgres(own) as connection:
            assert connection.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("10s",)


@pytest.mark.faults
class TestKilled:
    def test_postgres_keeps_what_was_committed(self, own: RunningStores) -> None:
        with postgres(own) as connection:
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept VALUES (7)")
        own.kill("postgres")
        own.restart("postgres")
        with postgres(own) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)

    def test_the_broker_keeps_what_was_pushed(self, own: RunningStores) -> None:
        with redis.Redis.from_url(own.broker_url) as broker:
            broker.lpush("bells", "cpu.serve")
        own.kill("broker")
        own.restart("broker")
        with redis.Redis.from_url(own.broker_url) as broker:
            assert broker.lrange("bells", 0, -1) == [b"cpu.serve"]

    def test_the_cache_starts_empty(self, own: RunningStores) -> None:
        with redis.Redis.from_url(own.cache_url) as cache:
            cache.set("answer", "42")
        own.kill("cache")
        own.restart("cache")
        with redis.Redis.from_url(own.cache_url) as cache:
            assert cache.get("answer") is None

    def test_the_store_keeps_objects_and_sweeps_half_uploads(self, own: RunningStores) -> None:
        s3(own).put_object(own.s3_bucket, "t/a/blob", io.BytesIO(b"bytes"), 5)
        half = own.stores.place.store / own.s3_bucket / "t" / ".rclone_temp_put_1"
        half.write_bytes(b"half")
        own.kill("store")
        own.restart("store")
        assert s3(own).get_object(own.s3_bucket, "t/a/blob").data == b"bytes"
        assert not half.exists()


class TestCredentials:
    def test_they_are_made_once(self, tmp_path: Path) -> None:
        place = layout(tmp_path / "yard")
        place.create_data()
        assert Credentials.load(place) == Credentials.load(place)

    def test_a_database_without_its_secrets_is_refused(self, tmp_path: Path) -> None:
        place = layout(tmp_path / "yard")
        place.create_data()
        place.postgres.mkdir()
        with pytest.raises(YardError, match="missing"):
            Credentials.load(place)
        shutil.rmtree(place.data)
