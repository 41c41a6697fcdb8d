"""`Range: bytes=…` as RFC 9110 §14 has it, one range at a time. We cut slices ourselves: stores differ."""

import re
from dataclasses import dataclass
from typing import ClassVar

from shared.errors import ModelyardError

_ONE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*", re.ASCII)


class RangeNotSatisfiable(ModelyardError):
    """The range begins after the end of the content."""

    code: ClassVar[str] = "range_not_satisfiable"
    status: ClassVar[int] = 416


@dataclass(frozen=True)
class Slice:
    """`length` bytes from `start` of `size`; `partial` when the answer is a 206."""

    start: int
    length: int
    size: int
    partial: bool

    @property
    def content_range(self) -> str:
        """The value of `Content-Range` for a 206."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"


def wanted(header: str | None, size: int) -> Slice:
    """The slice of `size` bytes that a `Range` header asks for.

    A header that is malformed, of another unit or of several ranges is ignored, as the RFC allows: the whole
    comes.

    Raises:
        RangeNotSatisfiable: no byte of the range exists; answer 416 with `Content-Range: bytes */size`.
    """
    match = _ONE.fullmatch(header or "")
    if match is None:
        return Slice(0, size, size, partial=False)
    first, last, suffix = match.groups()
    start = max(0, size - int(suffix)) if suffix else int(first)
    end = min(int(last), size - 1) if last else size - 1
    if last and int(last) < int(first):
        return Slice(0, size, size, partial=False)
    if start >= size or suffix == "0":
        raise RangeNotSatisfiable
    return Slice(start, end - start + 1, size, partial=True)
