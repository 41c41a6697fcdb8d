"""Why a job is where it is: its place in the claim's own order, what it waits for, and where it will run."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import explain_repository, late, queue_repository
from services.workers import service as workers
from services.workers.types import Capacity
from shared.contracts.jobs import Driver, State, Tier
from shared.db.models import Job


class Cause(StrEnum):
    """What a job waits for, or why it does not wait."""

    FINISHED = "finished"  #: it has ended
    RUNNING = "running"  #: a worker has it
    PARENT_RUNNING = "parent_running"  #: its child jobs do the work
    EXPANDING = "expanding"  #: the courier has yet to make its child jobs
    HELD = "held"  #: paused; `resume` lets it go on
    BLOCKED = "blocked"  #: an earlier job has to succeed first
    PLANNING = "planning"  #: the earlier job has made the model that it names; the courier has yet to plan it
    NOT_YET = "not_yet"  #: its `run_after` lies in the future
    RETRY_BACKOFF = "retry_backoff"  #: an attempt failed; the next one is due later
    OVERDUE = "overdue"  #: its deadline has passed; it expires within seconds
    NO_WORKER = "no_worker"  #: no live worker serves its queue
    WORKER_DRAINING = "worker_draining"  #: every live worker of its queue is shutting down
    AHEAD = "ahead"  #: other jobs of the queue go first
    NEXT = "next"  #: it goes first as soon as a worker has a free slot


@dataclass(frozen=True)
class Share:
    """The tenant's standing in (queue, tier): the least virtual time goes first.

    Times are planned GPU-seconds divided by weight. Whoever lags behind `queue_virtual_time` starts there.
    """

    weight: float
    virtual_time: float
    queue_virtual_time: float


@dataclass(frozen=True)
class Explanation:
    """The answer of `GET /v1/jobs/{id}/explain`; counts are exact at the moment of asking."""

    job_id: UUID
    state: State
    cause: Cause
    sentence: str
    queue: str
    position: int | None  #: 1 is claimed next; None: not waiting for its turn
    ahead: Mapping[Tier, int]  #: jobs that are claimed earlier, by tier
    depth: int  #: jobs of the queue that could be claimed now
    live_workers: int
    free_slots: int  #: of live workers that accept work, by their last heartbeat
    plan: Mapping[str, Any]
    share: Share
    waits_for: UUID | None = None  #: the earlier job of a chain
    starts_in_s: float | None = None  #: until `run_after`, when that lies ahead
    children: int = 0
    children_ended: int = 0


def explain(session: Session, job: Job) -> Explanation:
    """Explain a job of the caller's, as `services.jobs.service.get` returned it."""
    facts = explain_repository.facts(session, job.id)
    capacity = workers.capacity(session, [job.queue])[job.queue]
    due = explain_repository.due_by_tier(session, job.queue)
    place = queue_repository.position(session, job.id, queue=job.queue) if job.state == State.QUEUED else None
    cause = _cause(job, facts, place, capacity)
    return Explanation(
        job_id=job.id,
        state=State(job.state),
        cause=cause,
        sentence=_sentence(cause, job, facts=facts, place=place),
        queue=job.queue,
        position=place,
        ahead=_ahead(place, job.tier, due) if place else {},
        depth=sum(due.values()),
        live_workers=capacity.workers,
        free_slots=capacity.free,
        plan=job.plan,
        share=Share(facts.weight, facts.virtual_time, facts.queue_virtual_time),
        waits_for=job.after_job_id if cause in (Cause.BLOCKED, Cause.PLANNING) else None,
        starts_in_s=facts.starts_in_s if cause in (Cause.NOT_YET, Cause.RETRY_BACKOFF) else None,
        children=facts.children,
        children_ended=facts.children_ended,
    )


def _ahead(place: int, tier: int, due: Mapping[int, int]) -> dict[Tier, int]:
    """Tiers are strict: all of a better tier goes first, and the rest of those ahead are of the job's own."""
    better = {Tier.of_rank(rank): due.get(rank, 0) for rank in range(tier)}
    return better | {Tier.of_rank(tier): max(0, place - 1 - sum(better.values()))}


def _cause(job: Job, facts: Any, place: int | None, capacity: Capacity) -> Cause:
    if State(job.state).terminal:
        return Cause.FINISHED
    if job.state == State.RUNNING:
        return Cause.PARENT_RUNNING if job.driver == Driver.CHILDREN else Cause.RUNNING
    return _own_cause(job, facts) or _queue_cause(place, capacity)


def _own_cause(job: Job, facts: Any) -> Cause | None:
    """What keeps a queued job back by itself, whatever the queue looks like."""
    causes = {
        Cause.HELD: job.held_at is not None,
        Cause.PLANNING: job.blocked and facts.earlier == State.SUCCEEDED,
        Cause.BLOCKED: job.blocked,
        Cause.OVERDUE: facts.overdue,
        Cause.EXPANDING: job.driver == Driver.CHILDREN,
        Cause.RETRY_BACKOFF: facts.starts_in_s > 0 and job.attempt > 0,
        Cause.NOT_YET: facts.starts_in_s > 0,
    }
    return next((cause for cause, holds in causes.items() if holds), None)


def _queue_cause(place: int | None, capacity: Capacity) -> Cause:
    if capacity.workers == 0:
        return Cause.NO_WORKER
    if capacity.accepting == 0:
        return Cause.WORKER_DRAINING
    return Cause.AHEAD if place is not None and place > 1 else Cause.NEXT


def _sentence(cause: Cause, job: Job, *, facts: Any, place: int | None) -> str:
    ahead = (place or 1) - 1
    later = " Then it is planned, with the model that was made." if late.unplanned(job) else ""
    sentences = {
        Cause.FINISHED: f"The job has ended: {job.state}.",
        Cause.RUNNING: f"Attempt {job.attempt} is running.",
        Cause.PARENT_RUNNING: f"{facts.children_ended} of its {facts.children} child jobs have ended.",
        Cause.EXPANDING: "Its input file is about to be split into child jobs.",
        Cause.HELD: "The job is paused: resume it to let it go on.",
        Cause.BLOCKED: f"Job {job.after_job_id} has to succeed first.{later}",
        Cause.PLANNING: f"Job {job.after_job_id} has succeeded: this one is about to be planned with its model.",
        Cause.OVERDUE: "Its deadline has passed: it expires within seconds.",
        Cause.RETRY_BACKOFF: f"Attempt {job.attempt} failed; the next one is due in {facts.starts_in_s:.0f} s.",
        Cause.NOT_YET: f"It is not due yet: its run_after is {facts.starts_in_s:.0f} s away.",
        Cause.NO_WORKER: f"No live worker serves {job.queue}: start one, or submit with another gpu_class.",
        Cause.WORKER_DRAINING: f"Every live worker of {job.queue} is shutting down; the next one takes the job.",
        Cause.AHEAD: f"{ahead} {'job goes' if ahead == 1 else 'jobs go'} first in {job.queue}.",
        Cause.NEXT: f"It goes next in {job.queue}, as soon as a worker has a free slot.",
    }
    return sentences[cause]
