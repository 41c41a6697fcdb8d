"""A kind of job whose rows cannot be written any more when it ends: somebody has taken its name."""

from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Session

from services.catalog.rules import NameTaken
from services.jobs.kinds import Kind, Prepared
from shared.contracts.jobs import Pool
from workers.runtime.host import Host
from workers.runtime.work import Finish, Work


class Spec(BaseModel):
    """Nothing is asked."""


def prepare(session: Session, tenant_id: UUID, spec: Spec) -> Prepared:
    """Nothing is needed."""
    del session, tenant_id, spec
    return Prepared(spec={}, needs=None, planned_gpu_s=0.0)


async def run(work: Work, host: Host) -> Finish:
    """Be done at once; the end says otherwise."""
    del host

    def write(session: Session) -> None:
        del session
        raise NameTaken

    return work.succeeded(write)


KIND = Kind(name="failing_end", spec=Spec, pool=lambda _spec: Pool.FORGE, prepare=prepare, operation=__name__)
