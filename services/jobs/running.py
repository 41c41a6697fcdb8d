"""What a running attempt tells of itself: figures of its steps, and that it goes on otherwise than it began.

Everything is written under the fence; nothing here commits.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from services.jobs import lease_repository as leases
from services.jobs import lifecycle
from services.jobs.types import Claim
from shared.contracts.jobs import EventType
from shared.db.models import Job


def keep_metrics(session: Session, claim: Claim, figures: Mapping[int, Mapping[str, float]], *, told: bool) -> None:
    """Keep figures of steps: a step's are written over, value by value. `told`: with an event of the newest.

    Raises:
        Fenced: another attempt owns the job.
    """
    with lifecycle.fenced(session, claim.job_id, claim.attempt):
        kept = leases.put_metrics(session, claim, figures)
        if told:
            newest = max(kept)
            _append(session, claim, EventType.METRICS, {"step": newest, "values": kept[newest]})


def adjust(session: Session, claim: Claim, *, reason: str, data: dict[str, Any]) -> None:
    """Tell that the run goes on otherwise than it began, and why.

    Raises:
        Fenced: another attempt owns the job.
    """
    with lifecycle.fenced(session, claim.job_id, claim.attempt):
        _append(session, claim, EventType.ADJUSTED, {"reason": reason, **data})
        lifecycle.add_logs(session, claim, [("warning", reason)])


def widen(session: Session, claim: Claim, *, devices: int) -> None:
    """Give every further attempt so many devices of the class.

    Raises:
        Fenced: another attempt owns the job.
    """
    with lifecycle.fenced(session, claim.job_id, claim.attempt):
        leases.widen(session, claim, devices=devices)


def _append(session: Session, claim: Claim, event: EventType, data: dict[str, Any]) -> None:
    job = session.get_one(Job, claim.job_id, populate_existing=True)
    lifecycle.append(session, job, event, data)
