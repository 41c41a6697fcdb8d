"""The courier's part of a chain: a job whose model has just been made is planned, or cancelled with the reason.

It may run twice, and does the same as once: what a run writes is one transaction, guarded by the job's state.
"""

from typing import Final

from services.compression import examining as compression
from services.jobs import late
from services.tuning import examining as tuning
from shared.errors import ModelyardError
from shared.telemetry import logger
from workers.tasks.control import Context
from workers.tasks.repository import Task

LOOKS: Final = (compression, tuning)  #: as the gateway takes before a submit; each passes over other kinds

log = logger(__name__)


def plan(context: Context, task: Task) -> None:
    """Plan a late job as a submit would have done, a look at its model's layers included.

    Raises:
        StoreUnavailable, DatabaseUnavailable: nothing was written; try again.
    """
    try:
        planned = _plan(context, task)
    except ModelyardError as error:
        if error.retryable:
            raise
        log.info("late.refused", extra={"job": task.job_id, "code": error.code})
        with context.database.transaction() as session:
            late.refuse(session, task.tenant_id, task.job_id, error)
    else:
        log.info("late.planned" if planned else "late.gone", extra={"job": task.job_id})


def _plan(context: Context, task: Task) -> bool:
    with context.database.transaction() as session:
        request = late.request_of(session, task.tenant_id, task.job_id)
    if request is None:
        return False
    for look in LOOKS:
        look.examine(request, database=context.database, store=context.store, tenant_id=task.tenant_id)
    with context.database.transaction() as session:
        return late.plan(session, task.tenant_id, task.job_id, request)
