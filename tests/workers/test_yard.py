"""A worker's engines, real ones: adapters, modes, TCP, tensor parallelism, and who outlives whom."""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest

from services.catalog import service as catalog
from services.catalog.service import Wish
from services.catalog.tree import FolderTree
from services.workers import service as workers
from shared.contracts.jobs import State
from shared.contracts.serving import Serving
from shared.db.models import Model
from shared.storage import Store
from tests.services.imports import build
from tests.support import wait_until
from tests.workers.conftest import World
from tests.workers.engine_yard import SERVER
from tests.workers.test_demands import demands, replicas, want
from tests.workers.test_inference import TINY, engine_of, recorded, submit

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


def register(world: World, name: str, folder: Path = TINY, **wish: Any) -> Model:
    store = Store.of(world.settings)
    return catalog.register(
        world.database, store, world.tenant, FolderTree(folder, store, world.tenant), wish=Wish(name, **wish)
    )


def met(world: World, model_id: UUID) -> None:
    """Want a model that nobody serves until it is served."""
    want(world, model_id)
    wait_until(lambda: demands(world) == 0, timeout=60, what="the demand is settled")


def family(pid: int) -> list[psutil.Process]:
    """A process with all that came of it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


class TestOneProcess:
    def test_generates_embeds_and_serves_adapters_over_tcp_to_those_with_its_token(
        self, world: World, tmp_path: Path
    ) -> None:
        base = register(world, "yard-tiny")
        adapters = [build.adapter(tmp_path / name, rank=rank) for name, rank in (("a", 2), ("b", 4))]
        bots = [register(world, folder.name, folder, base=base) for folder in adapters]
        world.runner(engine_bind="127.0.0.1")
        met(world, bots[0].id)
        both = {bot.digest for bot in bots}  # the second one is loaded before anybody asks for it
        wait_until(lambda: [each.adapters for each in replicas(world)] == [both], timeout=30, what="both are served")
        (replica,) = replicas(world)
        assert replica.digest == base.digest
        assert set(replica.modes) == {"generate", "embed"}
        assert replica.address.startswith("http://127.0.0.1:")
        headers = {"Authorization": f"Bearer {replica.token}"}
        with httpx.Client(base_url=replica.address, timeout=30) as client:
            assert client.get("/stats").status_code == 401
            body = {"model": bots[0].digest, "prompt": "def f(", "max_tokens": 4}
            assert client.post("/v1/completions", json=body, headers=headers).status_code == 200
            body = {"model": base.digest, "input": "def f("}
            assert client.post("/v1/embeddings", json=body, headers=headers).status_code == 200

    def test_runs_a_job_with_an_adapter(self, world: World, tmp_path: Path) -> None:
        base = register(world, "yard-tiny")
        register(world, "bot", build.adapter(tmp_path / "bot"), base=base)
        job = submit(world, ["def f("], model="bot")
        world.runner()
        world.wait_for(job, State.SUCCEEDED, timeout=60)


class TestTensorParallel:
    def test_no_rank_outlives_a_killed_worker(self, world: World) -> None:
        model = register(world, "yard-tiny", serving=Serving(tensor_parallel=2))
        worker = world.worker()
        want(world, model.id)
        (replica,) = wait_until(lambda: replicas(world), timeout=90, what="a replica")
        with world.database.transaction() as session:
            (row,) = workers.engines(session)
        assert row.tensor_parallel == 2
        ranks = family(row.pid)
        assert len(ranks) >= 2
        worker.kill()
        worker.wait()
        wait_until(lambda: gone(ranks), timeout=3, what="every rank is gone")
        assert replica.id == row.id


class TestHandover:
    def test_the_next_worker_adopts_every_engine_with_its_adapters(self, world: World, tmp_path: Path) -> None:
        base = register(world, "yard-tiny")
        other = shutil.copytree(TINY, tmp_path / "other")
        (other / "README.md").write_text("another version")
        second = register(world, "other", other)
        bot = register(world, "bot", build.adapter(tmp_path / "bot"), base=base)
        worker = world.worker()
        met(world, bot.id)
        met(world, second.id)
        before = {replica.id: replica.adapters for replica in replicas(world)}
        worker.send_signal(signal.SIGHUP)
        assert worker.wait(20) == 0
        assert replicas(world) == []
        runner = world.runner()
        wait_until(lambda: len(replicas(world)) == 2, timeout=20, what="both are adopted")
        assert {replica.id: replica.adapters for replica in replicas(world)} == before
        engines = [
            process for engine in runner.host.engines if engine.process for process in family(engine.process.pid)
        ]
        runner.drain()
        assert runner.join(30)
        assert gone(engines)

    def test_and_one_in_a_guard(self, world: World) -> None:
        model = register(world, "yard-tiny")
        third = {"engine": "scripted", "engine_commands": {"scripted": SERVER}}
        worker = world.worker(**third)
        met(world, model.id)
        (before,) = replicas(world)
        worker.send_signal(signal.SIGHUP)
        assert worker.wait(20) == 0
        runner = world.runner(**third)
        (after,) = wait_until(lambda: replicas(world), timeout=20, what="it is adopted")
        assert (after.id, after.kind) == (before.id, "scripted")
        (engine,) = runner.host.engines
        assert engine.process is not None
        processes = family(engine.process.pid)
        assert len(processes) >= 2
        runner.drain()
        assert runner.join(30)
        assert gone(processes)


class TestDeath:
    def test_a_job_goes_on_after_its_engine_hung(self, world: World) -> None:
        register(world, "yard-tiny")
        job = submit(world, [f"line {number}" for number in range(40)], max_tokens=64, ignore_eos=True)
        world.runner(engine_silent_s=3, engine_max_in_flight=8)
        wait_until(lambda: len(recorded(world)) > 4, timeout=60, what="some lines")
        engine_of(world).suspend()
        world.wait_for(job, State.SUCCEEDED, timeout=90)
        assert recorded(world) == [(number, 1) for number in range(40)]

    def test_an_engine_that_callers_used_comes_back_within_seconds(self, world: World) -> None:
        model = register(world, "yard-tiny")
        runner = world.runner()
        met(world, model.id)
        (before,) = replicas(world)
        (engine,) = runner.host.engines
        assert engine.process is not None
        os.kill(engine.process.pid, signal.SIGKILL)
        wait_until(lambda: before.id not in {each.id for each in replicas(world)}, timeout=5, what="the row is gone")
        want(world, model.id)
        (after,) = wait_until(lambda: replicas(world), timeout=60, what="another engine")
        assert after.id != before.id


class TestForge:
    def test_gets_the_device_of_an_engine_in_use_and_the_job_goes_on_afterwards(self, world: World) -> None:
        register(world, "yard-tiny")
        words = " ".join(["word"] * 10)
        job = submit(world, [f"{number} {words}" for number in range(100)], gpu_class="l40s")
        world.runner(
            gpu_class="l40s",
            engine="scripted",
            engine_commands={"scripted": [*SERVER, "--word-s", "0.05"]},
            engine_max_in_flight=2,
            engine_yield_s=1,
            runner_poll_s=2,
        )
        wait_until(lambda: len(recorded(world)) > 4, timeout=60, what="some lines")
        forge = world.job(gpu_class="l40s", queue="l40s.forge", spec={"pool": "forge", "steps": 2})
        world.wait_for(forge, State.SUCCEEDED, timeout=60)
        assert world.state(job) == State.RUNNING
        world.wait_for(job, State.SUCCEEDED, timeout=120)
        assert [line for line, _ in recorded(world)] == list(range(100))
