"""Files to send that are not files: one that tells how far it is read, and blobs one after the other."""

from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import accumulate
from typing import BinaryIO

from shared.blobs import Blob

Rest = Callable[[Blob, int], Iterable[bytes]]  #: the bytes of a blob from a place to its end


class Told:
    """A file that tells how much of it is read."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], None]) -> None:
        self._file, self._tell = file, tell

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._tell(len(data))
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class Joined:
    """Blobs one after the other, as one file. A chunk of one of them is in memory, and `seek` asks the store anew."""

    def __init__(self, blobs: Sequence[Blob], rest: Rest) -> None:
        self._blobs, self._rest_of = blobs, rest
        self._starts = list(accumulate((blob.bytes for blob in blobs), initial=0))
        self._chunks = self._from(0)
        self._ahead = memoryview(b"")
        self._place = 0

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, at least one before the end; one chunk of the store without a `size`."""
        if not self._ahead:
            self._ahead = memoryview(next(self._chunks, b""))
        piece = self._ahead[:size] if size >= 0 else self._ahead
        self._ahead = self._ahead[len(piece) :]
        self._place += len(piece)
        return bytes(piece)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        assert whence == 0, "from the beginning alone"
        self.close()
        self._chunks, self._ahead, self._place = self._from(offset), memoryview(b""), offset
        return offset

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        """Give up the rest."""
        self._chunks.close()

    def _from(self, place: int) -> Generator[bytes]:
        for blob, start in zip(self._blobs, self._starts, strict=False):  # one more start: the end
            if place < start + blob.bytes:
                yield from self._rest_of(blob, max(0, place - start))
