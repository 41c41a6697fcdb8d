"""Engines of a gateway's tests: scripted servers on sockets of their own, with the rows that a worker would write."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from uuid import UUID

import httpx
from openai import OpenAI
from sqlalchemy import select, text

from services.placement.types import Demand
from services.workers import service as workers
from services.workers.types import Slots
from shared.contracts.engine import EngineConfig
from shared.contracts.jobs import Pool
from shared.contracts.serving import Mode
from shared.db.models import Demand as Wanted
from shared.db.models import Engine
from shared.ids import new_id
from tests.gateway.conftest import Gateway
from tests.services.inference import build
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
SCRIPTED = ROOT / "tests" / "support" / "scripted_engine.py"
TINY = ROOT / "infra" / "models" / "yard-tiny"


@dataclass
class Scripted:
    """One engine process."""

    process: "subprocess.Popen[bytes]"
    client: httpx.Client
    id: UUID = field(default_factory=new_id)

    def script(self, **ways: Any) -> None:
        self.client.post("/script", json=ways).raise_for_status()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def running(self) -> int:
        told = self.client.get("/metrics").text
        return int(float(next(line for line in told.splitlines() if "num_requests_running{" in line).split()[-1]))


@dataclass
class Placed:
    """A model of a tenant of its own, and the engines that serve it."""

    gateway: Gateway
    folder: Path
    tenant: UUID
    model: UUID
    digest: str
    worker: UUID
    name: str
    engines: list[Scripted] = field(default_factory=list)
    clients: list[OpenAI] = field(default_factory=list)

    def start(self, *also: str, **options: Any) -> Scripted:
        """One more engine, ready and known: a scripted one, which answers to `also` too."""
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        uds = self._socket()
        named = [word for name in (self.digest, *also) for word in ("--name", name)]
        return self._known(uds, [SCRIPTED, "--uds", uds, *named, "--metrics", *flags])

    def start_tiny(self, **options: Any) -> Scripted:
        """One more engine, ready and known: our own, on yard-tiny."""
        uds = self._socket()
        fields = {"engine_id": "test", "model_path": TINY, "models": (self.digest,), "uds": uds, "threads": 1}
        config = self.folder / "engine.json"
        config.write_text(EngineConfig.model_validate({**fields, **options}).model_dump_json())
        return self._known(uds, ["-m", "workers.engine", config])

    def adapter(self, name: str) -> str:
        """One more model of the tenant: an adapter of this one, on no engine; its digest."""
        digest = sha256(name.encode()).hexdigest()
        with self.gateway.database.transaction() as session:
            build.model(session, self.tenant, name=name, digest=digest, kind="adapter", base_id=self.model)
        return digest

    def load(self, engine: Scripted, adapter: str) -> None:
        """The worker has loaded an adapter."""
        with self.gateway.database.transaction() as session:
            session.get_one(Engine, engine.id).adapters = [adapter]
            session.execute(text("SELECT pg_notify('engines', :digest)"), {"digest": self.digest})

    def _socket(self) -> Path:
        return self.folder / f"{len(self.engines)}.sock"

    def _known(self, uds: Path, command: list[object]) -> Scripted:
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT)
        client = httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url="http://engine", timeout=20)
        engine = Scripted(process, client)
        self.engines.append(engine)

        def ready() -> bool:
            try:
                return uds.exists() and client.get("/health").status_code == 200
            except httpx.ConnectError:  # bound, and not listening yet
                return False

        wait_until(ready, timeout=110, what="the engine serves")
        with self.gateway.database.transaction() as session:
            session.add(
                Engine(
                    id=engine.id,
                    worker_id=self.worker,
                    model_digest=self.digest,
                    kind="scripted",
                    address=f"unix:{uds}",
                    devices=[0],
                    modes=["generate", "embed"],
                    state="ready",
                    max_in_flight=64,
                    pid=process.pid,
                )
            )
            session.flush()
            session.execute(text("SELECT pg_notify('engines', :digest)"), {"digest": self.digest})
        return engine

    def demand(self) -> Demand | None:
        """What the gateway said that it wants."""
        with self.gateway.database.transaction() as session:
            row = session.scalar(select(Wanted).where(Wanted.model_id == self.model))
        return None if row is None else Demand(self.tenant, self.model, Mode(row.mode), row.queue, row.devices)

    def openai(self, **options: Any) -> OpenAI:
        """OpenAI's own client, with a key of the tenant."""
        key = self.gateway.key(tenant=self.tenant)
        client = OpenAI(base_url=f"{self.gateway.url}/v1", api_key=key, max_retries=0, **options)
        self.clients.append(client)
        return client

    def http(self, *scopes: str) -> httpx.Client:
        return self.gateway.caller(*scopes, tenant=self.tenant)

    def job(self, job_id: str) -> dict[str, Any]:
        """The call's job once it has ended."""
        with self.http() as client:
            found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}", params={"wait": 10}).raise_for_status().json()
        return found

    def jobs(self) -> list[dict[str, Any]]:
        with self.http() as client:
            found: list[dict[str, Any]] = client.get("/v1/jobs", params={"kind": "call"}).json()["data"]
        return found

    def chat(self, words: str = "one two three", **extra: Any) -> dict[str, Any]:
        """The body of a chat."""
        return {"model": self.name, "messages": [{"role": "user", "content": words}], **extra}


@contextmanager
def placed(gateway: Gateway, *, engines: int = 1, **fields: Any) -> Iterator[Placed]:
    """A model with so many engines. Their sockets lie in a folder with a short name: 108 bytes is all they get."""
    tenant, name = gateway.tenant(), f"model-{new_id().hex[-8:]}"
    digest = sha256(name.encode()).hexdigest()
    boot = workers.describe("cpu", pools=[Pool.SERVE], devices=[0], slots={Pool.SERVE: Slots(0, 1)})
    with gateway.database.transaction() as session:
        model = build.model(session, tenant, **{"name": name, "digest": digest, "context_length": 2048, **fields}).id
        workers.register(session, boot)
    folder = Path(mkdtemp(prefix="engines"))
    world = Placed(gateway, folder, tenant, model, digest, boot.id, name)
    try:
        for _ in range(engines):
            world.start()
        yield world
    finally:
        with gateway.database.transaction() as session:
            workers.stop(session, boot.id)
        for engine in world.engines:
            engine.process.kill()
            engine.process.wait()
            engine.client.close()
        for client in world.clients:
            client.close()
        rmtree(folder)
