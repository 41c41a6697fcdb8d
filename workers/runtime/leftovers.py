"""What a killed worker may have left: forges of its jobs. Its engines are looked at by `Engines.adopt`."""

import shutil

from shared.telemetry import logger
from workers.runtime.folders import Folders
from workers.runtime.processes import Note

log = logger(__name__)


def sweep(folders: Folders) -> None:
    """Kill the process groups of attempts whose worker is dead, and delete their folders.

    They end by themselves (PR_SET_PDEATHSIG and the broken pipe); this makes it certain.
    """
    for attempt in list(folders.jobs.glob("*/*")):
        note = Note.read(attempt)
        if note is not None and note.worker.alive():
            continue  # of another worker on this host, or our own
        if note is not None:
            if note.process.alive():
                log.warning("killing a leftover", extra={"pid": note.process.pid, "folder": attempt.name})
            note.process.kill_group()
        shutil.rmtree(attempt, ignore_errors=True)
    for job in list(folders.jobs.iterdir()):
        if not any(job.iterdir()):
            job.rmdir()
