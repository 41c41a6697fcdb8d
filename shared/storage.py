"""The object store: content-addressed blobs behind the S3 API, one folder of keys per tenant.

A blob becomes visible only through a committed row that names it. Nothing here relies on more than PUT, GET, HEAD and
DELETE: ranges are cut by us, because rclone answers them with 200. An upload is one streamed PUT wherever S3 allows it
(5 GiB), because parts of a multipart upload live in rclone's memory and are lost with its process.
"""

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast
from uuid import UUID

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error

from shared.blobs import CHUNK_BYTES, Blob, BlobCorrupt, BlobMissing, Content, digest, key_of, spool
from shared.errors import StoreUnavailable
from shared.readers import Joined, Told
from shared.settings import Settings

SINGLE_PUT_BYTES = 5 * 1024**3  # the S3 limit of one PUT
PART_BYTES = 64 * 1024**2  # of what is larger; one at a time is in memory
SPOOL_MEMORY_BYTES = 1024**2  # a streamed upload larger than this waits in a file
CONNECT_S, READ_S = 3.0, 30.0
DELETE_S = 5.0  # bound of a delete: its caller holds a lock meanwhile
TRIES, BACKOFF_S = 4, 0.2  # 0, 0.4, 0.8, 1.6 s: a store that restarts is not an error
BUSY = (500, 502, 503, 504)
REGION = "us-east-1"  # named, so that the client does not ask before every first call

__all__ = [
    "CHUNK_BYTES",
    "SINGLE_PUT_BYTES",
    "Abilities",
    "Blob",
    "BlobCorrupt",
    "BlobMissing",
    "Content",
    "Keep",
    "Store",
    "key_of",
]

#: told before content is sent, so that nobody removes it any more; True: send it even if it seems to be there
Keep = Callable[[UUID, str], bool]


@dataclass(frozen=True)
class Abilities:
    """What the store was seen to do; optimisations may ask, correctness may not."""

    ranges: bool  #: sends only the bytes asked for
    conditional_put: bool  #: honours `If-None-Match: *`
    presigned_get: bool  #: serves a URL signed by us to whoever holds it


class Store:
    """A bucket. Thread-safe; connects when first used, so it may be built while the store is down.

    `keep` is called before every put, with no transaction open: `services.blobs` has the one of a database.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        access_key: str,
        secret_key: str,
        bucket: str,
        secure: bool = False,
        keep: Keep | None = None,
    ) -> None:
        retries = urllib3.Retry(TRIES, backoff_factor=BACKOFF_S, status_forcelist=BUSY, allowed_methods=None)
        timeout = urllib3.Timeout(connect=CONNECT_S, read=READ_S)
        self._http = urllib3.PoolManager(maxsize=16, retries=retries, timeout=timeout)
        self._bucket = bucket
        self._keep = keep
        self._client = Minio(
            endpoint,
            access_key=access_key,
            secret_key=secret_key,
            secure=secure,
            region=REGION,
            http_client=self._http,
        )

    @classmethod
    def of(cls, settings: Settings, *, keep: Keep | None = None) -> Self:
        """The store that the settings name."""
        return cls(
            settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            bucket=settings.s3_bucket,
            secure=settings.s3_secure,
            keep=keep,
        )

    def probe(self) -> Abilities:
        """Make the bucket if there is none, write and read a small object, and see what the store can do.

        Raises:
            StoreUnavailable: the store cannot be reached, refuses our keys, or does not return what it was
            given.
        """
        key, body = f"probe/{os.urandom(8).hex()}", b"modelyard"
        with _told():
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket)
            self._client.put_object(self._bucket, key, io.BytesIO(body), len(body))
            try:
                return self._abilities(key, body)
            finally:
                self._client.remove_object(self._bucket, key)

    def put_file(self, tenant_id: UUID, path: Path, *, tell: Callable[[int], None] | None = None) -> Blob:
        """Store a file. `tell` hears of every piece that is hashed or sent, in bytes, and may raise to stop.

        Raises:
            StoreUnavailable: the store did not take it.
        """
        with path.open("rb") as opened:
            file = opened if tell is None else cast("BinaryIO", Told(opened, tell))
            return self._put(tenant_id, file, digest(file))

    def put_bytes(self, tenant_id: UUID, data: bytes) -> Blob:
        """Store bytes.

        Raises:
            StoreUnavailable: the store did not take them.
        """
        return self._put(tenant_id, io.BytesIO(data), Blob(hashlib.sha256(data).hexdigest(), len(data)))

    def put_stream(self, tenant_id: UUID, chunks: Iterable[bytes], *, limit: int) -> Blob:
        """Store what `chunks` yield. It waits in a nameless file until its digest is known.

        Raises:
            TooLarge: there were more bytes than `limit`.
            StoreUnavailable: the store did not take them, or this host has no space left to hold them.
        """
        with tempfile.SpooledTemporaryFile(SPOOL_MEMORY_BYTES) as temporary:
            file = cast("BinaryIO", temporary)
            return self._put(tenant_id, file, spool(chunks, file, limit=limit))

    def join(
        self, tenant_id: UUID, blobs: Sequence[Blob], whole: Blob, *, tell: Callable[[int], None] = lambda _: None
    ) -> None:
        """Store blobs, one after the other, as the one that they make: nothing is held but a chunk (see `chunks`).

        Raises:
            BlobMissing: the store has lost one of them.
            StoreUnavailable: the store did not give or take them.
        """
        joined = Joined(blobs, lambda blob, start: self.open(tenant_id, blob, start=start))
        with contextlib.closing(joined):
            self._put(tenant_id, cast("BinaryIO", Told(cast("BinaryIO", joined), tell)), whole)

    def open(self, tenant_id: UUID, blob: Blob, *, start: int = 0, length: int | None = None) -> Content:
        """The bytes `start` to `start + length` of a blob: asked for now, sent as they are read.

        Raises:
            BlobMissing: the store does not have it.
            StoreUnavailable: the store cannot be reached.
        """
        length = blob.bytes - start if length is None else length
        assert 0 <= start < start + length <= blob.bytes or blob.bytes == 0, (start, length, blob.bytes)
        key = key_of(tenant_id, blob.sha256)
        whole = length == blob.bytes
        with _told(), self._missing(key):
            response = self._client.get_object(
                self._bucket, key, offset=0 if whole else start, length=0 if whole else length
            )
        cut = "content-range" in response.headers
        return Content(response, skip=0 if cut else start, length=length)

    def read(self, tenant_id: UUID, blob: Blob) -> bytes:
        """All of a blob, checked. For small ones.

        Raises:
            BlobCorrupt: the digest differs.
            BlobMissing: the store does not have it.
            StoreUnavailable: the store cannot be reached.
        """
        return b"".join(self.chunks(tenant_id, [blob]))

    def chunks(self, tenant_id: UUID, blobs: Iterable[Blob]) -> Iterator[bytes]:
        """The bytes of several blobs, one after the other, each checked at its end.

        Raises:
            BlobCorrupt: a digest differs.
            BlobMissing: the store does not have one of them.
            StoreUnavailable: the store cannot be reached.
        """
        for blob in blobs:
            sha256 = hashlib.sha256()
            for chunk in self.open(tenant_id, blob):
                sha256.update(chunk)
                yield chunk
            if sha256.hexdigest() != blob.sha256:
                raise BlobCorrupt

    def fetch(self, tenant_id: UUID, blob: Blob, path: Path, *, tell: Callable[[int], None] = lambda _: None) -> None:
        """Write a blob to `path`, checked: the name has the right content from the beginning. `tell`: see `put_file`.

        Raises:
            BlobCorrupt: the digest differs.
            BlobMissing: the store does not have it.
            StoreUnavailable: the store cannot be reached.
        """
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as file:
                for chunk in self.chunks(tenant_id, [blob]):
                    file.write(chunk)
                    tell(len(chunk))
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def size(self, tenant_id: UUID, sha256: str) -> int | None:
        """How many bytes are stored under a digest; None when there are none.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        with _told():
            return self._size(key_of(tenant_id, sha256))

    def delete(self, tenant_id: UUID, sha256: str) -> None:
        """Forget a blob, if it is there, in at most five seconds. Raises StoreUnavailable."""
        with _told():
            url = self._client.get_presigned_url("DELETE", self._bucket, key_of(tenant_id, sha256))
            reply = self._http.request("DELETE", url, timeout=urllib3.Timeout(total=DELETE_S), retries=False)
        if reply.status not in (200, 204, 404):
            raise StoreUnavailable(f"The object store refused a delete with status {reply.status}.")

    def _put(self, tenant_id: UUID, file: BinaryIO, blob: Blob) -> Blob:
        key = key_of(tenant_id, blob.sha256)
        anew = self._keep is not None and self._keep(tenant_id, blob.sha256)
        with _told():
            if not anew and self._size(key) == blob.bytes:
                return blob
            file.seek(0)
            if blob.bytes > SINGLE_PUT_BYTES:
                self._client.put_object(
                    self._bucket, key, file, blob.bytes, part_size=PART_BYTES, num_parallel_uploads=1
                )
                return blob
            headers = {"Content-Length": str(blob.bytes), "Content-Type": "application/octet-stream"}
            url = self._client.get_presigned_url("PUT", self._bucket, key)
            reply = self._http.request("PUT", url, body=file, headers=headers)
            if reply.status != 200:
                raise StoreUnavailable(f"The object store refused an upload with status {reply.status}.")
        return blob

    def _size(self, key: str) -> int | None:
        try:
            return self._client.stat_object(self._bucket, key).size
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return None
            raise

    @contextlib.contextmanager
    def _missing(self, key: str) -> Iterator[None]:
        try:
            yield
        except (S3Error, InvalidResponseError) as error:
            # rclone's 404 to a GET has a content type that the client takes for no answer of S3: ask again.
            if self._size(key) is None:
                raise BlobMissing from error
            raise

    def _abilities(self, key: str, body: bytes) -> Abilities:
        whole = self._client.get_object(self._bucket, key).data
        part = self._client.get_object(self._bucket, key, offset=2, length=3).data
        if whole != body or part not in (body, body[2:5]):
            raise StoreUnavailable("The object store did not return what it was given.")
        signed = {verb: self._client.get_presigned_url(verb, self._bucket, key) for verb in ("GET", "PUT")}
        direct = self._http.request("GET", signed["GET"])
        again = self._http.request("PUT", signed["PUT"], body=body, headers={"If-None-Match": "*"})
        return Abilities(ranges=part != body, conditional_put=again.status == 412, presigned_get=direct.data == body)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what a client library raises into `StoreUnavailable`."""
    try:
        yield
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        detail = (error.code if isinstance(error, S3Error) else None) or type(error).__name__
        raise StoreUnavailable(f"The object store cannot do this right now ({detail}).") from error
