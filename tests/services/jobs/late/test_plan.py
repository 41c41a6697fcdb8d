"""Jobs that name `$result`: what they become when the model is there."""

from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from services.jobs import late, repository, service
from shared.contracts.jobs import Driver, JobRequest, State
from shared.db.models import CompressionJob, FairShare, JobItem, Model, Outbox
from shared.errors import UnknownModel
from tests.services.compression.build import model, source, upload
from tests.services.jobs import build
from tests.services.jobs.late.chains import FORGE, asked, end, fresh, plan, quantize, refused, submit, succeed, tasks


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
