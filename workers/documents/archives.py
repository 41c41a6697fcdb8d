"""Office documents are zip archives: what is checked before a member is read as XML."""

import re
import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

from workers.documents.refusals import bomb, damaged, encrypted

ENTRIES: Final = 10_000
DIRECTORY_BYTES: Final = 4 * 1024**2  # of the list of members, which zipfile reads at once
TOTAL_BYTES: Final = 512 * 1024**2  # of all members, uncompressed
RATIO: Final = 200  # uncompressed to compressed; repetitive sheets reach about 100, bombs 1,000
RATIO_FROM: Final = 16 * 1024**2  # bytes that may be compressed at any ratio
_PROLOG: Final = 65_536
_END: Final = b"PK\x05\x06"
_TAIL: Final = 22 + 65_535  # the end record and the longest comment (APPNOTE 4.3.16)
_UNSAFE: Final = re.compile(r"^[/\\]|^[A-Za-z]:|\\|\x00")


def check(path: Path) -> None:
    """Refuse what no Office program writes.

    Raises:
        Refused: document_bomb, encrypted_document or damaged_document.
    """
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, packed=path.stat().st_size)
            for member in members:
                if member.filename.lower().endswith((".xml", ".rels", ".vml")):
                    _check_prolog(archive, member)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, UnicodeDecodeError, OSError) as error:
        raise damaged("Its archive is cut short or broken.") from error


def _check_directory(path: Path) -> None:
    """The size of the member list, before zipfile makes objects of it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise damaged("Its archive is cut short or broken.")
    entries, directory = struct.unpack_from("<HI", tail, at + 10)
    if entries > ENTRIES or directory > DIRECTORY_BYTES:
        raise bomb(f"its archive has more than {ENTRIES:,} members.")


def _check_members(members: list[zipfile.ZipInfo], *, packed: int) -> None:
    if len(members) > ENTRIES:
        raise bomb(f"its archive has more than {ENTRIES:,} members.")
    if any(member.flag_bits & 1 for member in members):
        raise encrypted()
    total = sum(member.file_size for member in members)
    if total > TOTAL_BYTES or (total > RATIO_FROM and total > RATIO * packed):
        raise bomb(f"its archive of {packed:,} bytes unpacks to {total:,}.")
    if len({member.filename for member in members}) < len(members):
        raise damaged("Its archive holds two members of one name.")
    for member in members:
        name = member.filename
        if _UNSAFE.search(name) or ".." in PurePosixPath(name).parts or stat.S_ISLNK(member.external_attr >> 16):
            raise damaged("Its archive holds a link, or a name that leads out of it.")


def _check_prolog(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Office documents have no document type declarations (ISO/IEC 29500-2, 9.1.2.4); entity bombs need one."""
    with archive.open(member) as content:
        prolog = content.read(_PROLOG).replace(b"\x00", b"")  # UTF-16 is told by its NULs
    if b"<!DOCTYPE" in prolog or b"<!ENTITY" in prolog:
        raise bomb("its XML declares entities.")
