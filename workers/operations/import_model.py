"""The `import_model` kind: files from a folder, a bucket, uploads or the Hub become a model version."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.imports.transfer import Meter, Stopped, Transfer
from shared.contracts.imports import ImportedModel, ImportSpec
from shared.contracts.jobs import JobError
from shared.errors import ModelyardError
from workers.runtime import scratch
from workers.runtime.host import Host
from workers.runtime.work import Finish, JobFailed, Work

RESULT: Final = "model.json"
AT_ONCE: Final = 2  # transfers of one worker: more would only share its disk and its network

_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="imports")


async def run(work: Work, host: Host) -> Finish:
    """Fetch, look through, store, register; `model.json` says what was made.

    Raises:
        JobFailed: the files cannot be registered, or cannot be had.
    """
    folder = host.folders.attempt(work.id, work.claim.attempt)
    stopped = threading.Event()
    try:
        imported = await _in_thread(work, host, stopped)
        return await _finish(work, host, imported)
    except ModelyardError as error:
        told = JobError(code=error.code, title=error.message, retryable=error.retryable)
        raise JobFailed(told, permanent=not error.retryable) from error
    finally:
        await scratch.discard(folder)


async def _in_thread(work: Work, host: Host, stopped: threading.Event) -> ImportedModel:
    """The transfer's result; when the work is halted, nothing of it runs any more once this has raised."""
    loop = asyncio.get_running_loop()
    folder = host.folders.attempt(work.id, work.claim.attempt)
    transfer = Transfer(
        ImportSpec.model_validate(work.claim.spec),
        database=host.transactions.database,
        store=host.store,
        settings=host.settings,
        tenant_id=work.claim.tenant_id,
        scratch=folder / "in",
    )

    def progress(done: int, total: int) -> None:
        loop.call_soon_threadsafe(work.progress, done, total, "bytes")

    def blocking() -> ImportedModel:
        scratch.claim(folder)
        (folder / "in").mkdir(mode=0o700, exist_ok=True)
        return transfer.run(Meter(progress, stopped))

    running = loop.run_in_executor(_threads, blocking)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stopped.set()
        running.cancel()
        with suppress(Stopped, ModelyardError, asyncio.CancelledError):
            await running
        raise


async def _finish(work: Work, host: Host, imported: ImportedModel) -> Finish:
    claim = work.claim
    blob = await host.insist(lambda: host.store.put_bytes(claim.tenant_id, imported.model_dump_json().encode()))
    new = NewArtifact(name=RESULT, media_type="application/json", blob=blob)

    def write(session: Session) -> None:
        artifacts.add(session, new, tenant_id=claim.tenant_id, job_id=claim.job_id, attempt=claim.attempt)

    return work.succeeded(write)
