"""What tests of tuning share: yard-tiny, a small task, jobs as the gateway writes them, and what they have left."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import select

from services.files import service as files
from services.files.service import Purpose, Wish
from shared.contracts.jobs import EventType
from shared.db.models import Checkpoint, File, JobEvent, JobMetric, TuningJob
from tests.workers.compression_desk import Desk

WORDS = ("apple", "river", "stone", "cloud", "candle", "mirror", "garden", "window")
#: a second of training, on a host that others use too
SHORT: dict[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "micro_batch_size": 2,
    "learning_rate": 5e-3,
    "max_length": 64,
    "compile": False,
}


def examples(count: int = 48) -> list[dict[str, Any]]:
    """Chats whose answers have a form of their own."""
    asked = [f"{WORDS[index % len(WORDS)]} {index}" for index in range(count)]
    return [
        {"messages": [{"role": "user", "content": each}, {"role": "assistant", "content": f"<<{each.upper()}>>"}]}
        for each in asked
    ]


class TuningDesk(Desk):
    """Tunings of a world with yard-tiny."""

    def upload(self, lines: Sequence[dict[str, Any]], name: str = "task.jsonl") -> str:
        """A file of JSON lines; its public id."""
        content = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
        blob = self.store.put_bytes(self.world.tenant, content)
        with self.world.database.transaction() as session:
            row = files.add(session, self.world.tenant, Wish(name, Purpose.FINE_TUNE, None), blob=blob)
            return files.public_id(row)

    def tune(self, lines: Sequence[dict[str, Any]] | None = None, **spec: Any) -> UUID:
        """A short LoRA tuning, unless told otherwise."""
        training = SHORT | spec.pop("training", {})
        data = [{"type": "file", "file_id": self.upload(examples() if lines is None else lines)}]
        given = {"name": "tuned", "data": data, "serve": False, "lora": {"rank": 4}, **spec, "training": training}
        return self.submit("tuning", **given)

    def tuning(self, job_id: UUID) -> TuningJob:
        """The columns of a job."""
        with self._session() as session:
            return session.get_one(TuningJob, job_id)

    def checkpoints(self, job_id: UUID) -> list[Checkpoint]:
        """Rows, the first step first."""
        query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step, Checkpoint.id)
        with self._session() as session:
            return list(session.scalars(query))

    def metrics(self, job_id: UUID) -> dict[int, dict[str, Any]]:
        """Figures by step."""
        query = select(JobMetric).where(JobMetric.job_id == job_id).order_by(JobMetric.step)
        with self._session() as session:
            return {row.step: row.values for row in session.scalars(query)}

    def events(self, job_id: UUID, type_: EventType) -> list[dict[str, Any]]:
        """What events of a type say, in their order."""
        query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type == type_).order_by(JobEvent.seq)
        with self._session() as session:
            return [row.data for row in session.scalars(query)]

    def file(self, id: UUID) -> File:
        """A file's row."""
        with self._session() as session:
            return session.get_one(File, id)
