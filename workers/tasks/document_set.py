"""The courier's part of document sets: what the children recorded becomes tables and reports.

Both may run twice, and do the same as once: everything that a run writes is one transaction, guarded by the
parent's state.
"""

import tempfile
from pathlib import Path

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.documents import outputs
from workers.tasks import families
from workers.tasks.control import Context
from workers.tasks.repository import Task


def expand(context: Context, task: Task) -> None:
    """Start a set that waited for an earlier job; its documents came with the request."""
    families.start(context, task)


def merge(context: Context, task: Task) -> None:
    """End a set whose children have all ended, with a record, a row and a report of every document.

    A set that was cancelled, came too late or lost a child has them too: documents that nobody read say why.

    Raises:
        StoreUnavailable, DatabaseUnavailable: the set is as it was; try again.
    """
    parent = families.merging(context, task)
    if parent is None:
        return
    with tempfile.TemporaryDirectory(prefix="merge-") as folder:
        made = [
            NewArtifact(output.name, output.media_type, context.store.put_file(task.tenant_id, output.path), position)
            for position, output in enumerate(outputs.make(context.database, parent, Path(folder)))
        ]

    def write(session: Session) -> None:
        for artifact in made:
            artifacts.add(session, artifact, tenant_id=parent.tenant_id, job_id=parent.id, attempt=parent.attempt)

    families.finish(context, parent, write=write)
