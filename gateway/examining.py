"""What is looked at, outside of a transaction, before a request becomes a job: layers that it names."""

from uuid import UUID

from gateway import submission
from gateway.edge import Edge
from gateway.submission import Once
from services.accounts.service import Caller
from services.compression import examining as compression
from services.tuning import examining as tuning
from shared.contracts.jobs import JobRequest
from shared.db.session import Database
from shared.storage import Store


def concerns(request: JobRequest) -> bool:
    """Whether a request, or one of the jobs behind it, is worth a look."""
    return compression.concerns(request) or tuning.concerns(request)


def examine(request: JobRequest, *, database: Database, store: Store, tenant_id: UUID) -> None:
    """Look at models that a request is to work on. Call it with no transaction open.

    Raises:
        ModelyardError: as the kinds' own examinations.
    """
    compression.examine(request, database=database, store=store, tenant_id=tenant_id)
    tuning.examine(request, database=database, store=store, tenant_id=tenant_id)


async def look(edge: Edge, caller: Caller, request: JobRequest, *, once: Once) -> None:
    """Look at what a job is to work on, where that is worth it and the answer is not there already.

    Raises:
        ModelyardError: as `examine`.
    """
    if concerns(request):
        await edge.run(lambda: _look(edge, caller, request, once))


def _look(edge: Edge, caller: Caller, request: JobRequest, once: Once) -> None:
    with edge.database.transaction() as session:
        first = submission.is_first(session, caller, request, once=once)
    if first:
        examine(request, database=edge.database, store=edge.store, tenant_id=caller.tenant_id)
