"""The `probe` kind's row: runs on any class, in the pool that its spec names."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs.kinds import Kind, Prepared
from services.jobs.plan import Needs
from shared.contracts.jobs import Pool
from shared.contracts.probe import ProbeSpec

NO_OP_S = 0.001  #: what a probe without steps is charged for


def _pool(spec: ProbeSpec) -> Pool:
    return Pool(spec.pool)


def _prepare(session: Session, tenant_id: UUID, spec: ProbeSpec) -> Prepared:
    del session, tenant_id  # a probe uses nothing of its tenant's
    stored: dict[str, Any] = spec.model_dump(mode="json")
    return Prepared(
        spec=stored,
        needs=Needs(),
        planned_gpu_s=max(NO_OP_S, spec.steps * spec.step_seconds),
        total=spec.steps,
        unit="steps",
    )


KIND = Kind(name="probe", spec=ProbeSpec, pool=_pool, prepare=_prepare, operation="workers.operations.probe")
