"""Jobs that name `$result`: what cannot be planned, what runs again, and what the database refuses."""

from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from services.jobs import late, lifecycle, service
from services.jobs.late import NoModelMade
from services.jobs.types import Outcome
from shared.contracts.jobs import State
from shared.db.models import JobItem
from shared.errors import ModelyardError, NotFinished, UnknownModel
from tests.services.compression.build import LLAMA_8B, model
from tests.services.jobs import build
from tests.services.jobs.late.chains import FORGE, PROBE, asked, end, fresh, plan, quantize, submit, succeed


class TestRefusal:
    def test_a_job_that_has_made_no_model(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation")))
        end(session, first, None)
        with pytest.raises(NoModelMade) as error:
            late.request_of(session, tenant, later.id)
        assert error.value.param == "spec.model"

    def test_a_model_that_is_deleted(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation")))
        made = succeed(session, tenant, first)
        made.deleted_at = made.created_at
        session.flush()
        with pytest.raises(NoModelMade, match="deleted"):
            late.request_of(session, tenant, later.id)

    def test_what_fits_nowhere_is_found_when_the_model_is_there(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation")))
        end(session, first, model(session, tenant, name="huge", **LLAMA_8B | {"parameters": 10**15, "bytes": 10**16}))
        request = late.request_of(session, tenant, later.id)
        assert request is not None
        with pytest.raises(ModelyardError) as error:
            late.plan(session, tenant, later.id, request)
        assert error.value.code == "unplaceable"

    def test_it_is_cancelled_with_the_reason_and_so_is_what_follows(self, session: Session, tenant: UUID) -> None:
        first, later, last = submit(session, tenant, quantize(asked("evaluation", PROBE)))
        succeed(session, tenant, first)
        late.refuse(session, tenant, later.id, UnknownModel("There is no model 'b'.", param="spec.baseline"))
        found = fresh(session, later)
        assert (found.state, found.cancel_reason) == (State.CANCELLED, "model_not_found")
        assert found.error is not None
        told = {key: found.error[key] for key in ("code", "detail", "cause")}
        assert told == {
            "code": "model_not_found",
            "detail": "spec.baseline: There is no model 'b'.",
            "cause": str(first.id),
        }
        after = fresh(session, last)
        assert (after.state, after.error and after.error["cause"]) == (State.CANCELLED, str(later.id))


class TestRetry:
    def test_one_that_was_planned_keeps_its_model(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation")))
        succeed(session, tenant, first)
        spec = plan(session, tenant, later).spec
        (claim,) = build.claim(session, queue=FORGE)
        lifecycle.end(session, [build.ending(claim, Outcome.FAILED, permanent=True)])
        again = service.retry(session, tenant, later.id).job
        assert (again.spec, again.queue, again.blocked) == (spec, FORGE, False)

    def test_one_that_never_was_takes_the_model_of_the_retried_job(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("inference", prompts=["a"])))
        with pytest.raises(NotFinished):
            service.retry(session, tenant, later.id)
        (claim,) = build.claim(session, queue=FORGE)
        lifecycle.end(session, [build.ending(claim, Outcome.FAILED, permanent=True)])
        with pytest.raises(NoModelMade) as error:
            service.retry(session, tenant, later.id)
        assert str(first.id) in error.value.message

        made = succeed(session, tenant, service.retry(session, tenant, first.id).job)
        again = service.retry(session, tenant, later.id).job
        assert (again.spec["model"], again.queue, again.retry_of) == (f"small@{made.version}", "cpu.serve", later.id)
        assert [item.input for item in session.query(JobItem).filter_by(job_id=again.id)] == [{"prompt": "a"}]


class TestGuard:
    @pytest.mark.parametrize(
        ("index", "change"),
        [
            (1, "spec = '{}'"),
            (1, "spec = '{}', blocked = false, kind = 'probe'"),
            (1, "spec = '{}', blocked = false, cancel_requested_at = now(), state = 'cancelled', finished_at = now()"),
            (0, "spec = '{}'"),
            (0, "spec = '{}', blocked = false"),
            (2, "spec = '{}', blocked = false"),  # it waits, but it names no model that is yet to be made
        ],
    )
    def test_no_other_spec_changes(self, session: Session, tenant: UUID, index: int, change: str) -> None:
        stops = {"prompts": ["a"], "model": "tiny", "stop": ["$result"]}
        jobs = submit(session, tenant, quantize(asked("evaluation", asked("inference", **stops))))
        with pytest.raises(DBAPIError, match="spec, tenant and kind never change"):
            session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": jobs[index].id})

    def test_a_spec_changes_once(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation")))
        succeed(session, tenant, first)
        plan(session, tenant, later)
        with pytest.raises(DBAPIError, match="spec, tenant and kind never change"):
            session.execute(text("UPDATE jobs SET blocked = true, spec = '{}' WHERE id = :id"), {"id": later.id})
