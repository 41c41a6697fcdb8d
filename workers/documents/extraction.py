"""One document, from its file to the lines that tell its pages. Runs inside the limits of the reading process."""

import base64
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workers.documents import docx, html, pdf, text, xlsx
from workers.documents.protocol import Request
from workers.documents.refusals import damaged, too_large, too_many_pages, too_much_text
from workers.documents.sniffing import format_of
from workers.documents.types import Page, Refused


def answers(request: Request) -> Iterator[dict[str, Any]]:
    """The lines of `workers.documents.protocol`, without the last one."""
    try:
        yield from _pages(request)
    except Refused as refused:
        told = refused
    except MemoryError:
        told = too_large(request.memory_bytes)
    except RecursionError:
        told = damaged("Its parts are nested too deep.")
    except Exception as error:  # noqa: BLE001 - a library met what it did not expect
        told = damaged(f"Reading it ended with {type(error).__name__}.")
    else:
        return
    if told.error.code == "damaged_document" and _full(request.memory_bytes):
        told = too_large(request.memory_bytes)  # libraries tell an allocation that failed as a file that is broken
    yield {"refused": {"code": told.error.code, "title": told.error.title, "detail": told.error.detail}}


def _full(memory_bytes: int) -> bool:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > memory_bytes // 2


def _pages(request: Request) -> Iterator[dict[str, Any]]:
    path = Path(request.path)
    kind = format_of(path, request.filename)
    yield {"format": kind}
    count = size = 0
    for found in _found(kind, path, request):
        match found:
            case Page(number, content):
                count, size = count + 1, size + len(content.encode())
                yield {"page": number, "text": content}
            case pdf.Picture(number, png):
                count += 1
                yield {"page": number, "image": base64.b64encode(png).decode()}
            case pdf.Unread(pages):
                yield {"unread": pages}
        if count > request.pages:
            raise too_many_pages(request.pages)
        if size > request.text_bytes:
            raise too_much_text(request.text_bytes)


def _found(kind: str, path: Path, request: Request) -> Iterator[Page | pdf.Picture | pdf.Unread]:
    match kind:
        case "pdf":
            yield from pdf.read(path, most=request.pages, images=request.images)
        case "docx":
            yield from docx.read(path)
        case "xlsx":
            yield from xlsx.read(path)
        case "html":
            yield from html.read(path)
        case _:
            if path.stat().st_size > 2 * request.text_bytes:  # UTF-16 takes two bytes where UTF-8 takes one
                raise too_much_text(request.text_bytes)
            yield from text.read(path)
