"""Checkpoints of forge jobs: stored before they are committed, checked before they are used."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import orjson
from sqlalchemy.orm import Session

from services.jobs import lifecycle, repository
from services.jobs.types import Claim
from shared import failpoints
from shared.contracts.forge import Resume
from shared.db.models import Checkpoint
from shared.manifest import Manifest
from shared.storage import BlobCorrupt, BlobMissing
from shared.telemetry import logger
from workers.runtime.host import Host
from workers.runtime.work import Work

log = logger(__name__)


def fingerprint(claim: Claim) -> str:
    """What must be equal for a checkpoint to be of use: the kind and its whole spec."""
    return hashlib.sha256(orjson.dumps([claim.kind, claim.spec], option=orjson.OPT_SORT_KEYS)).hexdigest()


async def keep(work: Work, host: Host, folder: Path, *, step: int) -> None:
    """Store the files below `folder`, commit the checkpoint, delete the folder.

    Raises:
        Fenced: another attempt owns the job.
    """
    claim = work.claim

    def upload() -> Manifest:
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        manifest = Manifest.of_files(folder, files)
        for entry in manifest:
            host.store.put_file(claim.tenant_id, folder / entry.path)
        return manifest

    manifest = await host.insist(upload)
    failpoints.hit("ckpt.after_upload")

    def commit(session: Session, again: bool) -> None:  # noqa: FBT001 - the second argument of every insisted work
        if again and _committed(session, claim, step):
            return
        rows = manifest.as_json()
        lifecycle.checkpoint(session, claim, step=step, fingerprint=fingerprint(claim), manifest=rows)

    await host.transactions.insist(commit)
    failpoints.hit("ckpt.after_commit")
    await host.blocking(lambda: shutil.rmtree(folder))


def _committed(session: Session, claim: Claim, step: int) -> bool:
    rows = repository.checkpoints(session, claim.tenant_id, claim.job_id)
    return any((row.attempt, row.step) == (claim.attempt, step) for row in rows)


async def resume(work: Work, host: Host, inputs: Path) -> Resume | None:
    """The newest checkpoint whose files are what they were, fetched below `inputs`; None to start over.

    One that is damaged is marked, and the one before it is tried: a job never fails because of a checkpoint.
    """
    claim = work.claim
    if claim.checkpoint_id is None:
        return None
    for row in await host.transactions.insist(lambda session, _: _usable(session, claim)):
        folder = inputs / f"checkpoint-{row.step}"
        try:
            await host.insist(lambda row=row, folder=folder: _fetch(host, row, folder))  # type: ignore[misc]
        except (BlobCorrupt, BlobMissing, ValueError):
            log.warning("checkpoint is corrupt", extra={"job": str(claim.job_id), "step": row.step})
            await host.transactions.insist(
                lambda session, _, row=row: repository.mark_corrupt(session, claim.tenant_id, row.id)  # type: ignore[misc]
            )
            continue
        return Resume(step=row.step, folder=folder)
    return None


def _usable(session: Session, claim: Claim) -> Sequence[Checkpoint]:
    rows = repository.checkpoints(session, claim.tenant_id, claim.job_id)
    return [row for row in rows if not row.corrupt and row.fingerprint == fingerprint(claim)]


def _fetch(host: Host, row: Checkpoint, folder: Path) -> None:
    for entry in Manifest.of_json(row.manifest):
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        host.store.fetch(row.tenant_id, entry.blob, path)
