"""The folder of one attempt, from its first byte to its last."""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

from workers.runtime.processes import Identity, Note


def claim(folder: Path) -> None:
    """Make the folder of an attempt that runs in this process; a worker that starts sweeps those of the dead."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    here = Identity.of(os.getpid())
    Note(process=here, worker=here).write(folder)


async def discard(folder: Path) -> None:
    """Remove an attempt's folder with all that is in it, and its job's when no other attempt has one."""
    await asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(folder, ignore_errors=True))
    with suppress(OSError):
        folder.parent.rmdir()
