"""What tests of compression jobs share: a model, jobs as the gateway would write them, and what they have left."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psutil
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.catalog import service as catalog
from services.jobs import service
from shared.contracts.jobs import JobRequest, State
from shared.db.models import Artifact, CompressionJob, Evaluation, Job, Model
from shared.storage import Store
from tests.support import wait_until
from tests.workers.conftest import World

TINY = Path(__file__).parents[2] / "infra" / "models" / "yard-tiny"
JUDGED: dict[str, Any] = {"tasks": [{"type": "text", "samples": 8, "sequence_length": 64}]}  # a second's work
FEW = {"samples": 8, "sequence_length": 64}
#: minutes of GPTQ, unless somebody stops it
LONG: dict[str, Any] = {
    "scheme": "w4a16",
    "sampling": {"samples": 1024, "sequence_length": 256},
    "evaluation": None,
}
END_S = 120.0  #: a forge takes 8 s of CPU to import its libraries, on a host that others use too


class Desk:
    """Compression jobs of a world with yard-tiny."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = Store.of(world.settings)
        self.original = catalog.register_folder(world.database, self.store, world.tenant, name="yard-tiny", folder=TINY)

    def submit(self, kind: str, **spec: Any) -> UUID:
        request = JobRequest(kind=kind, spec={"model": "yard-tiny", **spec})
        with self.world.database.transaction() as session:
            return service.submit(session, self.world.tenant, request).job.id

    def quantize(self, **spec: Any) -> UUID:
        """A quantization; unless told otherwise one that only casts, which takes the forge few imports."""
        return self.submit("quantization", **{"scheme": "fp16", "evaluation": None, **spec})

    def finished(self, job_id: UUID, state: State = State.SUCCEEDED) -> Job:
        """The job at its end, which is the expected one."""
        ends = {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED}
        wait_until(lambda: self.world.state(job_id) in ends, timeout=END_S, what="the end of the job")
        ended = self.world.get(job_id)
        assert ended.state == state, ended.error
        return ended

    def result(self, job_id: UUID) -> CompressionJob:
        with self._session() as session:
            return session.get_one(CompressionJob, job_id)

    def models(self, name: str) -> list[Model]:
        with self._session() as session:
            return list(session.scalars(select(Model).where(Model.name == name).order_by(Model.version)))

    def evaluations(self) -> list[Evaluation]:
        with self._session() as session:
            return list(session.scalars(select(Evaluation).order_by(Evaluation.id)))

    def artifacts(self, job_id: UUID) -> dict[str, Artifact]:
        with self._session() as session:
            return {row.name: row for row in artifacts.of_job(session, self.world.tenant, job_id)}

    def forge(self, job_id: UUID) -> psutil.Process:
        """The forge of a running job, once its inputs lie there."""

        def started() -> int | None:
            for path in (self.world.settings.data_dir / "worker" / "jobs" / str(job_id)).glob("*/process.json"):
                note = orjson.loads(path.read_bytes())
                if note["process"] != note["worker"]:
                    return int(note["process"]["pid"])
            return None

        pid = wait_until(started, timeout=END_S, what="a forge process")
        assert pid is not None
        return psutil.Process(pid)

    def attempts(self) -> list[Path]:
        """Folders of attempts on this host's disk."""
        return list((self.world.settings.data_dir / "worker" / "jobs").glob("*/*"))

    def materialised(self) -> set[str]:
        """Digests of the models on this host's disk, and whatever else lies there."""
        folder = self.world.settings.data_dir / "worker" / "models"
        return {path.name for path in folder.iterdir() if path.is_dir()}

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self.world.database.transaction() as session:
            yield session
