import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from shared.errors import StoreUnavailable, TooLarge
from shared.ids import new_id
from shared.storage import CHUNK_BYTES, Blob, BlobCorrupt, BlobMissing, Store, key_of
from tests.support.stores import RunningStores
from tests.support.webhooks import closed_port


@pytest.fixture
def store(stores: RunningStores) -> Store:
    opened = Store.of(stores.settings())
    opened.probe()
    return opened


@pytest.fixture
def tenant() -> UUID:
    return new_id()


def blob_of(data: bytes) -> Blob:
    return Blob(hashlib.sha256(data).hexdigest(), len(data))


class TestPut:
    def test_bytes_files_and_streams_come_back(self, store: Store, tenant: UUID, tmp_path: Path):
        data = os.urandom(3 * CHUNK_BYTES + 7)
        path = tmp_path / "data"
        path.write_bytes(data)
        for blob in (
            store.put_bytes(tenant, data),
            store.put_file(tenant, path),
            store.put_stream(tenant, (data[n : n + 1000] for n in range(0, len(data), 1000)), limit=len(data)),
        ):
            assert blob == blob_of(data)
        assert store.read(tenant, blob_of(data)) == data
        assert store.size(tenant, blob.sha256) == len(data)

    def test_the_empty_blob(self, store: Store, tenant: UUID):
        blob = store.put_bytes(tenant, b"")
        assert store.read(tenant, blob) == b""

    def test_a_stream_over_its_limit_stores_nothing(self, store: Store, tenant: UUID):
        data = b"x" * 2001
        with pytest.raises(TooLarge):
            store.put_stream(tenant, [data[:1000], data[1000:]], limit=2000)
        assert store.size(tenant, blob_of(data).sha256) is None

    def test_tenants_do_not_share_blobs(self, store: Store, tenant: UUID):
        blob = store.put_bytes(tenant, b"mine")
        with pytest.raises(BlobMissing):
            store.read(new_id(), blob)

    def test_a_second_upload_of_the_same_bytes_sends_none(self, store: Store, tenant: UUID, stores: RunningStores):
        blob = store.put_bytes(tenant, b"once")
        kept = stores.stores.place.store / stores.s3_bucket / key_of(tenant, blob.sha256)
        written = kept.stat().st_mtime_ns
        assert store.put_bytes(tenant, b"once") == blob
        assert kept.stat().st_mtime_ns == written

    def test_many_threads_at_once(self, store: Store, tenant: UUID):
        read: list[bool] = []

        def put(number: int) -> None:
            data = b"%d" % number
            read.extend(store.read(tenant, store.put_bytes(tenant, data)) == data for _ in range(5))

        threads = [threading.Thread(target=put, args=(number % 4,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert read == [True] * 40


class TestOpen:
    @pytest.mark.parametrize(("start", "length"), [(0, 10), (0, 1), (3, 4), (9, 1), (4, 6)])
    def test_slices(self, store: Store, tenant: UUID, start: int, length: int):
        blob = store.put_bytes(tenant, b"0123456789")
        assert b"".join(store.open(tenant, blob, start=start, length=length)) == b"0123456789"[start : start + length]

    def test_a_slice_across_chunks(self, store: Store, tenant: UUID):
        data = os.urandom(4 * CHUNK_BYTES)
        blob = store.put_bytes(tenant, data)
        start = CHUNK_BYTES - 5
        assert b"".join(store.open(tenant, blob, start=start)) == data[start:]

    def test_a_missing_blob_is_known_before_the_first_chunk(self, store: Store, tenant: UUID):
        with pytest.raises(BlobMissing):
            store.open(tenant, blob_of(b"never stored"))

    def test_delete(self, store: Store, tenant: UUID):
        blob = store.put_bytes(tenant, b"going")
        store.delete(tenant, blob.sha256)
        store.delete(tenant, blob.sha256)
        assert store.size(tenant, blob.sha256) is None


class TestFetch:
    def test_the_file_appears_whole(self, store: Store, tenant: UUID, tmp_path: Path):
        data = os.urandom(CHUNK_BYTES + 1)
        store.fetch(tenant, store.put_bytes(tenant, data), tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == data
        assert list(tmp_path.iterdir()) == [tmp_path / "file"]

    def test_a_flipped_byte_is_noticed(self, store: Store, tenant: UUID, stores: RunningStores, tmp_path: Path):
        blob = store.put_bytes(tenant, b"precious")
        kept = stores.stores.place.store / stores.s3_bucket / key_of(tenant, blob.sha256)
        kept.write_bytes(b"precioux")
        with pytest.raises(BlobCorrupt):
            store.fetch(tenant, blob, tmp_path / "file")
        with pytest.raises(BlobCorrupt):
            store.read(tenant, blob)
        assert not list(tmp_path.iterdir())


class TestProbe:
    def test_it_says_what_the_store_does(self, store: Store):
        abilities = store.probe()
        assert abilities.ranges
        assert abilities.presigned_get

    def test_a_store_that_is_not_there(self, stores: RunningStores):
        away = Store.of(stores.settings(s3_endpoint=closed_port().split("/")[2]))
        with pytest.raises(StoreUnavailable):
            away.probe()

    def test_a_wrong_key_is_told_apart(self, stores: RunningStores):
        with pytest.raises(StoreUnavailable, match=r"SignatureDoesNotMatch|AccessDenied"):
            Store.of(stores.settings(s3_secret_key="wrong" * 8)).probe()


@pytest.mark.faults
class TestOutage:
    @pytest.fixture
    def killed(self, stores: RunningStores) -> Iterator[RunningStores]:
        process = stores.children["store"]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        yield stores
        stores.restart("store")

    def test_what_was_stored_survives_a_killed_store(self, store: Store, tenant: UUID, stores: RunningStores):
        blob = store.put_bytes(tenant, b"kept")
        pid = stores.children["store"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        stores.restart("store")
        assert store.read(tenant, blob) == b"kept"

    def test_an_upload_waits_for_a_store_that_comes_back(self, store: Store, tenant: UUID, killed: RunningStores):
        blobs: list[Blob] = []
        upload = threading.Thread(target=lambda: blobs.append(store.put_bytes(tenant, b"patient")))
        upload.start()
        killed.restart("store")
        upload.join()
        assert store.read(tenant, blobs[0]) == b"patient"
