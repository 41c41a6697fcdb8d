"""The life of content in the object store: kept while anything names it, removed a while after nothing does.

Whoever takes a name away says so (`forget`); whoever stores content says so first (`keeper`). Both write a row of
`garbage` with the present time; the courier looks at rows that are older than the grace (`sweep`). So content of a
process that died before it could name it is found too, and content that is on its way to a name is not.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from services.blobs import repository
from services.blobs.repository import Candidate
from shared import failpoints
from shared.db.session import Database
from shared.storage import Keep, Store


def forget(session: Session, tenant_id: UUID, digests: Sequence[str]) -> None:
    """Note that contents (sha256 in hex) have lost a name. Call it in the transaction that takes the name away."""
    if digests:
        repository.forget(session, tenant_id, digests)


def forget_all(session: Session, lost: Iterable[tuple[UUID, str]]) -> None:
    """As `forget`, for pairs of a tenant and a digest."""
    digests = defaultdict(set)
    for tenant_id, sha256 in lost:
        digests[tenant_id].add(sha256)
    for tenant_id in sorted(digests):
        forget(session, tenant_id, sorted(digests[tenant_id]))


def keeper(database: Database, *, grace_s: float) -> Keep:
    """What a store calls before every put, in a transaction of its own that waits for a removal in progress.

    It says True when a removal was due: one that was cut short may yet reach the store, and an earlier copy must not
    be relied on.

    Raises:
        DatabaseUnavailable: nothing is known; the content must not be stored now.
    """

    def keep(tenant_id: UUID, sha256: str) -> bool:
        with database.transaction() as session:
            return repository.keep(session, Candidate(tenant_id, sha256), grace_s=grace_s)

    return keep


def sweep(database: Database, store: Store, *, grace_s: float, limit: int) -> int:
    """Remove contents that nothing has named for `grace_s`; how many. Looks at `limit` at most.

    Raises:
        StoreUnavailable, DatabaseUnavailable: the rest is for the next time.
    """
    with database.transaction() as session:
        due = repository.due(session, grace_s=grace_s, limit=limit)
    return sum(_remove(database, store, candidate, grace_s=grace_s) for candidate in due)


def _remove(database: Database, store: Store, candidate: Candidate, *, grace_s: float) -> bool:
    """Remove one, under its row's lock: who wants to store the same content waits, then finds that it is gone.

    The one place where a transaction is open while the store is asked. `Store.delete` takes 5 s at most, and an idle
    transaction is ended after 10.
    """
    with database.transaction() as session:
        if not repository.lock(session, candidate, grace_s=grace_s):
            return False
        use = repository.use(session, candidate)
        if use.awaited and not use.named:
            repository.postpone(session, candidate)
            return False
        if not use.named:
            failpoints.hit("gc.before_delete")
            store.delete(candidate.tenant_id, candidate.sha256)
        repository.drop(session, candidate)
        return not use.named
