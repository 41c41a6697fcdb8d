"""Jobs that name `$result`: what is checked at submit, and how they wait."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from services.jobs import lifecycle, service
from services.jobs.explain import Cause, explain
from services.jobs.types import Ending, Outcome
from shared.contracts.jobs import JobRequest, State
from shared.db.models import CompressionJob, Job, Outbox
from shared.ids import new_id
from tests.services.compression.build import source
from tests.services.jobs import build
from tests.services.jobs.late.chains import (
    FILE,
    FORGE,
    PROBE,
    asked,
    fresh,
    plan,
    quantize,
    refused,
    submit,
    succeed,
    tasks,
)


class TestSubmit:
    def test_a_late_job_waits_as_it_was_given(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation", baseline="tiny")))
        assert (later.state, later.blocked, later.queue, later.driver) == ("queued", True, "control", "worker")
        assert (later.after_job_id, later.planned_gpu_s) == (first.id, 0)
        assert later.spec == {"model": "$result", "baseline": "tiny", "tasks": [{"type": "text"}]}
        assert later.plan["reason"] == f"planned when job {first.id} has made its model"
        assert session.get(CompressionJob, later.id) is None
        assert session.scalars(select(Outbox.queue)).all() == [FORGE]

    def test_at_any_depth_it_is_the_model_of_the_job_before(self, session: Session, tenant: UUID) -> None:
        chain = quantize(asked("quantization", asked("evaluation", PROBE, baseline="small"), scheme="bf16"))
        first, second, third, last = submit(session, tenant, chain)
        assert [job.queue for job in (first, second, third, last)] == [FORGE, "control", "control", "cpu.serve"]
        assert third.plan["reason"] == f"planned when job {second.id} has made its model"

    def test_its_draft_says_that_it_is_planned_later(self, session: Session, tenant: UUID) -> None:
        told = service.draft(session, tenant, quantize(asked("evaluation", PROBE)))
        (later,) = told.followers
        assert (told.late, later.late, later.followers[0].late) == (False, True, False)
        assert later.plan.reason == "planned when the job before it has made its model"
        assert session.query(Job).count() == 0

    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            (asked("evaluation"), ("validation_failed", "spec.model")),
            (asked("evaluation", model="tiny", baseline="$result"), ("validation_failed", "spec.baseline")),
            (PROBE | {"on_success": [asked("evaluation")]}, ("validation_failed", "on_success.0.spec.model")),
            (
                quantize(asked("evaluation", asked("calibration"))),
                ("validation_failed", "on_success.0.on_success.0.spec.model"),
            ),
            (quantize(asked("merge")), ("validation_failed", "on_success.0.spec.model")),
            (quantize(asked("evaluation", colour=1)), ("validation_failed", "on_success.0.spec.colour")),
            (quantize(asked("evaluation") | {"gpu_class": "x"}), ("unknown_gpu_class", "on_success.0.gpu_class")),
            (quantize(asked("evaluation", baseline="none")), ("model_not_found", "on_success.0.spec.baseline")),
            (
                quantize(asked("calibration", data=[source(FILE)])),
                ("validation_failed", "on_success.0.spec.data.0.file_id"),
            ),
            (quantize(asked("quantization", name="a b")), ("invalid_field", "on_success.0.spec.name")),
            (
                quantize(asked("quantization", scheme="w4a16", calibration=str(new_id()))),
                ("unprocessable", "on_success.0.spec.calibration"),
            ),
            (quantize(asked("inference", input_file=FILE)), ("unprocessable", "on_success.0.spec.input_file")),
            (quantize(asked("inference", prompts=["a" * 70_000])), ("unprocessable", "on_success.0.spec")),
            (
                quantize(asked("document_set", files=[FILE], operation={"type": "summarize"})),
                ("validation_failed", "on_success.0.spec.files.0"),
            ),
        ],
    )  # fmt: skip
    def test_what_can_be_judged_is_refused_at_once(
        self, session: Session, tenant: UUID, request_: Any, expected: tuple[str, str]
    ) -> None:
        error = refused(session, tenant, request_)
        assert (error.code, error.param) == expected

    def test_a_job_behind_an_older_one_cannot_name_its_model(self, session: Session, tenant: UUID) -> None:
        (older,) = submit(session, tenant, quantize())
        error = refused(session, tenant, asked("evaluation") | {"after_job_id": older.id})
        assert "stands behind no job of this request" in error.message

    def test_a_text_is_no_model(self, session: Session, tenant: UUID) -> None:
        wanted = {"model": "tiny", "prompts": ["$result"], "stop": ["$result"]}
        (job,) = submit(session, tenant, JobRequest(kind="inference", spec=wanted))
        assert (job.queue, job.spec["stop"]) == ("cpu.serve", ["$result"])


class TestWaiting:
    def test_success_gives_the_courier_one_task(self, session: Session, tenant: UUID) -> None:
        first, late_one, _ = submit(session, tenant, quantize(asked("evaluation", PROBE)))
        succeed(session, tenant, first)
        assert tasks(session) == [("plan", late_one.id)]
        assert fresh(session, late_one).blocked

    @pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.EXPIRED])
    def test_another_end_cancels_the_chain(self, session: Session, tenant: UUID, outcome: Outcome) -> None:
        first, second, third = submit(session, tenant, quantize(asked("quantization", asked("evaluation"), name="b")))
        (claim,) = build.claim(session, queue=FORGE)
        lifecycle.end(session, [Ending(claim.job_id, claim.attempt, outcome, error=build.BOOM, permanent=True)])
        causes = [(fresh(session, job).state, fresh(session, job).error) for job in (second, third)]
        assert [state for state, _ in causes] == ["cancelled", "cancelled"]
        assert [error and (error["code"], error["cause"]) for _, error in causes] == [
            ("upstream_failed", str(first.id)),
            ("upstream_failed", str(second.id)),
        ]
        assert tasks(session) == []

    def test_cancelling_the_first_cancels_all(self, session: Session, tenant: UUID) -> None:
        jobs = submit(session, tenant, quantize(asked("quantization", asked("evaluation"), name="b")))
        service.cancel(session, tenant, jobs[0].id)
        assert [fresh(session, job).state for job in jobs] == ["cancelled"] * 3

    def test_its_deadline_passes_as_any_other(self, session: Session, tenant: UUID) -> None:
        _, later = submit(session, tenant, quantize(asked("evaluation")))
        later.deadline_at = session.scalar(text("SELECT clock_timestamp() - interval '1 s'"))
        session.flush()
        lifecycle.expire_overdue(session)
        assert fresh(session, later).state == State.EXPIRED

    def test_a_paused_one_is_planned_and_stays_paused(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation")))
        service.pause(session, tenant, later.id)
        succeed(session, tenant, first)
        session.execute(text("DELETE FROM outbox"))
        assert plan(session, tenant, later).held_at is not None
        assert session.query(Outbox).count() == 0
        assert build.claim(session, queue=FORGE) == []
        service.resume(session, tenant, later.id)
        assert session.scalars(select(Outbox.queue)).all() == [FORGE]
        assert len(build.claim(session, queue=FORGE)) == 1

    def test_it_says_what_it_waits_for(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation")))
        found = explain(session, fresh(session, later))
        assert (found.cause, found.waits_for) == (Cause.BLOCKED, first.id)
        assert found.sentence.endswith("Then it is planned, with the model that was made.")
        succeed(session, tenant, first)
        found = explain(session, fresh(session, later))
        assert (found.cause, found.waits_for) == (Cause.PLANNING, first.id)
