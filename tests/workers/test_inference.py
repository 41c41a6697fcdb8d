"""The `inference` kind from claim to results.jsonl, with the real engine and yard-tiny."""

import shutil
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psutil
import pytest
from sqlalchemy import text

from services.catalog import service as catalog
from services.inference import kind as inference_kind
from services.jobs import repository
from shared.contracts.inference import InferenceSpec
from shared.contracts.jobs import State
from shared.storage import Blob, Store
from tests.services.jobs import build
from tests.support import wait_until
from tests.workers.conftest import World

TINY = Path(__file__).parents[2] / "infra" / "models" / "yard-tiny"

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


@pytest.fixture
def store(world: World) -> Store:
    opened = Store.of(world.settings)
    catalog.register_folder(world.database, opened, world.tenant, name="yard-tiny", folder=TINY)
    return opened


def submit(world: World, prompts: list[str], *, gpu_class: str = "cpu", **spec: Any) -> UUID:
    """An inference job as the gateway would write it."""
    wish = InferenceSpec(prompts=prompts, **{"model": "yard-tiny", "max_tokens": 8, **spec})
    with world.database.transaction() as session:
        prepared = inference_kind.KIND.prepare(session, world.tenant, wish)
        job = build.job(
            session,
            world.tenant,
            kind="inference",
            gpu_class=gpu_class,
            queue=f"{gpu_class}.serve",
            spec=prepared.spec,
            lines=prepared.lines,
            progress_total=prepared.total,
            planned_gpu_s=prepared.planned_gpu_s,
        )
        assert prepared.extend is not None
        prepared.extend(session, job.id)
        return job.id


def results(world: World, store: Store, job_id: UUID) -> list[dict[str, Any]]:
    with world.database.transaction() as session:
        (artifact,) = repository.artifacts(session, world.tenant, [job_id])
    assert artifact.name == "results.jsonl"
    content = store.read(world.tenant, Blob(artifact.sha256, artifact.bytes))
    return [orjson.loads(line) for line in content.splitlines()]


def recorded(world: World) -> list[tuple[int, int]]:
    """(line, attempt) of every line that has a result."""
    with world.database.transaction() as session:
        rows = session.execute(
            text("SELECT line_no, attempt FROM job_items WHERE status <> 'pending' ORDER BY line_no")
        )
        return [(row.line_no, row.attempt) for row in rows]


def engine_of(world: World) -> psutil.Process:
    """The process of the one engine."""

    def find() -> psutil.Process | None:
        for note in (world.settings.data_dir / "worker" / "engines").glob("*/process.json"):
            pid = orjson.loads(note.read_bytes())["process"]["pid"]
            if psutil.pid_exists(pid):
                return psutil.Process(pid)
        return None

    found = wait_until(find, timeout=30, what="an engine process")
    assert found is not None
    return found


class TestRun:
    def test_lines_become_results_in_input_order_and_a_bad_one_fails_alone(self, world: World, store: Store) -> None:
        job = submit(world, ["def f(", "x " * 5000, "import os", "import os"])
        world.runner()
        ended = world.wait_for(job, State.SUCCEEDED, timeout=60)
        lines = results(world, store, job)
        assert [line["index"] for line in lines] == [0, 1, 2, 3]
        assert lines[0]["output"]["usage"]["completion_tokens"] == 8
        assert lines[1]["output"] is None
        assert lines[1]["error"]["code"] == "context_length_exceeded"
        assert lines[2]["output"] == lines[3]["output"]
        assert (ended.progress_done, ended.completion_tokens) == (4, 24)
        assert ended.gpu_seconds > 0

    def test_a_model_that_cannot_be_loaded_fails_its_job_for_good(
        self, world: World, store: Store, tmp_path: Path
    ) -> None:
        folder = tmp_path / "strange"
        shutil.copytree(TINY, folder)
        config = orjson.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_bytes(orjson.dumps(config | {"hidden_size": 384}))
        catalog.register_folder(world.database, store, world.tenant, name="strange", folder=folder)
        job = submit(world, ["def f("], model="strange")
        world.runner()
        ended = world.wait_for(job, State.FAILED, timeout=40)
        assert ended.error is not None
        assert (ended.error["code"], ended.attempt) == ("engine_load_failed", 1)

    def test_cancel_stops_generation(self, world: World, store: Store) -> None:
        job = submit(world, ["def f("] * 3, max_tokens=400, ignore_eos=True, temperature=0.9)
        runner = world.runner()
        world.wait_for(job, State.RUNNING)
        wait_until(lambda: any(engine.lane.in_flight for engine in runner.host.engines), timeout=40)
        world.cancel(job)
        world.wait_for(job, State.CANCELLED, timeout=10)
        (engine,) = runner.host.engines
        assert (engine.lane.in_flight, engine.lane.jobs) == (0, 0)

    def test_cancel_keeps_the_lines_that_were_answered(self, world: World, store: Store) -> None:
        job = submit(world, [f"line {number}" for number in range(200)], max_tokens=48, ignore_eos=True)
        world.runner(engine_max_in_flight=4)
        wait_until(lambda: len(recorded(world)) > 4, timeout=60, what="some lines")
        world.cancel(job)
        world.wait_for(job, State.CANCELLED, timeout=15)
        lines = results(world, store, job)
        assert 4 < len(lines) < 200
        assert [line["index"] for line in lines] == [number for number, _ in recorded(world)]


class TestRecovery:
    def test_a_dead_engine_is_restarted_and_no_line_is_lost(self, world: World, store: Store) -> None:
        job = submit(world, [f"line {number}" for number in range(40)], max_tokens=64, ignore_eos=True)
        world.runner(engine_max_in_flight=8)
        wait_until(lambda: len(recorded(world)) > 4, timeout=60, what="some lines")
        engine_of(world).kill()
        world.wait_for(job, State.SUCCEEDED, timeout=60)
        assert recorded(world) == [(number, 1) for number in range(40)]

    def test_a_killed_worker_resumes_at_the_first_unfinished_line(self, world: World, store: Store) -> None:
        job = submit(world, [f"line {number}" for number in range(60)], max_tokens=64, ignore_eos=True)
        worker = world.worker(engine_max_in_flight=4)
        wait_until(lambda: len(recorded(world)) > 4, timeout=60, what="some lines")
        engine = engine_of(world)
        worker.kill()
        worker.wait()
        before = recorded(world)
        world.runner()
        world.wait_for(job, State.SUCCEEDED, timeout=60)
        after = recorded(world)
        assert after[: len(before)] == before
        assert [line for line, _ in after] == list(range(60))
        assert {attempt for _, attempt in after} == {1, 2}
        assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


class TestHandover:
    def test_sighup_leaves_the_engine_to_the_next_worker(self, world: World, store: Store) -> None:
        first_job = submit(world, ["def f("])
        worker = world.worker()
        world.wait_for(first_job, State.SUCCEEDED, timeout=60)
        engine = engine_of(world)
        worker.send_signal(signal.SIGHUP)
        assert worker.wait(20) == 0
        assert engine.is_running()
        runner = world.runner()
        second_job = submit(world, ["def g("])
        runner.wake("cpu.serve")
        world.wait_for(second_job, State.SUCCEEDED, timeout=15)
        assert engine_of(world) == engine
        runner.drain()
        assert runner.join(20)
        assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
