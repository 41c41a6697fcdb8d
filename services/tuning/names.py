"""What results are called where nobody says: `ft:{base}:{tenant}:{suffix}:{id}`, as OpenAI spells it."""

import re
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog.rules import check_name
from services.tuning import repository
from shared.db.models import Model
from shared.errors import InvalidField

TUNED: Final = "ft:"
MERGED: Final = "-merged"
CHECKPOINT: Final = ":ckpt-step-"  #: between a name and the step of its checkpoint
BASE_CHARACTERS: Final = 100  #: of the base's name in the result's: what is made of that has room for its own ending
TENANT_CHARACTERS: Final = 32
MOST_STEPS: Final = 10_000_000  #: of a run

_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")


def made_up(session: Session, tenant_id: UUID, base: Model, *, suffix: str | None, id: UUID) -> str:
    """The name of what a base is tuned to. A base that was tuned itself is called as the one that it began with."""
    known = base.name.removeprefix(TUNED).partition(":")[0] if base.name.startswith(TUNED) else base.name
    stem = known[:BASE_CHARACTERS].rstrip("/")
    tenant = _ODD.sub("-", repository.tenant_name(session, tenant_id))[:TENANT_CHARACTERS]
    return f"{TUNED}{stem}:{tenant}:{suffix or ''}:{id.hex[-8:]}"


def checkpoint_name(name: str, step: int) -> str:
    """What a checkpoint answers as."""
    return f"{name}{CHECKPOINT}{step}"


def check_room(name: str) -> None:
    """See that checkpoints can be called after a model.

    Raises:
        InvalidField: the name is too long for that.
    """
    try:
        check_name(checkpoint_name(name, MOST_STEPS))
    except InvalidField as error:
        message = f"Checkpoints that answer need a shorter name: {CHECKPOINT}{MOST_STEPS} has to fit behind it."
        raise InvalidField(message, param="name") from error
