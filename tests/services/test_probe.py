"""The probe kind: which pool, and what it is charged."""

import pytest
from sqlalchemy.orm import Session

from services.jobs import service
from shared.contracts.jobs import JobRequest
from shared.errors import ValidationFailed
from tests.services.jobs import build


class TestProbe:
    @pytest.mark.parametrize("pool", ["serve", "forge"])
    def test_runs_in_the_pool_that_it_names(self, session: Session, pool: str) -> None:
        request = JobRequest(kind="probe", spec={"steps": 4, "step_seconds": 0.5, "pool": pool}, gpu_class="cpu")
        job = service.submit(session, build.tenant(session), request).job
        assert (job.queue, job.planned_gpu_s) == (f"cpu.{pool}", 2.0)
        assert (job.progress_total, job.progress_unit) == (4, "steps")

    @pytest.mark.parametrize("field", ["steps", "step_seconds", "pool"])
    def test_a_wrong_field_is_named(self, session: Session, field: str) -> None:
        with pytest.raises(ValidationFailed) as refused:
            service.submit(session, build.tenant(session), JobRequest(kind="probe", spec={field: "x"}))
        assert refused.value.param == f"spec.{field}"
