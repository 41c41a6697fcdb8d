"""Reading in the tests: in this process where only the text matters, in the sandbox where that is the point."""

import asyncio
from pathlib import Path
from typing import Any

from shared.settings import Settings
from workers.documents import extraction
from workers.documents.protocol import Request
from workers.documents.reading import Readers
from workers.documents.types import Parsed, Refused

MIB = 1024**2


def pages(path: Path, *, filename: str = "") -> list[str]:
    """The pages' text. Raises Refused."""
    asked: dict[str, Any] = {
        "path": str(path),
        "filename": filename or path.name,
        "cpu_s": 60,
        "memory_bytes": 2**40,
        "images": False,
    }
    told = list(extraction.answers(Request(**asked, pages=100, text_bytes=MIB)))
    for line in told:
        if "refused" in line:
            raise Refused(**line["refused"])
    found = [line for line in told if "page" in line]
    assert [line["page"] for line in found] == list(range(1, len(found) + 1))
    return [line["text"] for line in found]


def read(*paths: Path, **settings: Any) -> list[Parsed | Refused]:
    """What the sandbox makes of each document, read at the same time."""

    async def run() -> list[Parsed | Refused]:
        async with Readers(Settings(**settings)) as readers:
            return await asyncio.gather(*(one(readers, path) for path in paths))

    async def one(readers: Readers, path: Path) -> Parsed | Refused:
        try:
            return await readers.parse(path, filename=path.name)
        except Refused as refused:
            return refused

    return asyncio.run(run())


def codes(*paths: Path, **settings: Any) -> list[str]:
    """The format of what was read, the error's code of what was refused."""
    return [found.error.code if isinstance(found, Refused) else found.format for found in read(*paths, **settings)]
