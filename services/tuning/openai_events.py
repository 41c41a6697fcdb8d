"""What happened in a tuning, in the words of OpenAI's events: the job's own events, its log, and its figures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy.orm import Session

from services.tuning import openai_jobs, openai_repository
from services.tuning.openai_repository import EVENT, LOG, METRIC, Happened, Mark
from shared.contracts.jobs import EventType
from shared.contracts.tuning_orders import (
    ACCURACY,
    GRAD_NORM,
    LEARNING_RATE,
    LOSS,
    MEMORY,
    MFU,
    TOKENS,
    TOKENS_S,
    VALIDATION_ACCURACY,
    VALIDATION_LOSS,
)
from shared.db.models import Job
from shared.errors import InvalidCursor

PREFIX: Final = "ftevent-"
Level = Literal["info", "warn", "error"]

_LETTERS: Final = {EVENT: "e", LOG: "l", METRIC: "m"}
_SOURCES: Final = {letter: source for source, letter in _LETTERS.items()}
_ID: Final = re.compile(rf"{PREFIX}([elm])([0-9]{{1,18}})")
_LEVELS: Final[Mapping[str, Level]] = {"warning": "warn", "error": "error"}
_SEVERE: Final[Mapping[EventType, Level]] = {EventType.RETRYING: "warn", EventType.FAILED: "error"}
_SAID: Final[Mapping[EventType, str]] = {
    EventType.STARTED: "Fine-tuning job started",
    EventType.RETRYING: "The attempt ended early; the job goes on from its last checkpoint",
    EventType.PAUSED: "Fine-tuning job paused",
    EventType.RESUMED: "Fine-tuning job resumed",
    EventType.CANCEL_REQUESTED: "Fine-tuning job is being cancelled",
    EventType.SUCCEEDED: "The job has successfully completed",
    EventType.FAILED: "The job failed",
    EventType.CANCELLED: "The job was cancelled",
    EventType.EXPIRED: "The job's deadline passed",
}
#: as OpenAI's figures are called
NAMES: Final = {
    LOSS: "train_loss",
    ACCURACY: "train_mean_token_accuracy",
    VALIDATION_LOSS: "valid_loss",
    VALIDATION_ACCURACY: "valid_mean_token_accuracy",
}
#: ours beside them
OWN: Final = (LEARNING_RATE, GRAD_NORM, TOKENS_S, TOKENS, MEMORY, MFU)


@dataclass(frozen=True)
class Event:
    """One event as it is shown."""

    id: str
    created_at: datetime
    level: Level
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


def page(session: Session, job: Job, *, limit: int, after: str | None = None) -> list[Event]:
    """Events of a tuning, newest first.

    Raises:
        InvalidCursor: `after` names none of its events.
    """
    start = None if after is None else _start(session, job, after)
    rows = openai_repository.happened(session, job.tenant_id, job.id, limit=limit, after=start)
    return [_event(job, row) for row in rows]


def figures(step: int, values: Mapping[str, float], *, whole: bool = False) -> dict[str, float]:
    """Figures of a step by OpenAI's names; `whole`: under those too that it has for all validation data."""
    told = {NAMES[key]: value for key, value in values.items() if key in NAMES}
    if whole:
        told |= {f"full_{name}": told[name] for name in ("valid_loss", "valid_mean_token_accuracy") if name in told}
    return {"step": step} | told


def _start(session: Session, job: Job, after: str) -> tuple[Mark, datetime]:
    match = _ID.fullmatch(after)
    if match is None:
        raise InvalidCursor(param="after")
    mark = Mark(_SOURCES[match[1]], int(match[2]))
    moment = openai_repository.moment(session, job.tenant_id, job.id, mark)
    if moment is None:
        raise InvalidCursor(param="after")
    return mark, moment


def _event(job: Job, row: Happened) -> Event:
    name = f"{PREFIX}{_LETTERS[row.mark.source]}{row.mark.number}"
    if row.mark.source == METRIC:
        message, data = _metrics(job, row)
        return Event(name, row.created_at, "info", message, "metrics", data)
    if row.mark.source == LOG:
        return Event(name, row.created_at, _LEVELS.get(row.level, "info"), row.told, "message", None)
    kind = EventType(row.told)
    level: Level = _SEVERE.get(kind, "info")
    return Event(name, row.created_at, level, _message(job, kind, row.data), "message", row.data or None)


def _message(job: Job, kind: EventType, data: Mapping[str, Any]) -> str:
    if kind is EventType.QUEUED:
        return f"Created fine-tuning job: {openai_jobs.public_id(job.id)}"
    if kind is EventType.CHECKPOINT:
        return f"Checkpoint created at step {data.get('step')}"
    if kind is EventType.FAILED and job.error:
        return f"{_SAID[kind]}: {job.error['title']}"
    return _SAID.get(kind, kind.value)


def _metrics(job: Job, row: Happened) -> tuple[str, dict[str, Any]]:
    data: dict[str, Any] = figures(row.mark.number, row.data)
    data |= {key: row.data[key] for key in OWN if key in row.data}
    total = f"/{job.progress_total}" if job.progress_total and job.progress_unit == "steps" else ""
    said = [
        f"{word}={data[name]:.4g}"
        for name, word in (("train_loss", "training loss"), ("valid_loss", "validation loss"))
        if name in data
    ]
    return f"Step {row.mark.number}{total}: {', '.join(said)}".removesuffix(": "), data
