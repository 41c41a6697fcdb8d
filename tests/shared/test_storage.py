import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from shared import storage
from shared.errors import DatabaseUnavailable, StoreUnavailable, TooLarge
from shared.ids import new_id
from shared.readers import Joined
from shared.storage import CHUNK_BYTES, Blob, BlobCorrupt, BlobMissing, Store, key_of
from tests.support.stores import RunningStores
from tests.support.webhooks import closed_port


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


class TestJoin:
    """Blobs, one after the other, as one."""

    @pytest.fixture
    def parts(self, store: Store, tenant: UUID) -> list[Blob]:
        sizes = (3 * CHUNK_BYTES + 7, 1, 0, CHUNK_BYTES, 5)
        return [store.put_bytes(tenant, os.urandom(size)) for size in sizes]

    def test_they_are_the_bytes_of_their_parts(self, store: Store, tenant: UUID, parts: list[Blob]):
        data = b"".join(store.chunks(tenant, parts))
        assert data == b"".join(store.read(tenant, part) for part in parts)
        told: list[int] = []
        store.join(tenant, parts, blob_of(data), tell=told.append)
        assert (store.read(tenant, blob_of(data)), sum(told)) == (data, len(data))

    def test_what_is_there_already_is_not_sent(self, store: Store, tenant: UUID, parts: list[Blob]):
        data = b"".join(store.chunks(tenant, parts))
        store.put_bytes(tenant, data)
        told: list[int] = []
        store.join(tenant, parts, blob_of(data), tell=told.append)
        assert told == []

    def test_more_than_a_put_may_hold_goes_in_several(
        self, store: Store, tenant: UUID, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(storage, "SINGLE_PUT_BYTES", 1024)
        monkeypatch.setattr(storage, "PART_BYTES", 5 * 1024**2)  # S3's least
        parts = [store.put_bytes(tenant, os.urandom(4 * 1024**2)) for _ in range(3)]
        data = b"".join(store.chunks(tenant, parts))
        store.join(tenant, parts, blob_of(data))
        assert store.read(tenant, blob_of(data)) == data

    def test_a_flipped_byte_is_noticed(self, store: Store, tenant: UUID, stores: RunningStores):
        parts = [store.put_bytes(tenant, data) for data in (b"good", b"precious")]
        (stores.stores.place.store / stores.s3_bucket / key_of(tenant, parts[1].sha256)).write_bytes(b"precioux")
        with pytest.raises(BlobCorrupt):
            list(store.chunks(tenant, parts))

    def test_it_can_be_read_again_from_any_place(self, store: Store, tenant: UUID, parts: list[Blob]):
        data = b"".join(store.chunks(tenant, parts))
        joined = Joined(parts, lambda blob, start: store.open(tenant, blob, start=start))
        for place in (0, 5, parts[0].bytes - 1, parts[0].bytes, parts[0].bytes + 1, len(data) - 5, len(data)):
            assert joined.seek(place) == joined.tell() == place
            first = joined.read(3)
            assert first == data[place : place + len(first)]
            assert len(first) > 0 or place == len(data)
            assert first + b"".join(iter(lambda: joined.read(1000), b"")) == data[place:]
            assert (joined.tell(), joined.read(1)) == (len(data), b"")
        joined.close()


class TestKeep:
    def test_it_is_asked_before_every_put(self, stores: RunningStores, tenant: UUID):
        asked: list[tuple[UUID, str]] = []

        def keep(tenant_id: UUID, sha256: str) -> bool:
            asked.append((tenant_id, sha256))
            return False

        store = Store.of(stores.settings(), keep=keep)
        blob = store.put_bytes(tenant, b"kept")
        assert store.put_stream(tenant, [b"ke", b"pt"], limit=4) == blob
        store.join(tenant, [blob], blob)
        assert asked == [(tenant, blob.sha256)] * 3

    def test_what_may_not_be_kept_is_not_stored(self, stores: RunningStores, tenant: UUID):
        def keep(_tenant_id: UUID, _sha256: str) -> bool:
            raise DatabaseUnavailable

        store = Store.of(stores.settings(), keep=keep)
        with pytest.raises(DatabaseUnavailable):
            store.put_bytes(tenant, b"unkept")
        assert store.size(tenant, blob_of(b"unkept").sha256) is None


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
