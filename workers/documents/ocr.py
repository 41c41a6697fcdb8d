"""Scanned pages: the operator's command reads pictures of them, one at a time, inside limits of its own."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shared.settings import passed_on
from workers.documents.cleaning import tidy
from workers.documents.reader import PASSED, ROOT, end
from workers.documents.types import Refused

FOUND_BY: Final = (*PASSED, "TESSDATA_PREFIX")
_CHUNK: Final = 65_536


async def recognise(
    command: Sequence[str], picture: bytes, *, page: int, timeout_s: float, memory_bytes: int, text_bytes: int
) -> str:
    """What the command prints for a PNG; `{image}` in its arguments is the picture's path.

    It has `timeout_s` of wall-clock time, as much CPU time, and an environment of PATH, LANG and TESSDATA_PREFIX.

    Raises:
        Refused: ocr_failed.
    """
    with tempfile.TemporaryDirectory(prefix="modelyard-ocr-") as folder:
        image = Path(folder, "page.png")
        await asyncio.to_thread(image.write_bytes, picture)
        limits = [f"{max(1, round(timeout_s))}", f"{memory_bytes}", f"{os.getpid()}"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers.documents.limits", *limits,
            *(part.replace("{image}", str(image)) for part in command),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True, cwd=ROOT, env=passed_on(FOUND_BY),
        )  # fmt: skip
        try:
            async with asyncio.timeout(timeout_s):
                text = await _printed(process, page=page, most=text_bytes)
                status = await process.wait()
        except TimeoutError:
            raise _failed(page, f"it took more than {timeout_s:g} s") from None
        finally:
            await asyncio.shield(end(process))  # and what it left running
    if status:
        raise _failed(page, f"it ended with {status}")
    return tidy(text.decode(errors="replace"))


async def _printed(process: asyncio.subprocess.Process, *, page: int, most: int) -> bytes:
    assert process.stdout is not None
    held = bytearray()
    while piece := await process.stdout.read(_CHUNK):
        held += piece
        if len(held) > most:
            raise _failed(page, f"it printed more than {most:,} bytes")
    return bytes(held)


def _failed(page: int, why: str) -> Refused:
    return Refused(
        "ocr_failed",
        f"Text recognition failed on page {page}: {why}.",
        "Try again, or run text recognition over the document and upload the result.",
    )
