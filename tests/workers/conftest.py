"""A worker's world: a tenant, jobs, and runners of this process or workers of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from services.jobs import lifecycle, repository
from shared.contracts.jobs import State
from shared.db.models import Job
from shared.db.session import Database
from shared.settings import Settings
from shared.storage import Store
from tests.services.jobs import build
from tests.support import wait_until
from tests.support.configured import configured, environment
from workers.runner import Runner
from workers.runtime.folders import Folders

SERVE, FORGE = "cpu.serve", "cpu.forge"
QUICK = {
    "heartbeat_s": 0.2,
    "runner_poll_s": 5,
    "retry_base_s": 0.1,
    "cancel_term_s": 5,
    "drain_grace_s": 5,
    "engine_spares": 0,  # each costs 4 s of CPU
}


@dataclass
class World:
    """Jobs of one tenant, and what runs them."""

    settings: Settings
    database: Database
    tenant: UUID
    runners: list[Runner] = field(default_factory=list)
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def job(self, **fields: Any) -> UUID:
        with self.database.transaction() as session:
            return build.job(session, self.tenant, **fields).id

    def jobs(self, count: int, **fields: Any) -> list[UUID]:
        with self.database.transaction() as session:
            return [build.job(session, self.tenant, **fields).id for _ in range(count)]

    def forge_job(self, **spec: Any) -> UUID:
        return self.job(queue=FORGE, spec={"pool": "forge", **spec})

    def get(self, job_id: UUID) -> Job:
        with self.database.transaction() as session:
            found = repository.get(session, self.tenant, job_id)
            assert found is not None
            return found

    def state(self, job_id: UUID) -> str:
        return self.get(job_id).state

    def count(self, state: State) -> int:
        with self.database.transaction() as session:
            statement = text("SELECT count(*) FROM jobs WHERE state = :state")
            return int(session.execute(statement, {"state": state}).scalar_one())

    def wait_for(self, job_id: UUID, state: State, *, timeout: float = 15) -> Job:
        wait_until(lambda: self.state(job_id) == state, timeout=timeout, what=f"job is {state}")
        return self.get(job_id)

    def cancel(self, job_id: UUID) -> None:
        with self.database.transaction() as session:
            lifecycle.cancel(session, self.tenant, job_id, reason="test")

    def hold(self, job_id: UUID) -> None:
        with self.database.transaction() as session:
            lifecycle.hold(session, self.tenant, job_id)

    def resume(self, job_id: UUID) -> None:
        with self.database.transaction() as session:
            lifecycle.resume(session, self.tenant, job_id)

    def execute(self, statement: str, **values: Any) -> None:
        with self.database.transaction() as session:
            session.execute(text(statement), values)

    def runner(self, **overrides: Any) -> Runner:
        """A runner in this process, started."""
        started = Runner(self.settings.model_copy(update=overrides))
        started.start()
        self.runners.append(started)
        return started

    def worker(self, **overrides: Any) -> "subprocess.Popen[bytes]":
        """A worker process."""
        given = {**os.environ, **environment(self.settings, **overrides)}
        log = (self.settings.data_dir / "worker.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.app"], env=given, stdout=log, stderr=log, start_new_session=True
            )
        self.workers.append(process)
        return process

    def stop(self) -> None:
        for runner in self.runners:
            runner.drain()
        for process in self.workers:
            process.kill()
            process.wait()
        for runner in self.runners:
            assert runner.join(20), "a runner did not end"


@pytest.fixture
def world(settings: Settings, database: Database, tmp_path: Path) -> Iterator[World]:
    with configured(settings, **QUICK) as quick:
        Store.of(settings).probe()
        with database.transaction() as session:
            tenant = build.tenant(session)
        world = World(quick, database, tenant)
        try:
            yield world
        finally:
            world.stop()
            shutil.rmtree(Folders.of(quick).run)
