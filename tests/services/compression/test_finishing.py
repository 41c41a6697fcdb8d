"""What the end of a job leaves: rows, results, and lists of them."""

import json
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.catalog import aliases
from services.catalog import service as catalog
from services.catalog.register import Staged, stage
from services.catalog.rules import ModelInUse, NameTaken
from services.catalog.tree import FolderTree
from services.compression import finishing, orders, repository, service
from services.compression.service import Wanted
from services.jobs import lifecycle, results
from services.jobs.results import NoResult
from services.jobs.types import Claim, Outcome
from shared.contracts.evaluation import Gate, judge
from shared.contracts.forge_orders import QuantizationResult
from shared.db.models import CompressionJob, Job, Model
from shared.errors import InvalidCursor, NotFound, UnknownModel
from shared.ids import new_id
from shared.storage import Store
from tests.services.compression import kept
from tests.services.compression.build import (
    artifact,
    calibration,
    claimed,
    end,
    evaluation,
    model,
    result,
    submit,
    upload,
)
from tests.services.compression.found import figures
from tests.services.imports.build import safetensors
from tests.services.jobs import build

MADE = QuantizationResult(
    layers=21, kept=["lm_head"], quantize_s=1.0, seconds=2.0, peak_memory_bytes=3, bytes=4, evaluation=None
)


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def tiny(session: Session, tenant: UUID) -> Model:
    return model(session, tenant)


@pytest.fixture
def staged(store: Store, tenant: UUID, tmp_path: Path):
    """A checkpoint that a forge would have written, kept in the store."""

    def made(claim: Claim, session: Session) -> Staged:
        (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 128}))
        (tmp_path / "tokenizer.json").write_text("{}")
        (tmp_path / "recipe.yaml").write_text("quantization_stage: {}")
        (tmp_path / "README.md").write_text(str(new_id()))
        (tmp_path / "model.safetensors").write_bytes(safetensors({"a.weight": (4, 4)}))
        material = orders.read(session, claim)
        source = finishing.lineage(material, result=MADE, evaluation_id=None)
        return stage(store, tenant, FolderTree(tmp_path, store, tenant), wish=finishing.wish(material, source))

    return made


@pytest.mark.usefixtures("tiny")
class TestCalibration:
    def test_is_found_by_its_key(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant)
        found = repository.calibration_by_key(session, tenant, made.key)
        assert found is made
        assert found.recommendation["scheme"] == "w4a16"
        assert found.facts["tokens"] == 256
        assert repository.calibration_by_key(session, build.tenant(session), made.key) is None

    def test_is_the_result(self, session: Session, tenant: UUID, tiny: Model) -> None:
        made = calibration(session, tenant)
        shown = results.of_job(session, tenant, made.job_id)
        assert (shown.calibration_id, shown.artifact_id, shown.model_id) == (made.id, made.artifact_id, tiny.id)

    def test_of_two_jobs_the_first_counts(self, session: Session, tenant: UUID) -> None:
        first = calibration(session, tenant)
        claim = claimed(session, tenant, "calibration")
        material = orders.read(session, claim)
        kept = finishing.keep_calibration(
            session,
            claim,
            material=material,
            key=orders.calibration_key(material),
            result=result(),
            artifact=artifact(session, claim),
        )
        end(session, claim)
        assert kept.id == first.id
        shown = results.of_job(session, tenant, claim.job_id)
        assert (shown.calibration_id, shown.artifact_id) == (first.id, first.artifact_id)
        assert service.calibrations(session, tenant, Wanted(9, job_id=claim.job_id)) == [first]

    def test_that_is_there_already_ends_a_job(self, session: Session, tenant: UUID) -> None:
        first = calibration(session, tenant)
        claim = claimed(session, tenant, "calibration")
        finishing.use_calibration(session, claim, first)
        end(session, claim)
        assert results.of_job(session, tenant, claim.job_id).calibration_id == first.id


@pytest.mark.usefixtures("tiny")
class TestEvaluation:
    def test_is_the_result(self, session: Session, tenant: UUID, tiny: Model) -> None:
        made = evaluation(session, tenant)
        shown = results.of_job(session, tenant, made.job_id)
        assert (shown.evaluation_id, shown.artifact_id) == (made.id, made.report_id)
        assert (made.model_id, made.baseline_id, made.passed, made.failures) == (tiny.id, None, None, [])

    def test_of_what_did_not_pass_is_kept_without_a_model(self, session: Session, tenant: UUID, tiny: Model) -> None:
        claim = claimed(session, tenant, "quantization", scheme="fp8-dynamic")
        gate, found = Gate(max_ppl_increase=0.001), figures()
        kept = finishing.keep_evaluation(
            session,
            claim,
            id=new_id(),
            figures=found,
            model_id=None,
            baseline_id=tiny.id,
            gate=gate,
            verdict=judge(gate, found),
        )
        lifecycle.end(session, [build.ending(claim, Outcome.FAILED, permanent=True)])
        session.refresh(kept)
        assert (kept.passed, kept.gate, kept.model_id) == (False, {"max_ppl_increase": 0.001}, None)
        assert kept.failures[0].startswith("text: ppl_increase is")
        shown = results.of_job(session, tenant, claim.job_id)
        assert (shown.model_id, shown.evaluation_id) == (None, kept.id)


@pytest.mark.usefixtures("tiny")
class TestQuantization:
    def test_is_a_version_with_its_lineage(self, session: Session, tenant: UUID, tiny: Model, staged) -> None:
        file = upload(session, tenant, filename="mine.jsonl", sha256="ef" * 32)
        data = [{"type": "file", "file_id": file}]
        spec = {"scheme": "int8", "alias": "prod", "serving": {"pinned": True}, "data": data}
        claim = claimed(session, tenant, "quantization", **spec)
        made = finishing.keep_quantization(session, claim, staged=staged(claim, session))
        end(session, claim)
        assert (made.name, made.version, made.serving) == ("tiny-int8", 1, {"pinned": True})
        assert catalog.get(session, tenant, "prod") is made
        source = made.source
        assert source["base"] == {"id": str(tiny.id), "name": "tiny", "version": 1, "digest": tiny.digest}
        assert (source["type"], source["job_id"]) == ("quantization", str(claim.job_id))
        assert {"scheme": "int8", "method": "gptq", "layers": 21}.items() <= source["recipe"].items()
        assert [(each["name"], each["sha256"]) for each in source["data"]] == [(f"mine.jsonl ({file})", "ef" * 32)]
        shown = results.of_job(session, tenant, claim.job_id)
        assert (shown.model_id, shown.artifact_id, shown.evaluation_id) == (made.id, None, None)

    def test_may_be_written_again_after_a_lost_commit(self, session: Session, tenant: UUID, staged) -> None:
        claim = claimed(session, tenant, "quantization", scheme="bf16")
        ready = staged(claim, session)
        with session.begin_nested() as lost:
            finishing.keep_quantization(session, claim, staged=ready)
            lost.rollback()
        assert finishing.keep_quantization(session, claim, staged=ready).version == 1

    def test_a_name_that_was_taken_meanwhile(self, session: Session, tenant: UUID, tiny: Model, staged) -> None:
        claim = claimed(session, tenant, "quantization", scheme="bf16")
        ready = staged(claim, session)
        aliases.point(session, tenant, "tiny-bf16", tiny)
        with pytest.raises(NameTaken):
            finishing.keep_quantization(session, claim, staged=ready)


@pytest.mark.usefixtures("tiny")
class TestResult:
    def test_comes_with_the_end(self, session: Session, tenant: UUID, tiny: Model) -> None:
        job = submit(session, tenant, "evaluation")
        with pytest.raises(NoResult):
            results.of_job(session, tenant, job.id)
        lifecycle.cancel(session, tenant, job.id, reason="requested")
        shown = results.of_job(session, tenant, job.id)
        made = (shown.artifact_id, shown.evaluation_id, shown.calibration_id)
        assert (shown.model_id, *made) == (tiny.id, None, None, None)

    def test_of_another_kind_is_elsewhere(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        with pytest.raises(NoResult) as error:
            results.of_job(session, tenant, job.id)
        assert (error.value.status, error.value.code) == (404, "no_result")

    def test_is_its_tenants(self, session: Session, tenant: UUID) -> None:
        job = submit(session, tenant, "evaluation")
        with pytest.raises(NotFound):
            results.of_job(session, build.tenant(session), job.id)


@pytest.mark.usefixtures("tiny")
class TestLists:
    def test_calibrations_come_newest_first_a_page_at_a_time(self, session: Session, tenant: UUID) -> None:
        rows = [calibration(session, tenant, group_size=size) for size in (16, 32, 64)][::-1]
        assert service.calibrations(session, tenant, Wanted(9)) == rows
        assert service.calibrations(session, tenant, Wanted(1, after=str(rows[0].id))) == [rows[1]]
        assert service.calibration(session, tenant, str(rows[1].id)) is rows[1]

    def test_evaluations_do_too(self, session: Session, tenant: UUID) -> None:
        rows = [evaluation(session, tenant) for _ in range(3)][::-1]
        assert service.evaluations(session, tenant, Wanted(2)) == rows[:2]
        assert service.evaluations(session, tenant, Wanted(9, after=str(rows[0].id))) == rows[1:]
        assert service.evaluation(session, tenant, str(rows[2].id)) is rows[2]
        assert service.evaluations(session, tenant, Wanted(9, job_id=rows[1].job_id)) == [rows[1]]

    def test_those_of_a_model_are_all_versions_or_the_one(self, session: Session, tenant: UUID) -> None:
        first, beside = evaluation(session, tenant), model(session, tenant, name="base")
        model(session, tenant, version=2)
        second = evaluation(session, tenant, baseline="base")
        assert service.evaluations(session, tenant, Wanted(9, model="tiny")) == [second, first]
        assert service.evaluations(session, tenant, Wanted(9, model="tiny@1")) == [first]
        assert service.evaluations(session, tenant, Wanted(9, model=str(beside.id))) == [second]
        made = calibration(session, tenant)
        assert service.calibrations(session, tenant, Wanted(9, model="tiny@2")) == [made]
        assert service.calibrations(session, tenant, Wanted(9, model="tiny@1")) == []

    def test_are_their_tenants(self, session: Session, tenant: UUID) -> None:
        made, judged = calibration(session, tenant), evaluation(session, tenant)
        other = build.tenant(session)
        assert not service.calibrations(session, other, Wanted(9))
        assert not service.evaluations(session, other, Wanted(9))
        for look, id in ((service.calibration, made.id), (service.evaluation, judged.id)):  # noqa: A001 - as its argument
            with pytest.raises(NotFound):
                look(session, other, str(id))

    def test_a_calibrations_artifact_is_as_good_a_cursor(self, session: Session, tiny: Model) -> None:
        older, newer = (kept.calibration(session, tiny, id=each) for each in (new_id(), new_id()))
        assert service.calibrations(session, tiny.tenant_id, Wanted(9, after=str(newer.artifact_id))) == [older]

    @pytest.mark.parametrize("listed", [service.calibrations, service.evaluations])
    def test_a_cursor_or_a_model_that_is_none(self, session: Session, tenant: UUID, listed) -> None:
        for after in ("x", str(new_id())):
            with pytest.raises(InvalidCursor):
                listed(session, tenant, Wanted(9, after=after))
        with pytest.raises(UnknownModel):
            listed(session, tenant, Wanted(9, model="none"))


@pytest.mark.usefixtures("tiny")
class TestInUse:
    @pytest.mark.parametrize("spec", [{"model": "used"}, {"baseline": "used"}])
    def test_a_model_stays_until_its_jobs_have_ended(
        self, session: Session, tenant: UUID, spec: dict[str, str]
    ) -> None:
        model(session, tenant, name="used")
        job = submit(session, tenant, "evaluation", **spec)
        with pytest.raises(ModelInUse, match=r"used is in use by calibrations, quantizations and evaluations \(1\)"):
            catalog.delete(session, tenant, "used")
        lifecycle.cancel(session, tenant, job.id, reason="requested")
        catalog.delete(session, tenant, "used")

    def test_rows_outlive_their_model(self, session: Session, tenant: UUID) -> None:
        made = calibration(session, tenant)
        catalog.delete(session, tenant, "tiny")
        assert service.calibration(session, tenant, str(made.artifact_id)) is made
        assert session.get_one(CompressionJob, made.job_id).calibration_id == made.id
        assert session.get_one(Job, made.job_id).state == "succeeded"
