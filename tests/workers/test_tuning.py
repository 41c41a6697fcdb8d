"""Tuning and merging from claim to rows: real forges, real stores, yard-tiny."""

import signal
from typing import Any
from uuid import UUID

import psutil
import pytest

from services.catalog import service as catalog
from services.jobs import repository
from services.tuning import finishing
from services.tuning.reports import COLUMNS
from shared.contracts.jobs import EventType, State
from shared.contracts.tuning import TuningFigures
from shared.db.models import Model
from shared.manifest import Manifest
from shared.storage import Blob
from tests.support import wait_until
from tests.workers.compression_desk import END_S
from tests.workers.conftest import World
from tests.workers.tuning_desk import TuningDesk, examples
from workers.runner import Runner

#: training that is not over before a test has looked at it
RUN: dict[str, Any] = {
    "validation_share": 0.2,
    "checkpoints": {"every_steps": 4, "keep": 2},
    "training": {"steps": 32, "evaluate_every": 8},
    "lora": {"rank": 4, "dropout": 0.1},
}
#: a step takes a second, on a host that others use too many
PATIENT: dict[str, Any] = {"runner_poll_s": 0.5, "drain_grace_s": 60, "cancel_term_s": 60}
WEIGHTS = "adapter_model.safetensors"

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]


@pytest.fixture
def desk(world: World) -> TuningDesk:
    return TuningDesk(world)


def logs(world: World, job_id: UUID) -> list[str]:
    with world.database.transaction() as session:
        return [line.message for line in repository.logs(session, world.tenant, job_id)]


def weights(model: Model) -> str:
    return next(entry.sha256 for entry in Manifest.of_json(model.manifest) if entry.path == WEIGHTS)


class TestTuning:
    def test_a_run_ends_the_same_whether_or_not_its_forge_is_killed(self, world: World, desk: TuningDesk) -> None:
        lines = examples()
        job = desk.tune(lines, **RUN, checkpoint_models=True, alias="answers")
        runner = world.runner(runner_poll_s=0.5)
        ended = desk.finished(job)
        assert (ended.progress_done, ended.progress_unit, ended.gpu_seconds > 0) == (32, "steps", True)
        model = check_version(desk, job, runner)
        check_results(desk, job, model)
        check_figures(desk, job)
        check_checkpoints(desk, job)

        # When the same is trained again, and its forge killed in the middle
        again = desk.tune(lines, **RUN, name="again")
        forge = desk.forge(again)
        wait_until(lambda: desk.checkpoints(again), timeout=END_S, what="a checkpoint")
        forge.send_signal(signal.SIGKILL)
        ended = desk.finished(again)

        # Then it went on from the checkpoint, at once, and ends as if nothing had happened
        assert (ended.attempt, ended.failure_count, ended.lost_count) == (2, 0, 1)
        (retried,) = desk.events(again, EventType.RETRYING)
        assert (retried["error"]["code"], retried["outcome"]) == ("forge_killed", "lost")
        assert any(line.startswith("goes on after step") for line in logs(world, again))
        (same,) = desk.models("again")
        assert weights(same) == weights(model)
        losses, others = ([each["loss"] for each in desk.metrics(which).values()] for which in (job, again))
        assert losses == others

        # And the adapter becomes a whole model
        merge = desk.submit("merge", model="answers")
        desk.finished(merge)
        (merged,) = desk.models("tuned-merged")
        assert (merged.kind, merged.parameters) == ("base", desk.original.parameters)
        assert (merged.source["type"], merged.source["adapter"]["digest"]) == ("merge", model.digest)
        assert merged.source["base"]["digest"] == desk.original.digest
        assert desk.tuning(merge).result_model_id == merged.id
        assert desk.tuning(merge).artifact_id == desk.artifacts(merge)["model"].id
        assert Manifest.of_json(merged.manifest).differences(runner.host.folders.models / merged.digest) == []
        assert desk.attempts() == []


def check_version(desk: TuningDesk, job: UUID, runner: Runner) -> Model:
    """A version that says where it is from, and lies where engines look for it."""
    (model,) = desk.models("tuned")
    figures = TuningFigures.model_validate(desk.tuning(job).figures)
    assert (model.kind, model.base_id, model.source["type"]) == ("adapter", desk.original.id, "tuning")
    assert model.source["base"]["digest"] == desk.original.digest
    assert (model.source["method"], model.source["serve"]) == ("lora", False)
    assert model.source["data_sha256"] == figures.data.sha256
    assert Manifest.of_json(model.manifest).differences(runner.host.folders.models / model.digest) == []
    with desk.world.database.transaction() as session:
        assert catalog.get(session, desk.world.tenant, "answers").id == model.id
    return model


def check_results(desk: TuningDesk, job: UUID, model: Model) -> None:
    """What the job has left, and what it names of that."""
    kept, row = desk.artifacts(job), desk.tuning(job)
    expected = {"tuning-report.html", "model", "model-card.md", "data-report.json", "metrics.csv", "loss.png"}
    assert expected <= set(kept)
    assert (row.result_model_id, row.artifact_id) == (model.id, kept["model"].id)
    assert row.figures is not None
    assert row.trained_tokens == row.figures["tokens"]
    assert row.result_file_id is not None
    file = desk.file(row.result_file_id)
    assert (file.filename, file.purpose) == (finishing.RESULT_FILE, "fine-tune-results")
    table = desk.store.read(desk.world.tenant, Blob(file.sha256, file.bytes)).decode().splitlines()
    assert (table[0], len(table)) == (f"step,{','.join(COLUMNS)}", 33)


def check_figures(desk: TuningDesk, job: UUID) -> None:
    """Figures of every step, with those of the evaluation; events tell of some, and of the last."""
    rows = desk.metrics(job)
    assert list(rows) == list(range(1, 33))
    assert rows[32]["loss"] < rows[1]["loss"]
    assert [step for step, values in rows.items() if "validation_loss" in values] == [8, 16, 24, 32]
    told = desk.events(job, EventType.METRICS)
    assert told[-1] == {"step": 32, "values": rows[32]}


def check_checkpoints(desk: TuningDesk, job: UUID) -> None:
    """The newest two and the best one, each of them a model; those of the others are gone."""
    checkpoints, rows = desk.checkpoints(job), desk.metrics(job)
    best = next(each for each in reversed(checkpoints) if each.best)
    assert {each.step for each in checkpoints} == {28, 32, best.step}
    assert best.metrics["validation_loss"] == min(each.get("validation_loss", 9.0) for each in rows.values())
    for each in checkpoints:
        (version,) = desk.models(f"tuned:ckpt-step-{each.step}")
        assert (version.id, version.deleted_at, version.base_id) == (each.model_id, None, desk.original.id)
    (early,) = desk.models("tuned:ckpt-step-4")
    assert early.deleted_at is not None


def without_memory(forge: psutil.Process) -> None:
    """Let a running process have no more memory than it uses now."""
    held = min(forge.memory_info().vms for _ in range(200))
    forge.rlimit(psutil.RLIMIT_AS, (held, held))


class TestStops:
    def test_a_pause_a_lack_of_memory_and_a_cancel_lose_nothing(self, world: World, desk: TuningDesk) -> None:
        words = " ".join(f"word{number}" for number in range(60))
        training = {"steps": 5000, "batch_size": 32, "micro_batch_size": 32, "max_length": 128, "too_long": "truncate"}
        lines = [{"text": f"{number} {words}"} for number in range(64)]
        job = desk.tune(lines, training=training, checkpoints={"every_minutes": 60})
        first = world.runner(**PATIENT)
        wait_until(lambda: len(desk.metrics(job)) > 1, timeout=END_S, what="some steps")
        world.hold(job)
        world.wait_for(job, State.QUEUED, timeout=60)
        (paused,) = desk.checkpoints(job)
        assert list(desk.metrics(job)) == list(range(1, paused.step + 1))
        first.drain()
        assert first.join(20)

        # Another worker goes on there
        world.runner(**PATIENT)
        world.resume(job)
        wait_until(lambda: max(desk.metrics(job)) > paused.step, timeout=END_S, what="it goes on")
        goes_on = f"goes on after step {paused.step} of 5000"
        assert logs(world, job).count(goes_on) == 1

        # With less, when its memory is at an end, in the same attempt
        without_memory(desk.forge(job))
        (adjusted,) = wait_until(lambda: desk.events(job, EventType.ADJUSTED), timeout=END_S, what="it says so")
        assert adjusted["relief"]["halvings"] == desk.tuning(job).relief["halvings"] == 1
        assert adjusted["reason"].startswith("ran out of memory at step ")
        assert adjusted["reason"].endswith(": goes on with half the micro-batch (16)")
        assert adjusted["reason"] in logs(world, job)
        wait_until(lambda: logs(world, job).count(goes_on) == 2, timeout=END_S, what="it goes on again")
        told = len(desk.events(job, EventType.METRICS))
        wait_until(lambda: len(desk.events(job, EventType.METRICS)) > told, timeout=END_S, what="steps")

        # And a cancel keeps what there is
        world.cancel(job)
        world.wait_for(job, State.CANCELLED, timeout=60)
        *_, last = desk.checkpoints(job)
        assert (last.attempt, last.step > paused.step) == (2, True)
        assert max(desk.metrics(job)) >= last.step
        assert desk.models("tuned") == []
        assert desk.artifacts(job) == {}
