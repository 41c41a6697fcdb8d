"""Tunings of a yard over HTTP, what they have come to so far, and two of them side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psutil
from sqlalchemy import text

from shared.contracts.jobs import State
from shared.contracts.tuning_orders import MEMORY, MFU, TOKENS_S
from shared.errors import DatabaseUnavailable
from tests.faults.history import History, submit
from tests.support.yards import RunningYard
from tests.workers.tuning_desk import examples

WEIGHTS = "adapter_model.safetensors"
SAMPLES, LENGTH = 64, 64
#: what is another with every run
TIMES = {TOKENS_S, MEMORY, MFU}
PAGE = 1000

_LOOK = text("""
SELECT j.state, j.attempt, max(m.step) AS told, max(m.step) FILTER (WHERE m.attempt = j.attempt) AS at,
  min(m.step) FILTER (WHERE m.attempt = j.attempt) AS first,
  (SELECT max(c.step) FROM checkpoints c WHERE c.job_id = j.id) AS kept
FROM jobs j LEFT JOIN job_metrics m ON m.job_id = j.id WHERE j.id = :id GROUP BY j.id
""")


@dataclass(frozen=True)
class Look:
    """What a tuning's rows say at one moment."""

    state: str
    attempt: int
    told: int  #: step of the newest figures, of any attempt
    at: int | None  #: the same of this attempt; None before it has trained
    first: int | None  #: the first step that this attempt has told of
    kept: int  #: step of the newest checkpoint

    @property
    def reached(self) -> int:
        """The furthest step that anybody has heard of."""
        return max(self.told, self.kept)


@dataclass(frozen=True)
class Tuned:
    """What a tuning has left."""

    weights: bytes
    curve: dict[int, dict[str, float]]  #: figures by step, but for times and memory


@dataclass(frozen=True)
class Tunings:
    """Tunings of yard-tiny, all of one spec."""

    yard: RunningYard
    history: History
    spec: dict[str, Any]

    @classmethod
    def of(cls, yard: RunningYard, history: History, *, batch: int, steps: int, every: int) -> "Tunings":
        """Of an adapter with everything that draws random numbers: dropout, noise, the order of the samples.

        A step is of `batch` samples, two at a time; a checkpoint comes `every` so many.
        """
        content = b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in examples(SAMPLES))
        files = {"file": ("task.jsonl", content)}
        made = yard.insist("POST", "/v1/files", data={"purpose": "fine-tune"}, files=files).json()
        training = {
            "steps": steps,
            "batch_size": batch,
            "micro_batch_size": 2,
            "learning_rate": 5e-3,
            "max_length": LENGTH,
            "neftune_alpha": 5.0,
            "evaluate_every": 2 * every,
        }
        spec = {
            "model": "yard-tiny",
            "data": [{"type": "file", "file_id": made["id"]}],
            "validation_share": 0.1,
            "lora": {"rank": 4, "dropout": 0.1},
            "training": training,
            "checkpoints": {"every_steps": every, "keep": 2},
            "serve": False,
        }
        return cls(yard, history, spec)

    def start(self) -> str:
        """Submit; the job's id."""
        return submit(self.yard, "tuning", self.spec)

    def look(self, job_id: str) -> Look | None:
        """How far a job is; None while the database is away."""
        try:
            with self.history.database.transaction() as session:
                row = session.execute(_LOOK, {"id": UUID(job_id)}).one()
        except DatabaseUnavailable:
            return None
        return Look(row.state, row.attempt, row.told or 0, row.at, row.first, row.kept or 0)

    def run(self, *, timeout: float = 300) -> Tuned:
        """One that nobody disturbs."""
        job_id = self.start()
        return self.tuned(self.history.finished(job_id, timeout=timeout))

    def tuned(self, job: dict[str, Any]) -> Tuned:
        """What a finished job has left, in the API's words; the job itself is checked."""
        assert job["state"] == State.SUCCEEDED, job
        self.history.check([job["id"]])
        result = self.yard.insist("GET", f"/v1/jobs/{job['id']}/result").json()
        assert result["model"] is not None, "it is not registered"
        where = f"/v1/artifacts/{result['artifact']}/content"
        weights = self.yard.insist("GET", where, params={"path": WEIGHTS}).content
        rows = self.yard.insist("GET", f"/v1/jobs/{job['id']}/metrics", params={"limit": PAGE}).json()
        assert not rows["has_more"]
        curve = {
            row["id"]: {name: value for name, value in row["values"].items() if name not in TIMES}
            for row in rows["data"]
        }
        return Tuned(weights, curve)


def compare(plain: Tuned, other: Tuned, *, steps: int) -> None:
    """The same weights to the bit, and figures of every step, the same too."""
    assert list(plain.curve) == list(other.curve) == list(range(1, steps + 1)), "figures of every step"
    differ = [step for step in plain.curve if plain.curve[step] != other.curve[step]]
    assert not differ, f"the curve differs from step {differ[0]}: {plain.curve[differ[0]]} {other.curve[differ[0]]}"
    assert plain.weights == other.weights, "the weights differ"


def forges(worker: int) -> list[psutil.Process]:
    """Tuning forges of a worker, by its pid."""
    try:
        children = psutil.Process(worker).children(recursive=True)
    except psutil.Error:
        return []
    return [each for each in children if "workers.forge.tune" in command(each)]


def command(process: psutil.Process) -> list[str]:
    """A process's command line; empty of one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def attempts(yard: RunningYard) -> list[Path]:
    """Folders of attempts that are left on the host."""
    return list((yard.place.data / "worker" / "jobs").glob("*/*"))
