"""Which format a file is, by its content; its name only tells text formats apart."""

import re
import zipfile
from pathlib import Path, PurePath
from typing import Final

from workers.documents.archives import check
from workers.documents.refusals import encrypted, unsupported
from workers.documents.types import Refused

HEAD: Final = 65_536  # bytes that are looked at
#: formats we do not read, by how their files begin
_OTHERS: Final = (
    (b"\x89PNG\r\n", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"), (b"MM\x00*", "a TIFF image"), (b"RIFF", "a RIFF media file"), (b"BM", "a bitmap"),
    (b"{\\rtf", "an RTF document"), (b"%!PS", "a PostScript document"), (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"Rar!", "a RAR archive"), (b"\x7fELF", "a program"),
    (b"SQLite format 3\x00", "a database"), (b"PAR1", "a Parquet file"), (b"OggS", "a media file"),
)  # fmt: skip
_BINARY_ONLY: Final = frozenset({b"BM", b"RIFF", b"PAR1", b"OggS", b"Rar!", b"GIF8"})  # words of a text may begin so
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MAIN: Final = (
    (b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml", "docx"),
    (b"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml", "xlsx"),
)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_TEXTS: Final = {".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html", ".xhtml": "html"}
_HTML: Final = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
_PDF: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*%PDF-")
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


def format_of(path: Path, filename: str) -> str:
    """pdf, docx, xlsx, html, markdown or text.

    Raises:
        Refused: it is empty, encrypted, damaged, a bomb, or of a format that we do not read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.strip(b"\x00\t\n\f\r "):
        raise Refused("empty_document", "The file is empty.", "Upload the file again, with its content.")
    binary = _binary(head)
    if _PDF.match(head) or (binary and b"%PDF-" in head[:1024]):
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return _office(path)
    if head.startswith(_OLE):
        raise _old_office(path)
    for magic, what in _OTHERS:
        if head.startswith(magic) and (binary or magic not in _BINARY_ONLY):
            raise unsupported(what)
    if binary:
        raise unsupported("a binary file of a kind that we do not know")
    ending = PurePath(filename).suffix.lower()
    return _TEXTS.get(ending) or ("html" if ending != ".txt" and _HTML.match(head[:4096]) else "text")


def _binary(head: bytes) -> bool:
    """Whether it is no text: more than one control character in a hundred (random bytes have eleven)."""
    return not head.startswith(_UTF16) and len(_CONTROL.findall(head)) * 100 > len(head)


def _office(path: Path) -> str:
    """The format of a zip archive, which is checked before any of its members is read as XML."""
    check(path)
    with zipfile.ZipFile(path) as archive:
        try:
            types = archive.read("[Content_Types].xml")
        except KeyError:
            raise unsupported("a zip archive") from None
    for main, name in _MAIN:
        if main in types:
            return name
    if b"macroEnabled" in types:
        raise unsupported("an Office document with macros")
    raise unsupported("a zip archive or an Office document of another kind")


def _old_office(path: Path) -> Refused:
    """An OLE file is an old Office document, or a new one behind a password ([MS-OFFCRYPTO] 1.3)."""
    with path.open("rb") as file:
        protected = "EncryptedPackage".encode("utf-16-le") in file.read(64 * 1024**2)
    if protected:
        return encrypted()
    return unsupported("an Office document of before 2007 (or another OLE file)")
