"""Document sets from submit to recorded results, with a worker whose engine's answers are known."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import orjson
from sqlalchemy import select

from services.catalog import service as catalog
from services.files import service as files
from services.jobs import repository
from services.jobs import service as jobs
from shared.contracts.documents import DocumentResult
from shared.contracts.jobs import JobRequest, State
from shared.db.models import JobItem
from shared.storage import Store
from tests.support import wait_until
from tests.support.scripted_engine import COMMAND
from tests.workers.conftest import World
from tests.workers.test_inference import TINY
from workers.documents.chunks import Chunker
from workers.runner import Runner

COMPANY = {"type": "object", "properties": {"company": {"type": "string"}}}
EACH_PAGE = {"tokens": 64, "overlap": 0}


def open_desk(world: World, folder: Path) -> "Desk":
    """A desk with the model `reader`: yard-tiny, but for a context that holds a whole report. Nobody loads it."""
    model = folder / "reader"
    shutil.copytree(TINY, model)
    config = orjson.loads((model / "config.json").read_bytes())
    (model / "config.json").write_bytes(orjson.dumps(config | {"max_position_embeddings": 32_768}))
    store = Store.of(world.settings)
    catalog.register_folder(world.database, store, world.tenant, name="reader", folder=model)
    return Desk(world, store, folder / "script.json")


class Desk:
    """Submits sets to a worker with a scripted engine, and reads what became of them."""

    def __init__(self, world: World, store: Store, script: Path) -> None:
        self.world = world
        self.store = store
        self._script = script

    def upload(self, named: Mapping[str, bytes]) -> list[str]:
        """Ids of uploaded documents."""
        found = []
        for name, content in named.items():
            with self.world.database.transaction() as session:
                session.rollback()
                row = files.create(
                    session, self.store, self.world.tenant, filename=name, purpose="document", chunks=[content]
                )
                found.append(files.public_id(row))
        return found

    def submit(self, named: Mapping[str, bytes], operation: dict[str, Any], **spec: Any) -> UUID:
        """A document set; its id."""
        given = {"model": "reader", "files": self.upload(named), "operation": operation, "max_tokens": 256, **spec}
        request = JobRequest(kind="document_set", spec=given, gpu_class="cpu")
        with self.world.database.transaction() as session:
            return jobs.submit(session, self.world.tenant, request).job.id

    def start(self, *rules: dict[str, Any], **changes: Any) -> Runner:
        """A worker whose engine answers by these rules."""
        script = {name: changes.pop(name) for name in ("word_s", "answer") if name in changes}
        self._script.write_bytes(orjson.dumps({"rules": list(rules), **script}))
        line = [*COMMAND, "--token", "{token}", "--script", str(self._script)]
        return self.world.runner(engine="scripted", engine_commands={"scripted": line}, **changes)

    def items(self, set_id: UUID) -> list[JobItem]:
        """The documents of a set, in the order of the request."""
        with self.world.database.transaction() as session:
            parts = repository.page(session, self.world.tenant, limit=100, parent_id=set_id)
            query = select(JobItem).where(JobItem.job_id.in_([part.id for part in parts])).order_by(JobItem.line_no)
            return list(session.scalars(query))

    def children(self, set_id: UUID) -> list[State]:
        """States of the jobs that read the set."""
        with self.world.database.transaction() as session:
            parts = repository.page(session, self.world.tenant, limit=100, parent_id=set_id)
            return [State(part.state) for part in parts]

    def recorded(self, set_id: UUID) -> list[JobItem]:
        return [item for item in self.items(set_id) if item.status != "pending"]

    def finished(self, set_id: UUID, *, timeout: float = 60) -> list[JobItem]:
        """Its documents, when all children have ended well."""
        wait_until(lambda: all(state.terminal for state in self.children(set_id)), timeout=timeout, what="the set ends")
        assert set(self.children(set_id)) == {State.SUCCEEDED}
        return self.items(set_id)

    def results(self, set_id: UUID) -> list[DocumentResult]:
        """Its results, when all children have ended well and no document failed."""
        items = self.finished(set_id)
        assert [item.error for item in items] == [None] * len(items)
        return [DocumentResult.model_validate(item.output) for item in items]

    def asked(self, runner: Runner) -> list[dict[str, Any]]:
        """The bodies that its engine was asked to answer."""
        (engine,) = runner.host.engines
        assert engine.process is not None
        transport = httpx.HTTPTransport(uds=engine.process.address.removeprefix("unix:"))
        with httpx.Client(transport=transport, base_url="http://engine") as client:
            found: list[dict[str, Any]] = client.get("/asked").json()["data"]
            return found


def cell(value: Any, quote: str | None, page: int | None = 1) -> dict[str, Any]:
    return {"value": value, "page": page, "quote": quote}


def answer(**cells: Any) -> str:
    return json.dumps(cells)


def extract(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "extract", "schema": schema}


def pages(*texts: str) -> bytes:
    """A text of several pages, each of which fills the smallest chunk."""
    count, filled = Chunker(TINY / "tokenizer.json").count, []
    for text in texts:
        said = text
        while count(f"{said} later.") < EACH_PAGE["tokens"] - 3:
            said += " later"
        filled.append(f"{said}.")
    return "\f".join(filled).encode()
