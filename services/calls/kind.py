"""The `call` kind's row: chat, completions and embeddings that a gateway passed on. Nobody submits one."""

from typing import NoReturn
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from services.jobs.kinds import CALL, Kind
from shared.contracts.jobs import Pool
from shared.errors import InvalidField


class _Anything(BaseModel):
    """Whatever is given: it is refused for its kind, not for its fields."""

    model_config = ConfigDict(extra="allow")


def _refuse(session: Session, tenant_id: UUID, spec: _Anything) -> NoReturn:
    del session, tenant_id, spec
    message = "Calls are not submitted: send them to /v1/chat/completions, /v1/completions or /v1/embeddings."
    raise InvalidField(message, param="kind")


KIND = Kind(name=CALL, spec=_Anything, pool=lambda _spec: Pool.SERVE, prepare=_refuse, operation="")
