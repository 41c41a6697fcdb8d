"""The life of a job: the table of moves, and the only functions that make them.

| move | who | guard |
|---|---|---|
| insert queued | gateway | the idempotency key, in the same transaction |
| insert running | gateway | a call that an engine has taken: attempt 1, with a lease |
| queued → running | runner | due, not held, not blocked, not cancelled; `attempt + 1` |
| running → succeeded, failed, queued, cancelled, expired | the attempt's owner | running, and this attempt |
| running → queued, failed, cancelled | reaper | lease over by the database's clock; a call is never queued |
| queued → cancelled, expired | caller, reaper | queued |

Triggers in PostgreSQL hold the same table. `attempt` is the fencing token. Nothing here commits.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.orm import Session

from services.blobs import service as blobs
from services.jobs import control_repository as control
from services.jobs import lease_repository as leases
from services.jobs import place_repository as placing
from services.jobs import queue_repository as queue_sql
from services.jobs import repository
from services.jobs.lease_repository import fenced
from services.jobs.types import Beat, Claim, Ended, Ending, LineRecord, Lost, Orders, Outcome, Placed, Saved
from services.webhooks import service as webhooks
from shared.contracts.jobs import Driver, EventType, JobError, State
from shared.db.models import Checkpoint, Job
from shared.ids import new_id
from shared.settings import settings

MOVES = frozenset(
    {
        (State.QUEUED, State.RUNNING),
        (State.QUEUED, State.CANCELLED),
        (State.QUEUED, State.EXPIRED),
        (State.RUNNING, State.QUEUED),
        (State.RUNNING, State.SUCCEEDED),
        (State.RUNNING, State.FAILED),
        (State.RUNNING, State.CANCELLED),
        (State.RUNNING, State.EXPIRED),
    }
)

WORKER_LOST = JobError(
    code="worker_lost",
    title="The worker was lost",
    detail="its lease ran out or its process died",
    retryable=True,
)
CLIENT_GONE = JobError(
    code="client_gone",
    title="The gateway was lost",
    detail="the process that passed the answer on has died, and its client's connection with it",
)
DEADLINE = JobError(code="deadline_exceeded", title="The deadline passed", detail="partial output is kept")

__all__ = [
    "MOVES", "add_logs", "beat", "cancel", "checkpoint", "claim", "end", "expire_overdue", "fenced", "hold",
    "place", "progress", "reap", "record_lines", "refuse", "release_owned", "release_strays", "renew", "resume",
    "start_parent", "tell",
]  # fmt: skip


def claim(session: Session, queue: str, *, worker_id: UUID, limit: int, devices: int = 1) -> list[Claim]:
    """queued → running for up to `limit` due jobs, in the queue's order. The leases last `settings.lease_ttl_s`."""
    claims, watched = queue_sql.claim(
        session, queue, worker_id=worker_id, limit=limit, ttl_s=settings().lease_ttl_s, devices=devices
    )
    for job_id in watched:
        job = session.get_one(Job, job_id, populate_existing=True)
        tell(session, job, EventType.STARTED, job.event_seq)
    if claims:
        control.notify_changed(session, [c.job_id for c in claims])
    return claims


def place(session: Session, calls: Sequence[Placed], *, owner: UUID) -> None:
    """Write calls that engines have taken, already running; their gateway `owner` holds the leases."""
    placing.insert(session, calls, owner=owner, ttl_s=settings().lease_ttl_s)


def renew(session: Session, owner: UUID, calls: Sequence[UUID]) -> list[UUID]:
    """Renew the leases of a gateway's calls; those that somebody asked to cancel."""
    return placing.renew(session, owner, calls, ttl_s=settings().lease_ttl_s)


def beat(session: Session, beats: Sequence[Beat]) -> dict[UUID, Orders]:
    """Renew leases. A job missing from the answer is fenced: its owner stops at once and writes nothing more."""
    return leases.beat(session, beats, ttl_s=settings().lease_ttl_s)


def progress(session: Session, beats: Sequence[Beat]) -> None:
    """Tell how far these attempts are: a numbered event each. Their owner sends at most one a second."""
    _announce(session, leases.progress(session, beats))


def record_lines(session: Session, lines: Sequence[LineRecord]) -> set[UUID]:
    """Record results of lines once. Jobs missing from the answer are fenced."""
    return leases.record_lines(session, lines)


def end(session: Session, endings: Sequence[Ending]) -> list[Ended]:
    """End attempts, in one group. Jobs missing from the answer are fenced: nothing of theirs was written."""
    now = settings()
    moved = leases.end(session, endings, retry_base_s=now.retry_base_s, retry_max_s=now.retry_max_s)
    _settle(session, moved)
    return [Ended(row.id, State(row.state)) for row in moved]


def reap(session: Session, *, limit: int = 100) -> int:
    """Take back attempts whose lease ran out. The caller makes sure that the database was up for a whole lease."""
    found = leases.lost(session, grace_s=settings().lease_ttl_s / 4, limit=limit)
    return _lose(session, found)


def release_owned(session: Session, owners: Sequence[UUID]) -> int:
    """Take back what these dead workers held; the caller holds their slot locks, so they are dead indeed."""
    return _lose(session, leases.owned_by(session, owners))


def release_strays(session: Session, owner: UUID, *, known: Iterable[UUID]) -> int:
    """Give back what `owner` claimed without hearing of it: the answer to a claim's commit was lost."""
    strays = [found for found in leases.owned_by(session, [owner]) if found.job_id not in frozenset(known)]
    endings = [Ending(each.job_id, each.attempt, Outcome.RELEASED) for each in strays]
    return len(end(session, endings)) if endings else 0


def _lose(session: Session, attempts: Iterable[Lost]) -> int:
    errors = {Driver.WORKER: WORKER_LOST, Driver.GATEWAY: CLIENT_GONE}
    endings = [Ending(each.job_id, each.attempt, Outcome.LOST, error=errors[each.driver]) for each in attempts]
    return len(end(session, endings)) if endings else 0


def expire_overdue(session: Session, *, limit: int = 100) -> int:
    """Expire what is past its deadline; a running job's own runner has `heartbeat × 3` to do it first."""
    found = leases.overdue(session, grace_s=settings().heartbeat_s * 3, limit=limit)
    waiting = [job for job, _, state in found if state == State.QUEUED]
    running = [(job, attempt) for job, attempt, state in found if state == State.RUNNING]
    _settle(session, control.expire_queued(session, waiting, error=DEADLINE) if waiting else ())
    if running:
        end(session, [Ending(job, attempt, Outcome.EXPIRED, error=DEADLINE) for job, attempt in running])
    return len(found)


def cancel(session: Session, tenant_id: UUID, job_id: UUID, *, reason: str) -> None:
    """Ask a job and its children to stop. A finished job stays as it is."""
    _settle(session, control.cancel(session, control.family(session, tenant_id, job_id), reason=reason))


def refuse(session: Session, job_id: UUID, *, error: JobError) -> None:
    """Cancel a queued job that can never be run, and those that wait for it."""
    _settle(session, control.cancel(session, [job_id], reason=error.code, error=error))


def hold(session: Session, tenant_id: UUID, job_id: UUID) -> None:
    """Pause a job and its children: what waits is not claimed, what runs is released at its next step."""
    moved = control.hold(session, control.family(session, tenant_id, job_id))
    _announce(session, [row for row in moved if row.told])


def resume(session: Session, tenant_id: UUID, job_id: UUID) -> None:
    """Let a paused job and its children go on."""
    _announce(session, control.resume(session, control.family(session, tenant_id, job_id)))


def start_parent(session: Session, job_id: UUID, *, owner: UUID) -> bool:
    """queued → running for a parent; False when it was cancelled, paused or started before."""
    moved = control.start_parent(session, job_id, owner=owner)
    _announce(session, moved)
    return bool(moved)


def checkpoint(session: Session, claim_: Claim, saved: Saved) -> UUID:
    """Record a checkpoint whose blobs are stored, and make it the one to resume from.

    One of the same step that this attempt has kept before gives way to it.

    Raises:
        Fenced: another attempt owns the job.
    """
    with fenced(session, claim_.job_id, claim_.attempt):
        job = session.get_one(Job, claim_.job_id, populate_existing=True)
        replaced = repository.drop_checkpoint(session, job.id, attempt=claim_.attempt, step=saved.step)
        blobs.forget(session, job.tenant_id, replaced)
        row = Checkpoint(id=new_id(), job_id=job.id, tenant_id=job.tenant_id, attempt=claim_.attempt, **vars(saved))
        session.add(row)
        session.flush()
        job.checkpoint_id = row.id
        append(session, job, EventType.CHECKPOINT, {"step": saved.step, "checkpoint_id": str(row.id)})
        return row.id


def append(session: Session, job: Job, event: EventType, data: dict[str, Any]) -> None:
    """Append a numbered event to a job whose row is locked, tell its webhook, wake its watchers."""
    seq = repository.add_event(session, job, event, data)
    tell(session, job, event, seq)
    control.notify_changed(session, [job.id])


def add_logs(session: Session, claim_: Claim, lines: Sequence[tuple[str, str]]) -> None:
    """Append (level, message) lines to the job's log."""
    control.add_logs(session, claim_, lines)


def tell(session: Session, job: "Job | Row[Any]", event: EventType, seq: int) -> None:
    """Enqueue the event for the job's webhook, if it asked for that type."""
    target = job.webhook
    if not target or job.webhook_secret is None or event not in (target.get("events") or webhooks.DEFAULT_EVENTS):
        return
    webhooks.enqueue(
        session,
        tenant_id=job.tenant_id,
        job_id=job.id,
        seq=seq,
        type_=event,
        url=target["url"],
        secret=job.webhook_secret,
        data={
            "id": str(job.id),
            "kind": job.kind,
            "state": job.state,
            "attempt": job.attempt,
            "error": job.error,
        },
    )


def _announce(session: Session, moved: Sequence[Row[Any]]) -> None:
    for row in moved:
        tell(session, row, EventType(row.event), row.event_seq)
    if moved:
        control.notify_changed(session, [row.id for row in moved])


def _settle(session: Session, moved: Sequence[Row[Any]]) -> None:
    """What follows from moves: webhooks, watchers, later jobs of a chain, and the parent of a last child."""
    _announce(session, moved)
    done = [row for row in moved if row.finished_at is not None]
    if not done:
        return
    for row in control.unblock_after(session, [row.id for row in done if row.state == State.SUCCEEDED]):
        if row.late:
            control.add_task(session, row.tenant_id, row.id, "plan")
        elif row.driver == Driver.CHILDREN:
            control.add_task(session, row.tenant_id, row.id, "expand")
    _cancel_followers(session, [row.id for row in done if row.state != State.SUCCEEDED])
    parents = {row.parent_id: row.tenant_id for row in done if row.parent_id}
    for parent_id in control.lock_parents(session, list(parents)) if parents else ():
        control.add_task(session, parents[parent_id], parent_id, "merge")


def _cancel_followers(session: Session, ids: Sequence[UUID]) -> None:
    """A job that did not succeed cancels those that wait for it, and so on down the chain."""
    for follower, cause in control.waiting_for(session, ids) if ids else ():
        error = JobError(code="upstream_failed", title="An earlier job did not succeed", cause=cause)
        _settle(session, control.cancel(session, [follower], reason="upstream_failed", error=error))
