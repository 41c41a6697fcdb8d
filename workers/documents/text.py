"""Plain text and Markdown: decoded, and otherwise as it is."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from workers.documents.cleaning import paged
from workers.documents.types import Page

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read(path: Path) -> Iterator[Page]:
    """The pages: form feeds part them."""
    for number, text in enumerate(paged(decoded(path.read_bytes())), start=1):
        yield Page(number, text)


def decoded(content: bytes) -> str:
    """UTF-8, UTF-16 with a byte order mark, or else Windows-1252 (five bytes mean nothing in it: they are replaced)."""
    for mark, name in _BOMS:
        if content.startswith(mark):
            return content[len(mark) :].decode(name, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")
