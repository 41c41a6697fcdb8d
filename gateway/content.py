"""Bytes of artifacts and files, sent as they come from the store: whole (200), or a slice cut by us (206, 416)."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.etags import etag, fresh
from shared.ranges import RangeNotSatisfiable, Slice, wanted
from shared.storage import Content


@dataclass(frozen=True)
class Download:
    """Stored bytes under the name that their owner gave them; `open` asks the store for a slice."""

    sha256: str
    bytes: int
    filename: str
    media_type: str
    open: Callable[[Slice], Content]


class UnsatisfiableRange(RangeNotSatisfiable):
    """The range begins after the end of the content."""

    def __init__(self, size: int) -> None:
        super().__init__(param="Range")
        self.headers = {"content-range": f"bytes */{size}"}


def send(request: Request, download: Download) -> Response:
    """The answer to a GET or HEAD. Called in a thread, with no transaction open.

    Raises:
        RangeNotSatisfiable: no byte of the range exists.
        BlobMissing: the store has lost it.
        StoreUnavailable: the store cannot be reached.
    """
    tag = etag(download.sha256)
    headers = {"etag": tag, "accept-ranges": "bytes", "cache-control": "private, no-cache"}
    if fresh(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    slice_ = _slice(request, download, tag)
    headers |= {"content-length": str(slice_.length), "content-disposition": _disposition(download.filename)}
    if slice_.partial:
        headers["content-range"] = slice_.content_range
    status = 206 if slice_.partial else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=download.media_type)
    return _Sent(download.open(slice_), status=status, headers=headers, media_type=download.media_type)


class _Sent(StreamingResponse):
    """Chunks from the store; gives the connection back also when the reader goes away."""

    def __init__(self, content: Content, *, status: int, headers: dict[str, str], media_type: str) -> None:
        super().__init__(iter(content), status, headers=headers, media_type=media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._content.close()


def _slice(request: Request, download: Download, tag: str) -> Slice:
    """What `Range` asks for; all of it when `If-Range` names other content (RFC 9110 §13.1.5)."""
    changed = request.headers.get("if-range", tag) != tag
    try:
        return wanted(None if changed else request.headers.get("range"), download.bytes)
    except RangeNotSatisfiable as error:
        raise UnsatisfiableRange(download.bytes) from error


def _disposition(filename: str) -> str:
    """RFC 6266: a download, never a page, under the name in its RFC 8187 spelling."""
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
