"""What is made ready before anybody asks: an engine for a model that is about to be, adapters beside their bases.

A worker has the adapters that `wanted` names loaded in its engines: it looks when a version comes or goes
(`NOTIFY adapters`, payload: the base's digest), when an engine becomes ready, and every few seconds. Nothing here
commits.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.inference.models import facts
from services.jobs.plan import choose
from services.placement import repository
from services.placement.service import FRESH_S, TOLD_S
from services.placement.types import Demand, Wanted, Wish
from services.workers.service import LIVE_S
from shared.contracts.jobs import Pool
from shared.contracts.serving import Mode
from shared.errors import Unplaceable
from shared.queues import AUTO


def foresee(session: Session, *, tenant_id: UUID, model_id: UUID, mode: Mode = Mode.GENERATE) -> bool:
    """Have an engine of a model (of an adapter: of its base) started, where a call of it would be placed.

    It takes devices that are free, or whose engines idle; where there are none, nothing happens.

    Returns:
        Whether one was asked for: False where an engine serves the model already, or no class can.

    Raises:
        UnknownModel: the tenant has no such model.
    """
    model = catalog.by_id(session, tenant_id, model_id)
    known = facts(model, catalog.base_of(session, model))
    try:
        plan = choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=known.needs(0))
    except Unplaceable:
        return False
    demand = Demand(tenant_id, model_id, mode, plan.queue, plan.devices, ahead=True)
    return repository.foresee(session, demand, digest=known.digest, live_s=LIVE_S, fresh_s=FRESH_S, told_s=TOLD_S)


def wanted(session: Session, loaded: Mapping[str, Collection[str]], *, limit: int) -> dict[str, Wanted]:
    """What engines should hold, by the base's digest, for each base of `loaded`.

    Of living versions with that base, of whatever tenant, these are wished for: the newest of each name, and those
    that a checkpoint or an alias names; not those whose source says `"serve": false`.

    Args:
        session: of one transaction.
        loaded: base's digest → digests of the adapters that its engines have.
        limit: how many an engine holds; the newest count.
    """
    wishes = defaultdict[str, list[Wish]](list)
    for row in repository.wishes(session, loaded, limit=limit):
        wishes[row.base].append(Wish(row.tenant_id, row.id, row.digest, row.rank))
    asked = {digest for digests in loaded.values() for digest in digests}
    living = repository.living(session, loaded, asked) if asked else set()
    return {
        base: Wanted(tuple(wishes[base]), frozenset(digest for digest in digests if (base, digest) not in living))
        for base, digests in loaded.items()
    }


def largest_rank(session: Session, base: str) -> int:
    """The largest rank of the adapters that there are for the base of this digest; 0 where there is none."""
    return repository.largest_rank(session, base) or 0
