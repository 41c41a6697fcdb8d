"""Which checkpoints of a run stay: the newest few, and the best. Nothing here commits."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from services.blobs import service as blobs
from services.catalog import service as catalog
from services.jobs.types import Claim
from services.tuning import finish_repository
from shared.db.models import Checkpoint


def retire(session: Session, claim: Claim, *, keep: int) -> None:
    """Forget checkpoints that are older than the newest `keep`, the best one apart; the caller holds the fence.

    Contents that nothing else names are swept up later. Versions that they answered as are deleted, unless in use.
    """
    rows = finish_repository.checkpoints(session, claim.job_id)
    gone = superseded(rows, keep=keep)
    if not gone:
        return
    finish_repository.drop(session, [row.id for row in gone])
    blobs.forget(session, claim.tenant_id, sorted({entry["sha256"] for row in gone for entry in row.manifest}))
    named = {row.model_id for row in rows if row not in gone}
    catalog.delete_unused(session, claim.tenant_id, sorted({row.model_id for row in gone if row.model_id} - named))


def superseded(rows: Sequence[Checkpoint], *, keep: int) -> list[Checkpoint]:
    """Those of a job's checkpoints, newest first, that nobody would go on from. A damaged one counts for nothing."""
    usable = [row for row in rows if not row.corrupt]
    if len(usable) <= keep:
        return []
    oldest = rows.index(usable[keep - 1])
    best = next((row for row in usable if row.best), None)
    return [row for row in rows[oldest + 1 :] if row is not best]
