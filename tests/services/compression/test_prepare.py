"""What requests of the three kinds become before they are written, and which are refused, by the field's name."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.catalog import aliases
from services.compression.inputs import PURPOSES
from services.files import service as files
from services.files.service import Purpose
from services.jobs import lifecycle, service
from services.jobs.kinds import kind
from services.jobs.types import Outcome
from shared.contracts.jobs import JobRequest
from shared.db.models import CompressionFile, CompressionJob, Model
from shared.errors import ModelyardError, ValidationFailed
from tests.services.compression.build import claimed, model, prepare, refused, source, submit, upload
from tests.services.jobs import build

KINDS = ("calibration", "evaluation", "quantization")
TEXT = {"type": "text"}


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def tiny(session: Session, tenant: UUID) -> Model:
    return model(session, tenant)


@pytest.mark.usefixtures("tiny")
class TestStored:
    @pytest.mark.parametrize("name", KINDS)
    def test_every_attempt_does_the_same(self, session: Session, tenant: UUID, name: str) -> None:
        first = prepare(session, tenant, name)
        model(session, tenant, version=2)
        again = kind(name).spec.model_validate(first.spec)  # as a retry reads it
        assert kind(name).prepare(session, tenant, again).spec == first.spec
        assert first.spec["model"] == "tiny@1"

    def test_a_calibration_has_its_length(self, session: Session, tenant: UUID) -> None:
        assert prepare(session, tenant, "calibration").spec["sampling"]["sequence_length"] == 2048
        model(session, tenant, name="short", context_length=100)
        found = prepare(session, tenant, "calibration", model="short")
        assert found.spec["sampling"]["sequence_length"] == 100

    def test_an_evaluation_has_its_lengths(self, session: Session, tenant: UUID) -> None:
        model(session, tenant, name="short", context_length=100)
        tasks = [TEXT, TEXT | {"name": "more", "sequence_length": 64}]
        found = prepare(session, tenant, "evaluation", tasks=tasks, baseline="short")
        assert [task["sequence_length"] for task in found.spec["tasks"]] == [100, 64]
        assert found.spec["baseline"] == "short@1"

    @pytest.mark.parametrize(
        ("asked", "stored"),
        [
            ({"scheme": "w4a16"}, {"method": "gptq", "group_size": 128, "name": "tiny-w4a16"}),
            ({"scheme": "w4a16", "method": "awq", "group_size": 32}, {"method": "awq", "group_size": 32}),
            ({"scheme": "int8"}, {"method": "gptq", "smoothing_strength": 0.5}),
            ({"scheme": "int8", "smoothing_strength": 0}, {"smoothing_strength": 0}),
            ({"scheme": "fp8-dynamic"}, {"method": "rtn", "sampling": None, "group_size": None}),
            ({"scheme": "bf16"}, {"method": "auto", "sampling": None}),
            ({"scheme": "int8", "evaluation": None}, {"evaluation": None}),
            ({"scheme": "w8a16", "name": "mine", "alias": "prod"}, {"name": "mine", "alias": "prod"}),
            ({"scheme": "w8a16", "serving": {"pinned": True}}, {"serving": {"pinned": True}}),
        ],
    )
    def test_a_quantization_is_resolved(
        self, session: Session, tenant: UUID, asked: dict[str, Any], stored: dict[str, Any]
    ) -> None:
        found = prepare(session, tenant, "quantization", **asked).spec
        assert {name: found[name] for name in stored} == stored

    def test_data_is_sampled_where_it_is_looked_at(self, session: Session, tenant: UUID) -> None:
        found = prepare(session, tenant, "quantization", scheme="fp8").spec
        assert (found["sampling"]["samples"], found["sampling"]["sequence_length"]) == (128, 2048)

    def test_an_alias_stands_for_its_version(self, session: Session, tenant: UUID, tiny: Model) -> None:
        aliases.point(session, tenant, "prod", tiny)
        found = prepare(session, tenant, "quantization", model="prod").spec
        assert (found["model"], found["name"]) == ("tiny@1", "tiny-w4a16")


@pytest.mark.usefixtures("tiny")
class TestModel:
    @pytest.mark.parametrize("name", KINDS)
    def test_is_known(self, session: Session, tenant: UUID, name: str) -> None:
        error = refused(session, tenant, name, model="none")
        assert (error.code, error.param) == ("model_not_found", "spec.model")

    @pytest.mark.parametrize("name", KINDS)
    def test_is_no_adapter(self, session: Session, tenant: UUID, tiny: Model, name: str) -> None:
        model(session, tenant, name="lora", kind="adapter", base_id=tiny.id)
        error = refused(session, tenant, name, model="lora")
        assert (error.status, error.param) == (422, "spec.model")

    @pytest.mark.parametrize("name", ["calibration", "quantization"])
    def test_is_not_quantized_already(self, session: Session, tenant: UUID, name: str) -> None:
        model(session, tenant, name="small", config={"quantization_config": {"quant_method": "fp8"}})
        error = refused(session, tenant, name, model="small")
        assert (error.status, error.param) == (422, "spec.model")
        assert "quantized already" in error.message

    def test_a_baseline_counts_the_same_tokens(self, session: Session, tenant: UUID) -> None:
        model(session, tenant, name="other", config={"vocab_size": 7})
        error = refused(session, tenant, "evaluation", tasks=[TEXT], baseline="other")
        assert error.param == "spec.baseline"
        choice = {"type": "choice", "file_id": upload(session, tenant, purpose="evals")}
        assert prepare(session, tenant, "evaluation", tasks=[choice], baseline="other").spec["baseline"] == "other@1"

    def test_a_baseline_is_known(self, session: Session, tenant: UUID) -> None:
        assert refused(session, tenant, "evaluation", baseline="none").param == "spec.baseline"


@pytest.mark.usefixtures("tiny")
class TestLength:
    @pytest.mark.parametrize(
        ("name", "spec", "param"),
        [
            ("calibration", {"sampling": {"sequence_length": 2049}}, "spec.sampling.sequence_length"),
            ("quantization", {"sampling": {"sequence_length": 4096}}, "spec.sampling.sequence_length"),
            (
                "quantization",
                {"evaluation": {"tasks": [TEXT | {"sequence_length": 2049}]}},
                "spec.evaluation.tasks.0.sequence_length",
            ),
            (
                "evaluation",
                {"tasks": [TEXT, TEXT | {"name": "b", "sequence_length": 2049}]},
                "spec.tasks.1.sequence_length",
            ),
            (
                "evaluation",
                {"tasks": [{"type": "generation", "file_id": "file-0", "max_tokens": 2048}]},
                "spec.tasks.0.max_tokens",
            ),
        ],
    )
    def test_is_within_the_context(
        self, session: Session, tenant: UUID, *, name: str, spec: dict[str, Any], param: str
    ) -> None:
        error = refused(session, tenant, name, **spec)
        assert (error.param, error.errors[0].code) == (param, "context_length_exceeded")


@pytest.mark.usefixtures("tiny")
class TestFiles:
    def test_are_kept_with_the_job(self, session: Session, tenant: UUID) -> None:
        mine, judged = upload(session, tenant), upload(session, tenant, purpose="evals")
        tasks = [{"type": "choice", "file_id": judged}, TEXT | {"data": [source(mine), {"type": "library"}]}]
        job = submit(session, tenant, "quantization", scheme="int8", data=[source(mine)], evaluation={"tasks": tasks})
        kept = session.scalars(select(CompressionFile).where(CompressionFile.job_id == job.id)).all()
        assert {f"file-{row.file_id.hex}" for row in kept} == {mine, judged}

    @pytest.mark.parametrize("purpose", Purpose)
    def test_hold_texts(self, session: Session, tenant: UUID, purpose: Purpose) -> None:
        file = upload(session, tenant, purpose=purpose)
        if purpose in PURPOSES:
            assert prepare(session, tenant, "calibration", data=[source(file)]).spec["data"][0]["file_id"] == file
        else:
            error = refused(session, tenant, "calibration", data=[source(file)])
            assert (error.param, error.errors[0].code) == ("spec.data.0.file_id", "wrong_purpose")

    def test_each_wrong_one_is_named(self, session: Session, tenant: UUID) -> None:
        gone, foreign = upload(session, tenant), upload(session, build.tenant(session))
        files.delete(session, tenant, gone)
        right, empty = upload(session, tenant), upload(session, tenant, bytes=0)
        error = refused(
            session,
            tenant,
            "quantization",
            data=[source(each) for each in ("file-x", gone, right, foreign)],
            sampling={"strategy": "domain", "reference": [source(empty)]},
            evaluation={"tasks": [{"type": "generation", "file_id": "nonsense"}, TEXT | {"data": [source(gone)]}]},
        )
        assert [(field.param, field.code) for field in error.errors] == [
            ("spec.data.0.file_id", "not_found"),
            ("spec.data.1.file_id", "not_found"),
            ("spec.data.3.file_id", "not_found"),
            ("spec.sampling.reference.0.file_id", "empty_file"),
            ("spec.evaluation.tasks.0.file_id", "not_found"),
            ("spec.evaluation.tasks.1.data.0.file_id", "not_found"),
        ]

    def test_those_of_an_evaluation_are_named(self, session: Session, tenant: UUID) -> None:
        error = refused(session, tenant, "evaluation", tasks=[{"type": "choice", "file_id": "file-x"}])
        assert error.param == "spec.tasks.0.file_id"


@pytest.mark.usefixtures("tiny")
class TestJob:
    def test_is_written_with_its_columns(self, session: Session, tenant: UUID, tiny: Model) -> None:
        base = model(session, tenant, name="base")
        job = submit(session, tenant, "evaluation", baseline="base")
        row = session.get_one(CompressionJob, job.id)
        assert (row.model_id, row.baseline_id, row.tenant_id) == (tiny.id, base.id, tenant)
        assert (job.queue, job.progress_unit, job.devices) == ("cpu.forge", "samples", 1)

    def test_is_retried(self, session: Session, tenant: UUID, tiny: Model) -> None:
        claim = claimed(session, tenant, "quantization", scheme="w4a16")
        lifecycle.end(session, [build.ending(claim, Outcome.FAILED, permanent=True)])
        model(session, tenant, version=2)
        again = service.retry(session, tenant, claim.job_id).job
        assert session.get_one(CompressionJob, again.id).model_id == tiny.id
        assert again.spec == claim.spec

    @pytest.mark.parametrize("gate", [{}, {"max_ppl_increase": None}])
    def test_a_gate_asks_for_something(self, session: Session, tenant: UUID, gate: dict[str, Any]) -> None:
        with pytest.raises(ValidationFailed) as error:
            submit(session, tenant, "quantization", scheme="bf16", gate=gate)
        assert error.value.param == "spec.gate"

    def test_is_validated_behind_another(self, session: Session, tenant: UUID) -> None:
        later = {"kind": "quantization", "spec": {"model": "none", "scheme": "bf16"}}
        request = JobRequest.model_validate(
            {"kind": "calibration", "spec": {"model": "tiny"}, "on_success": [later], "gpu_class": "cpu"}
        )
        with pytest.raises(ModelyardError) as error:
            service.submit(session, tenant, request)
        assert error.value.param == "on_success.0.spec.model"
