"""Jobs that name `$result`: what is checked at submit, how they wait, and what they become."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from services.jobs import late, lifecycle, repository, service
from services.jobs.explain import Cause, explain
from services.jobs.late import NoModelMade
from services.jobs.types import Ending, Outcome
from shared.contracts.jobs import Driver, JobRequest, State
from shared.db.models import CompressionJob, FairShare, Job, JobItem, Model, Outbox, TuningJob
from shared.db.session import Database
from shared.errors import ModelyardError, NotFinished, UnknownModel
from shared.ids import new_id
from tests.services.compression.build import LLAMA_8B, model, source, upload
from tests.services.jobs import build
from tests.support.stores import RunningStores, cloned_database

FORGE = "cpu.forge"
PROBE: dict[str, Any] = {"kind": "probe", "spec": {"steps": 0}}
FILE = f"file-{'0' * 32}"


@pytest.fixture(scope="module")
def modules_database(stores: RunningStores, migrated: str) -> Iterator[Database]:
    with cloned_database(stores, migrated) as url:
        opened = Database(url)
        yield opened
        opened.close()


@pytest.fixture
def session(modules_database: Database) -> Iterator[Session]:
    """Its rows are gone after the test; nobody commits."""
    with Session(modules_database.engine, expire_on_commit=False) as opened:
        yield opened


@pytest.fixture
def tenant(session: Session) -> UUID:
    owner = build.tenant(session)
    model(session, owner)
    return owner


def asked(kind: str, *behind: dict[str, Any], **spec: Any) -> dict[str, Any]:
    usual: dict[str, dict[str, Any]] = {
        "quantization": {"scheme": "fp16", "evaluation": None},
        "evaluation": {"tasks": [{"type": "text"}]},
    }
    given = {"model": "$result", **usual.get(kind, {}), **spec}
    return {"kind": kind, "spec": given, "gpu_class": "cpu", "on_success": list(behind)}


def quantize(*behind: dict[str, Any], **spec: Any) -> JobRequest:
    """A quantization of `tiny` with jobs behind it."""
    return JobRequest.model_validate(asked("quantization", *behind, **{"model": "tiny", "name": "small", **spec}))


def submit(session: Session, tenant: UUID, request: JobRequest) -> list[Job]:
    """The job and those behind it, the first of each level, in order."""
    jobs = [service.submit(session, tenant, request).job]
    while found := session.scalar(select(Job).where(Job.after_job_id == jobs[-1].id)):
        jobs.append(found)
    return jobs


def refused(session: Session, tenant: UUID, request: dict[str, Any] | JobRequest) -> ModelyardError:
    """Why a request is refused, at submit and by `validate_only` alike."""
    wanted = JobRequest.model_validate(request)
    told = []
    for judge in (service.submit, service.draft):
        with pytest.raises(ModelyardError) as error, session.begin_nested():
            judge(session, tenant, wanted)
        told.append((error.value.code, error.value.param, error.value.message))
    assert told[0] == told[1]
    return error.value


def end(session: Session, job: Job, made: Model | None) -> None:
    """Run a job of a forge to its end, with a model where it makes one."""
    (claim,) = build.claim(session, queue=FORGE)
    assert claim.job_id == job.id
    columns = session.get(TuningJob, job.id) or session.get_one(CompressionJob, job.id)
    columns.result_model_id = made.id if made else None
    session.flush()
    lifecycle.end(session, [build.ending(claim, Outcome.SUCCEEDED)])


def succeed(session: Session, tenant: UUID, job: Job) -> Model:
    """Let a quantization make the next version of `small`."""
    made = model(session, tenant, name="small", version=1 + session.query(Model).filter_by(name="small").count())
    end(session, job, made)
    return made


def tasks(session: Session) -> list[tuple[str, UUID]]:
    rows = session.execute(text("SELECT kind, job_id FROM control_tasks ORDER BY job_id, kind"))
    return [(row.kind, row.job_id) for row in rows]


def plan(session: Session, tenant: UUID, job: Job) -> Job:
    """What the courier does, but for its look at the layers."""
    request = late.request_of(session, tenant, job.id)
    assert request is not None
    assert late.plan(session, tenant, job.id, request)
    return fresh(session, job)


def fresh(session: Session, job: Job) -> Job:
    return session.get_one(Job, job.id, populate_existing=True)


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


class TestPlan:
    def test_becomes_what_a_submit_would_have_made_of_it(self, session: Session, tenant: UUID) -> None:
        wanted = asked("evaluation", baseline="tiny") | {"priority": 8, "metadata": {"a": "b"}}
        first, later = submit(session, tenant, quantize(wanted))
        made = succeed(session, tenant, first)
        session.execute(text("DELETE FROM outbox"))
        planned = plan(session, tenant, later)
        name = f"small@{made.version}"
        twin = service.submit(
            session, tenant, JobRequest.model_validate(wanted | {"spec": wanted["spec"] | {"model": name}})
        ).job
        same = ("spec", "queue", "gpu_class", "devices", "plan", "planned_gpu_s", "driver", "priority", "meta",
                "progress_total", "progress_unit", "blocked", "state", "max_failures", "deadline_at")  # fmt: skip
        assert {key: getattr(planned, key) for key in same} == {key: getattr(fresh(session, twin), key) for key in same}
        assert planned.spec["model"] == name
        assert planned.planned_gpu_s > 0
        row = session.get_one(CompressionJob, later.id)
        assert (row.model_id, row.baseline_id is not None) == (made.id, True)
        assert {claim.job_id for claim in build.claim(session, limit=2, queue=FORGE)} == {later.id, twin.id}

    def test_rings_and_has_a_share_in_a_queue_that_is_new(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("inference", prompts=["a", "b"])))
        succeed(session, tenant, first)
        session.execute(text("DELETE FROM outbox"))
        planned = plan(session, tenant, later)
        assert session.scalars(select(Outbox.queue)).all() == ["cpu.serve"]
        assert session.get(FairShare, ("cpu.serve", planned.tier, tenant)) is not None
        assert "prompts" not in planned.spec
        items = session.scalars(select(JobItem).where(JobItem.job_id == later.id).order_by(JobItem.line_no)).all()
        assert [(item.line_no, item.turn, item.input) for item in items] == [
            (0, 0, {"prompt": "a"}),
            (1, 1, {"prompt": "b"}),
        ]
        (claim,) = build.claim(session)
        assert (claim.job_id, claim.width) == (later.id, 2)

    def test_twice_is_once(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("inference", prompts=["a"])))
        succeed(session, tenant, first)
        request = late.request_of(session, tenant, later.id)
        assert request is not None
        assert late.plan(session, tenant, later.id, request)
        version = fresh(session, later).version
        assert not late.plan(session, tenant, later.id, request)
        assert late.request_of(session, tenant, later.id) is None
        late.refuse(session, tenant, later.id, UnknownModel())
        assert (fresh(session, later).version, fresh(session, later).state) == (version, "queued")

    def test_one_that_was_cancelled_meanwhile_is_left_alone(self, session: Session, tenant: UUID) -> None:
        first, later = submit(session, tenant, quantize(asked("evaluation")))
        succeed(session, tenant, first)
        request = late.request_of(session, tenant, later.id)
        assert request is not None
        service.cancel(session, tenant, later.id)
        assert not late.plan(session, tenant, later.id, request)
        assert late.request_of(session, tenant, later.id) is None

    def test_many_lines_become_a_parent_with_children(self, session: Session, tenant: UUID) -> None:
        wanted = asked("inference", prompts=["a"] * 1001)
        first, later = submit(session, tenant, quantize(wanted))
        succeed(session, tenant, first)
        planned = plan(session, tenant, later)
        assert (planned.driver, planned.state, planned.progress_total) == (Driver.CHILDREN, State.RUNNING, 1001)
        children = repository.page(session, tenant, limit=10, parent_id=later.id)
        assert sorted(child.progress_total or 0 for child in children) == [1, 1000]
        assert {claim.parent_id for claim in build.claim(session, limit=2000)} == {later.id}

    def test_its_own_followers_wait_for_its_end(self, session: Session, tenant: UUID) -> None:
        chain = quantize(asked("quantization", asked("evaluation", baseline="small"), scheme="bf16", name="small"))
        first, second, third = submit(session, tenant, chain)
        succeed(session, tenant, first)
        plan(session, tenant, second)
        assert [kind for kind, job in tasks(session) if job == third.id] == []
        made = succeed(session, tenant, second)
        session.execute(text("DELETE FROM fair_shares WHERE queue = 'cpu.forge'"))
        planned = plan(session, tenant, third)
        assert planned.spec["model"] == f"small@{made.version}"
        assert [claim.job_id for claim in build.claim(session, queue=FORGE)] == [third.id]


class TestTuned:
    def test_is_merged_quantized_and_judged(self, session: Session, tenant: UUID) -> None:
        # Given
        data = [source(upload(session, tenant, purpose="fine-tune"))]
        evaluation = asked("evaluation", baseline="merged")
        merge = asked("merge", asked("quantization", evaluation), name="merged")
        chain = asked("tuning", merge, model="tiny", data=data, name="tuned")
        tuning, merging, quantizing, judging = submit(session, tenant, JobRequest.model_validate(chain))
        base = session.scalars(select(Model).where(Model.name == "tiny", Model.tenant_id == tenant)).one()
        adapter = model(session, tenant, name="tuned", kind="adapter", base_id=base.id, config={"r": 16})
        merged = model(session, tenant, name="merged", config=base.config)

        # When
        end(session, tuning, adapter)
        assert plan(session, tenant, merging).spec["model"] == "tuned@1"
        end(session, merging, merged)
        assert plan(session, tenant, quantizing).spec["name"] == "merged-fp16"
        end(session, quantizing, model(session, tenant, name="merged-fp16"))
        planned = plan(session, tenant, judging)

        # Then
        assert (planned.spec["model"], planned.spec["baseline"]) == ("merged-fp16@1", "merged@1")
        end(session, judging, None)

    @pytest.mark.parametrize("method", ["lora", "rslora"])
    def test_an_adapter_is_merged_first(self, session: Session, tenant: UUID, method: str) -> None:
        data = [source(upload(session, tenant, purpose="fine-tune"))]
        error = refused(session, tenant, asked("tuning", asked("quantization"), model="tiny", data=data, method=method))
        assert (error.param, "put a merge between" in error.message) == ("on_success.0.spec.model", True)
        served = asked("tuning", asked("inference", prompts=["a"]), model="tiny", data=data, method=method)
        (later,) = service.draft(session, tenant, JobRequest.model_validate(served)).followers
        assert later.late

    def test_a_whole_model_is_not_merged(self, session: Session, tenant: UUID) -> None:
        data = [source(upload(session, tenant, purpose="fine-tune"))]
        error = refused(session, tenant, asked("tuning", asked("merge"), model="tiny", data=data, method="full"))
        assert (error.param, "a merge needs an adapter" in error.message) == ("on_success.0.spec.model", True)


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
