"""Checkpoints of forge jobs: stored before they are committed, checked before they are used.

They are stored while the forge works on. Where the stores are away, it goes on all the same: of the checkpoints that
wait for their turn the newest stays, and the best.
"""

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from services.jobs import lifecycle, repository
from services.jobs.types import Claim, Saved
from shared import failpoints
from shared.contracts.forge import CHECKPOINT_FORMAT, Resume
from shared.db.models import Checkpoint
from shared.errors import Fenced
from shared.manifest import Manifest
from shared.storage import BlobCorrupt, BlobMissing
from shared.telemetry import logger
from workers.runtime import forge_files
from workers.runtime.forge_files import Tell
from workers.runtime.host import Host
from workers.runtime.work import Stop, Work

log = logger(__name__)

Note = Callable[[str, str], None]  #: (level, message) for the job's log
First = Callable[[], Awaitable[None]]  #: what has to be written before a checkpoint's row; raises Fenced
Register = Callable[[Session], UUID | None]  #: makes what was stored a version; its id


@dataclass(frozen=True)
class Written:
    """A checkpoint in a folder of the forge's."""

    folder: Path
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    best: bool = False


@dataclass(frozen=True)
class Policy:
    """What a kind does with the checkpoints of its jobs, beside keeping them."""

    stage: Callable[[Written, Tell], Register | None] | None = None
    #: what else is stored of one, and written with it; blocks, and tells how many bytes were moved
    retire: Callable[[Session, Claim], None] | None = None  #: lets go of older ones, once one is written
    stored: Callable[[Written], None] | None = None  #: takes from its folder what this host can use; blocks


def fingerprint(claim: Claim) -> str:
    """What must be equal for a checkpoint to be of use: the kind, its whole spec, and how checkpoints are written."""
    told = [claim.kind, claim.spec, CHECKPOINT_FORMAT]
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Keeper:
    """Stores the checkpoints of one forge, one at a time, and deletes their folders. Used on the runner's loop."""

    def __init__(self, work: Work, host: Host, policy: Policy, *, note: Note, first: First | None = None) -> None:
        self._work = work
        self._first = first
        self._host = host
        self._policy = policy
        self._note = note
        self._waiting: list[Written] = []
        self._storing: asyncio.Task[None] | None = None
        self._dropping: set[asyncio.Future[None]] = set()

    def add(self, written: Written) -> None:
        """Store a checkpoint when its turn comes, and none of those that it makes needless."""
        needless = [each for each in self._waiting if written.best or not each.best]
        self._waiting = [each for each in self._waiting if each not in needless] + [written]
        for each in needless:
            dropping = asyncio.ensure_future(self._host.blocking(lambda each=each: shutil.rmtree(each.folder)))  # type: ignore[misc]
            self._dropping.add(dropping)
            dropping.add_done_callback(self._dropping.discard)
        if self._storing is None or self._storing.done():
            self._storing = asyncio.get_running_loop().create_task(self._store())

    async def settled(self) -> None:
        """Return when everything that was given is stored, and its rows are written."""
        if self._storing is not None:
            await asyncio.wait([self._storing])

    async def close(self) -> None:
        """Store nothing more: nothing of it runs any more when this returns."""
        self._waiting.clear()
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.wait([self._storing])
        await asyncio.gather(*self._dropping, return_exceptions=True)

    async def _store(self) -> None:
        while self._waiting:
            written = self._waiting.pop(0)
            try:
                await self._keep(written)
            except Fenced:
                self._waiting.clear()
                self._work.halt(Stop.FENCED)
            except Exception as error:  # the run itself is well
                log.exception("checkpoint was not kept", extra={"job": str(self._work.id), "step": written.step})
                self._note("warning", f"the checkpoint of step {written.step} was not kept: {type(error).__name__}")

    async def _keep(self, written: Written) -> None:
        stored, register = await forge_files.carry(self._host, lambda tell: self._upload(written, tell))
        if self._first is not None:
            await self._first()
        failpoints.hit("ckpt.after_upload")
        await self._host.transactions.insist(
            lambda session, again: self._commit(session, written, stored, register, again=again)
        )
        failpoints.hit("ckpt.after_commit")
        await self._host.blocking(lambda: self._clear(written))

    def _upload(self, written: Written, tell: Tell) -> tuple[Manifest, Register | None]:
        files = [path for path in written.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        manifest = Manifest.of_files(written.folder, files)
        for entry in manifest:
            self._host.store.put_file(self._work.claim.tenant_id, written.folder / entry.path, tell=tell)
        return manifest, self._policy.stage(written, tell) if self._policy.stage else None

    def _commit(
        self, session: Session, written: Written, stored: Manifest, register: Register | None, *, again: bool
    ) -> None:
        claim, rows = self._work.claim, stored.as_json()
        if again and _committed(session, claim, step=written.step, manifest=rows):
            return
        saved = Saved(
            step=written.step,
            fingerprint=fingerprint(claim),
            manifest=rows,
            metrics=written.metrics,
            best=written.best,
            model_id=register(session) if register else None,
        )
        lifecycle.checkpoint(session, claim, saved)
        if self._policy.retire is not None:
            self._policy.retire(session, claim)

    def _clear(self, written: Written) -> None:
        if self._policy.stored is not None:
            self._policy.stored(written)
        shutil.rmtree(written.folder)


async def resume(work: Work, host: Host, inputs: Path) -> Resume | None:
    """The newest checkpoint whose files are what they were, fetched below `inputs`; None to start over.

    One that is damaged is marked, and the one before it is tried: a job never fails because of a checkpoint.
    """
    claim = work.claim
    for row in await host.transactions.insist(lambda session, _: _usable(session, claim)):
        folder = inputs / f"checkpoint-{row.step}"
        try:
            await forge_files.carry(host, lambda tell, row=row, folder=folder: _fetch(host, row, folder, tell))  # type: ignore[misc]
        except (BlobCorrupt, BlobMissing, ValueError):
            log.warning("checkpoint is corrupt", extra={"job": str(claim.job_id), "step": row.step})
            await host.transactions.insist(lambda session, _, row=row: _mark(session, claim, row))  # type: ignore[misc]
            await host.blocking(lambda folder=folder: shutil.rmtree(folder, ignore_errors=True))  # type: ignore[misc]
            continue
        return Resume(step=row.step, folder=folder)
    return None


def _committed(session: Session, claim: Claim, *, step: int, manifest: list[dict[str, Any]]) -> bool:
    rows = repository.checkpoints(session, claim.tenant_id, claim.job_id)
    return any((row.attempt, row.step, row.manifest) == (claim.attempt, step, manifest) for row in rows)


def _usable(session: Session, claim: Claim) -> Sequence[Checkpoint]:
    rows = repository.checkpoints(session, claim.tenant_id, claim.job_id)
    return [row for row in rows if not row.corrupt and row.fingerprint == fingerprint(claim)]


def _fetch(host: Host, row: Checkpoint, folder: Path, tell: Tell) -> None:
    forge_files.fetch_folder(host.store, row.tenant_id, Manifest.of_json(row.manifest), folder, tell=tell)


def _mark(session: Session, claim: Claim, row: Checkpoint) -> None:
    repository.mark_corrupt(session, claim.tenant_id, row.id)
    told = f"the checkpoint of step {row.step} is damaged: the one before it counts"
    lifecycle.add_logs(session, claim, [("warning", told)])
