"""Calibration, quantization and evaluation from claim to rows: real forges, real stores, yard-tiny.

Its engines are scripted here; `modelyard demo` has the platform's own answer with what was made.
"""

from typing import Any
from uuid import UUID

import orjson
import pytest

from services.artifacts.service import blob_of
from services.inference import kind as inference_kind
from services.jobs import repository
from shared.contracts.forge_orders import RECOMMENDATION_FILE, SAMPLES_FILE, SENSITIVITY_FILE, STATISTICS_FILE
from shared.contracts.inference import InferenceSpec, Message
from shared.contracts.jobs import State
from shared.manifest import Manifest
from tests.services.jobs import build
from tests.workers.compression_desk import FEW, JUDGED, Desk
from tests.workers.conftest import SERVE, World
from tests.workers.engine_yard import SERVER

SCRIPTED: dict[str, Any] = {"engine": "scripted", "engine_commands": {"scripted": SERVER}, "runner_poll_s": 0.5}

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


def chat(world: World, model: str) -> UUID:
    """A job that has the model answer one chat."""
    spec = InferenceSpec(model=model, messages=[[Message(role="user", content="def f(")]], max_tokens=8)
    with world.database.transaction() as session:
        prepared = inference_kind.KIND.prepare(session, world.tenant, spec)
        job = build.job(
            session,
            world.tenant,
            kind="inference",
            queue=SERVE,
            spec=prepared.spec,
            lines=prepared.lines,
            progress_total=prepared.total,
        )
        assert prepared.extend is not None
        prepared.extend(session, job.id)
        return job.id


class TestQuantization:
    def test_a_model_is_calibrated_and_becomes_a_smaller_one_that_answers_at_once(
        self, world: World, desk: Desk
    ) -> None:
        spec = {"sampling": FEW, "schemes": ["w4a16"]}
        first = desk.submit("calibration", **spec)
        runner = world.runner(**SCRIPTED)
        desk.finished(first)
        made = desk.result(first)
        folder = desk.artifacts(first)["calibration"]
        assert made.artifact_id == folder.id
        manifest = Manifest.of_json(folder.manifest or [])
        assert {SAMPLES_FILE, STATISTICS_FILE, SENSITIVITY_FILE, RECOMMENDATION_FILE} <= {
            each.path for each in manifest
        }
        listed = orjson.loads(desk.store.read(world.tenant, blob_of(folder)))
        assert listed == folder.manifest  # its content is the manifest itself
        for entry in manifest:
            assert desk.store.size(world.tenant, entry.sha256) == entry.bytes

        # The same again runs nothing
        again = desk.submit("calibration", **spec)
        assert desk.finished(again).gpu_seconds == 0
        repeated = desk.result(again)
        assert (repeated.calibration_id, repeated.artifact_id) == (made.calibration_id, made.artifact_id)
        assert desk.artifacts(again) == {}

        # When a quantization takes its samples from the artifact
        job = desk.submit(
            "quantization",
            scheme="w4a16",
            calibration=str(folder.id),
            evaluation=JUDGED,
            gate={"max_ppl_increase": 0.5},
            alias="small",
        )
        ended = desk.finished(job)

        # Then there is a version that says where it is from, and everything that was found of it
        (model,) = desk.models("yard-tiny-w4a16")
        (evaluation,) = desk.evaluations()
        result, kept = desk.result(job), desk.artifacts(job)
        assert (model.dtype, model.bytes < desk.original.bytes) == ("int4", True)
        assert model.source["base"]["digest"] == desk.original.digest
        assert model.source["calibration"] == str(made.calibration_id)
        assert (model.source["evaluation"], model.source["job_id"]) == (str(evaluation.id), str(job))
        assert (evaluation.model_id, evaluation.baseline_id) == (model.id, desk.original.id)
        assert evaluation.passed is True
        assert {result.result_model_id, result.evaluation_id} == {model.id, evaluation.id}
        assert result.artifact_id == kept["checkpoint"].id
        assert kept["checkpoint"].manifest == model.manifest
        assert evaluation.report_id == kept["evaluation-report.html"].id
        assert ended.gpu_seconds > 0
        with world.database.transaction() as session:
            told = [line.message for line in repository.logs(session, world.tenant, job)]
        assert any(line.startswith("quantize: ") for line in told)

        # And both were timed on engines, the new one's being warm
        figures = evaluation.figures
        assert figures["candidate"]["served"]["completion_tokens"] == 64, figures["candidate"]["not_served"]
        assert figures["baseline"]["served"]["ttft_ms"] > 0, figures["baseline"]["not_served"]
        (engine,) = [engine for engine in runner.host.engines if engine.model.digest == model.digest]
        assert engine.process is not None
        pid = engine.process.pid

        # And it answers by its alias without another start, from files that nobody fetched again
        desk.finished(chat(world, "small"))
        assert engine.process.pid == pid
        placed = runner.host.folders.models / model.digest
        assert Manifest.of_json(model.manifest).differences(placed) == []
        assert (placed / "README.md").read_text().startswith("---\nbase_model:")
        assert desk.attempts() == []

    def test_a_gate_that_is_not_met_keeps_the_evaluation_alone(self, world: World, desk: Desk) -> None:
        job = desk.quantize(evaluation=JUDGED, gate={"max_kl_divergence": 0.0})
        runner = world.runner()
        ended = desk.finished(job, State.FAILED)
        assert ended.error is not None
        assert (ended.error["code"], ended.attempt) == ("gate_not_met", 1)
        assert "kl_divergence" in ended.error["detail"]
        (evaluation,) = desk.evaluations()
        assert (evaluation.model_id, evaluation.passed, len(evaluation.failures)) == (None, False, 1)
        assert evaluation.report_id == desk.artifacts(job)["evaluation-report.html"].id
        assert desk.result(job).evaluation_id == evaluation.id
        assert desk.models("yard-tiny-fp16") == []
        assert not {"checkpoint", "model-card.md"} & set(desk.artifacts(job))
        assert desk.materialised() == {desk.original.digest}
        assert list(runner.host.engines) == []
        assert desk.attempts() == []


class TestEvaluation:
    def test_a_model_beside_itself_passes_every_gate(self, world: World, desk: Desk) -> None:
        gate = {"max_ppl_increase": 0.0, "min_agreement": 1.0, "max_kl_divergence": 1e-6}
        job = desk.submit("evaluation", baseline="yard-tiny", gate=gate, speed=False, **JUDGED)
        world.runner()
        desk.finished(job)
        (evaluation,) = desk.evaluations()
        assert (evaluation.model_id, evaluation.baseline_id) == (desk.original.id, desk.original.id)
        assert (evaluation.passed, evaluation.figures["tasks"][0]["candidate"]["agreement"]) == (True, 1.0)
        assert desk.result(job).artifact_id == desk.artifacts(job)["evaluation-report.html"].id
