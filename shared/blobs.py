"""Blobs: immutable bytes, named by what they are.

A blob's key is made of its tenant and its sha256 (`t/{tenant}/blobs/{aa}/{sha256}`), so the same bytes are stored once,
an upload that happens twice changes nothing, and no key is the folder of another (rclone keeps keys as files).
"""

import errno
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, ClassVar
from uuid import UUID

import urllib3

from shared.errors import ModelyardError, StoreUnavailable, TooLarge

CHUNK_BYTES = 256 * 1024

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobMissing(ModelyardError):
    """The store has lost the content of this object."""

    code: ClassVar[str] = "blob_missing"


class BlobCorrupt(ModelyardError):
    """The store returned other content than was stored."""

    code: ClassVar[str] = "blob_corrupt"


@dataclass(frozen=True)
class Blob:
    """Stored bytes: their sha256 in hex, and how many there are."""

    sha256: str
    bytes: int


def key_of(tenant_id: UUID, sha256: str) -> str:
    """Where a tenant's blob lies in the bucket."""
    assert _DIGEST.fullmatch(sha256), sha256
    return f"t/{tenant_id}/blobs/{sha256[:2]}/{sha256}"


class Content:
    """The bytes of a blob, or a slice of them, as chunks. Close it when not read to the end."""

    def __init__(self, response: urllib3.BaseHTTPResponse, *, skip: int, length: int) -> None:
        self._response = response
        self._skip = skip
        self.length = length

    def __iter__(self) -> Iterator[bytes]:
        """Chunks of at most 256 KiB.

        Raises:
            StoreUnavailable: the connection broke, or ended before all bytes had come.
        """
        skip, left = self._skip, self.length
        try:
            while left and (chunk := self._response.read(CHUNK_BYTES)):
                kept = chunk[skip : skip + left]
                skip = max(0, skip - len(chunk))
                left -= len(kept)
                if kept:
                    yield kept
        except urllib3.exceptions.HTTPError as error:
            raise StoreUnavailable from error
        finally:
            self.close()
        if left:
            raise StoreUnavailable("The object store closed the connection early.")

    def close(self) -> None:
        """Give up the rest."""
        self._response.close()
        self._response.release_conn()


def digest(file: BinaryIO) -> Blob:
    """What a file holds from here to its end."""
    sha256, size = hashlib.sha256(), 0
    while chunk := file.read(CHUNK_BYTES):
        sha256.update(chunk)
        size += len(chunk)
    return Blob(sha256.hexdigest(), size)


def spool(chunks: Iterable[bytes], file: BinaryIO, *, limit: int) -> Blob:
    """Write chunks to a file; what they hold.

    Raises:
        TooLarge: there are more bytes than `limit`.
        StoreUnavailable: this host has no space left to hold them.
    """
    sha256, size = hashlib.sha256(), 0
    try:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"The upload is larger than {limit} bytes.")
            sha256.update(chunk)
            file.write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreUnavailable("No space is left to hold this upload.") from error
        raise
    return Blob(sha256.hexdigest(), size)
