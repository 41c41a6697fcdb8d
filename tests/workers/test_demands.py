"""Demands: a caller waits for a model, a worker starts its engine, and the row says where it is."""

import shutil
from pathlib import Path
from typing import ClassVar
from uuid import UUID

import httpx
import psutil
import pytest
from sqlalchemy import text

from services.catalog import service as catalog
from services.placement import service as placement
from services.placement.types import Replica
from shared.clock import monotonic
from shared.contracts.jobs import JobError
from shared.contracts.serving import Mode
from shared.storage import Store
from tests.support import wait_until
from tests.support.scripted_engine import COMMAND
from tests.workers.conftest import SERVE, World
from tests.workers.test_inference import TINY, engine_of, submit

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


@pytest.fixture
def model_id(world: World) -> UUID:
    catalog.register_folder(world.database, Store.of(world.settings), world.tenant, name="yard-tiny", folder=TINY)
    with world.database.transaction() as session:
        return catalog.get(session, world.tenant, "yard-tiny").id


def want(world: World, model_id: UUID, *, mode: Mode = Mode.GENERATE) -> JobError | None:
    with world.database.transaction() as session:
        return placement.want(session, tenant_id=world.tenant, model_id=model_id, mode=mode, queue=SERVE)


def replicas(world: World) -> list[Replica]:
    with world.database.transaction() as session:
        return placement.replicas(session)


def demands(world: World) -> int:
    with world.database.transaction() as session:
        return int(session.execute(text("SELECT count(*) FROM demands")).scalar_one())


class TestDemand:
    def test_a_model_that_is_wanted_gets_an_engine_that_anybody_with_its_token_can_ask(
        self, world: World, model_id: UUID
    ) -> None:
        runner = world.runner()
        wait_until(lambda: runner.claims.open)
        assert want(world, model_id) is None
        (replica,) = wait_until(lambda: replicas(world), timeout=40, what="a replica")
        wait_until(lambda: demands(world) == 0, what="the demand is settled")
        assert replica.address.startswith("unix:/")
        assert replica.max_in_flight == world.settings.engine_max_in_flight + world.settings.engine_headroom
        transport = httpx.HTTPTransport(uds=replica.address.removeprefix("unix:"))
        body = {"model": replica.digest, "prompt": "def f(", "max_tokens": 4}
        with httpx.Client(transport=transport, base_url="http://engine", timeout=30) as client:
            assert client.post("/v1/completions", json=body).status_code == 401
            headers = {"Authorization": f"Bearer {replica.token}"}
            answer = client.post("/v1/completions", json=body, headers=headers).raise_for_status().json()
        assert answer["usage"]["completion_tokens"] == 4
        wait_until(lambda: replicas(world)[0].stats["tokens_generated"] >= 4, what="its figures")
        assert {"running", "waiting", "kv_used", "memory_bytes", "restarts", "load_s"} <= set(replicas(world)[0].stats)

    def test_a_model_that_fits_no_device_is_refused_with_advice(self, world: World, model_id: UUID) -> None:
        world.runner(engine_memory_gib=0.1)
        error = wait_until(lambda: want(world, model_id), timeout=20, every=0.2, what="a refusal")
        assert error.code == "engine_out_of_memory"
        assert "GiB" in (error.detail or "")
        assert not error.retryable

    def test_a_worker_without_the_kind_of_engine_says_so(self, world: World, model_id: UUID) -> None:
        world.runner(engine="llama-box")
        error = wait_until(lambda: want(world, model_id), timeout=20, every=0.2, what="a refusal")
        assert error.code == "engine_unavailable"
        assert "llama-box" in error.title


class TestThirdEngine:
    COMMANDS: ClassVar = {"scripted": [*COMMAND, "--token", "{token}", "--metrics", "--word-s", "0.2"]}

    def test_a_mode_that_it_does_not_serve_is_refused(self, world: World, model_id: UUID) -> None:
        world.runner(engine="scripted", engine_commands=self.COMMANDS)
        error = wait_until(lambda: want(world, model_id, mode=Mode.EMBED), timeout=30, every=0.2, what="a refusal")
        assert error.code == "engine_unavailable"
        assert "embed" in error.title

    def test_callers_wait_only_so_long_for_devices_that_are_all_in_use(
        self, world: World, model_id: UUID, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(TINY, tmp_path / "other")
        (folder / "README.md").write_text("another version")
        store = Store.of(world.settings)
        other = catalog.register_folder(world.database, store, world.tenant, name="other", folder=folder)
        job = submit(world, [f"{number} and so on and so on" for number in range(500)], model="other")
        world.runner(engine="scripted", engine_commands=self.COMMANDS, engine_memory_gib=0.7, place_wait_s=1)
        wait_until(lambda: other.digest in {each.digest for each in replicas(world)}, timeout=30, what="the first")
        error = wait_until(lambda: want(world, model_id), timeout=20, every=0.2, what="a refusal")
        assert (error.code, error.retryable) == ("engine_unavailable", True)
        world.cancel(job)


class TestSpare:
    def test_a_small_model_answers_within_seconds_and_the_spare_is_replaced(self, world: World, model_id: UUID) -> None:
        world.runner(engine_spares=1)
        spare = rested(wait_until(spares, timeout=30, what="a spare")[0])
        began = monotonic()
        want(world, model_id)
        (replica,) = wait_until(lambda: replicas(world), timeout=40, what="a replica")
        transport = httpx.HTTPTransport(uds=replica.address.removeprefix("unix:"))
        headers = {"Authorization": f"Bearer {replica.token}"}
        body = {"model": replica.digest, "prompt": "def f(", "max_tokens": 1}
        with httpx.Client(transport=transport, base_url="http://engine", timeout=30, headers=headers) as client:
            client.post("/v1/completions", json=body).raise_for_status()
        took = monotonic() - began
        assert took < 6  # 0.6 s on an idle host; 5 s without a spare
        assert engine_of(world).pid == spare.pid
        wait_until(lambda: [each for each in spares() if each.pid != spare.pid], timeout=30, what="the next spare")


def spares() -> list[psutil.Process]:
    """Spare processes of this process's runner, the one that became an engine included."""
    return [child for child in psutil.Process().children() if "--spare" in child.cmdline()]


def rested(process: psutil.Process) -> psutil.Process:
    """Wait until a process has done what it does on its own."""
    spent = [-1.0]

    def idle() -> bool:
        now = sum(process.cpu_times()[:2])
        spent.append(now)
        return now > 1 and now == spent[-2]

    wait_until(idle, timeout=60, every=0.5, what="the spare waits")
    return process
