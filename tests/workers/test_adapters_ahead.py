"""Adapters are served before anybody asks: real engines, a real worker, nothing done by hand."""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from services.catalog import repository as rows
from services.catalog import service as catalog
from services.catalog.register import Wish, register
from services.catalog.tree import FolderTree
from services.placement import ahead
from services.placement import service as placement
from services.placement.types import Replica
from shared.clock import monotonic
from shared.db.models import Model
from shared.ids import new_id
from shared.storage import Store
from tests.support import wait_until
from tests.support.scripted_engine import COMMAND
from tests.workers.conftest import World
from tests.workers.lora import TINY, adapter
from tests.workers.test_inference import submit

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

MISSING = [{"path": "adapter_model.safetensors", "sha256": "ab" * 32, "bytes": 2}]


class Yard:
    """One worker, and the adapters of yard-tiny."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.store = Store.of(world.settings)
        self.base = catalog.register_folder(world.database, self.store, world.tenant, name="yard-tiny", folder=TINY)

    def register(self, name: str, **shape: Any) -> Model:
        """A version that changes every answer."""
        tree = FolderTree(adapter(self.folder / name, **shape), self.store, self.world.tenant)
        wish = Wish(name, base=self.base)
        return register(self.world.database, self.store, self.world.tenant, tree, wish=wish)

    def lost(self, name: str) -> Model:
        """A version whose files the store has not."""
        row = Model(
            id=new_id(), tenant_id=self.world.tenant, name=name, kind="adapter", base_id=self.base.id,
            digest="f0" * 32, manifest=MISSING, config={"r": 4, "lora_alpha": 8}, bytes=2, parameters=1, dtype="fp32",
            context_length=128,
        )  # fmt: skip
        with self.world.database.transaction() as session:
            return rows.add(session, row)

    def delete(self, model: Model) -> None:
        with self.world.database.transaction() as session:
            catalog.delete(session, self.world.tenant, str(model.id))

    def foresee(self, model_id: UUID | None = None) -> bool:
        with self.world.database.transaction() as session:
            return ahead.foresee(session, tenant_id=self.world.tenant, model_id=model_id or self.base.id)

    def replicas(self) -> list[Replica]:
        with self.world.database.transaction() as session:
            return placement.replicas(session, digest=self.base.digest)

    def having(self, models: Sequence[Model], *, timeout: float = 20) -> Replica:
        """The engine of the base, once it has these adapters and no others."""
        wished = {model.digest for model in models}

        def found() -> Replica | None:
            return next((each for each in self.replicas() if each.adapters == wished), None)

        replica = wait_until(found, timeout=timeout, every=0.02, what=f"an engine with {len(wished)} adapters")
        assert replica is not None
        return replica

    def error_of(self, model: Model) -> Any:
        with self.world.database.transaction() as session:
            (shown,) = catalog.shown(session, [model])
        return shown.replicas.error

    def demands(self) -> int:
        with self.world.database.transaction() as session:
            return int(session.execute(text("SELECT count(*) FROM demands")).scalar_one())


def say(replica: Replica, name: str) -> str:
    """What it answers under a name, greedily."""
    transport = httpx.HTTPTransport(uds=replica.address.removeprefix("unix:"), verify=False)
    headers = {"Authorization": f"Bearer {replica.token}"}
    body = {"model": name, "prompt": "def read(path):\n", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    with httpx.Client(transport=transport, base_url="http://engine", timeout=30, headers=headers) as client:
        return str(client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"])


@pytest.fixture
def yard(world: World, tmp_path: Path) -> Yard:
    return Yard(world, tmp_path)


class TestAdapters:
    def test_come_with_their_engine_and_go_with_their_version(self, world: World, yard: Yard) -> None:
        # Given an adapter, and no engine: one is foreseen
        first = yard.register("first")
        runner = world.runner()
        wait_until(lambda: runner.claims.open)
        assert yard.foresee()
        engine = yard.having([first], timeout=40)
        wait_until(lambda: yard.demands() == 0, what="the demand is settled")
        # When more are registered, they are ready with no request
        began = monotonic()
        second, third = yard.register("second", seed=2, use_rslora=True), yard.register("third", seed=3)
        engine = yard.having([first, second, third])
        took = monotonic() - began
        assert took < 3  # 0.4 s on an idle host
        assert len({say(engine, each.digest) for each in (yard.base, first, second)}) == 3
        # One that cannot be had is told, and keeps no other one away
        lost = yard.lost("lost")
        error = wait_until(lambda: yard.error_of(lost), what="its error")
        assert error["code"] == "blob_missing"
        # One that is deleted goes
        yard.delete(third)
        engine = yard.having([first, second])
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            say(engine, third.digest)
        # And a process that comes again has them
        answer = say(engine, second.digest)
        os.kill(pid_of(world), signal.SIGKILL)
        wait_until(lambda: [each for each in yard.replicas() if each.id != engine.id], timeout=40, what="the next one")
        again = yard.having([first, second])
        assert say(again, second.digest) == answer


class TestForesee:
    def test_an_engine_in_use_stays(self, world: World, yard: Yard, tmp_path: Path) -> None:
        folder = shutil.copytree(TINY, tmp_path / "other")
        (folder / "README.md").write_text("another version")
        other = catalog.register_folder(world.database, yard.store, world.tenant, name="other", folder=folder)
        job = submit(world, [f"{number} and so on and so on" for number in range(500)], model="other")
        world.runner(
            engine="scripted",
            engine_commands={"scripted": [*COMMAND, "--token", "{token}", "--metrics", "--word-s", "0.2"]},
            engine_memory_gib=0.7,
            engine_yield_s=1,
        )

        def serving() -> list[Replica]:
            with world.database.transaction() as session:
                return placement.replicas(session, digest=other.digest)

        (engine,) = wait_until(serving, timeout=30, what="the engine of the job")
        assert yard.foresee()
        wait_until(lambda: yard.demands() == 0, timeout=10, what="nothing is wished for any more")
        assert [each.id for each in serving()] == [engine.id]
        assert yard.replicas() == []
        world.cancel(job)


def pid_of(world: World) -> int:
    with world.database.transaction() as session:
        return int(session.execute(text("SELECT pid FROM engines WHERE state = 'ready'")).scalar_one())
