"""What tests of tuning over HTTP share: a tenant with a base, its files, and a worker's hands without a forge."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import orjson
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from services.catalog import repository as catalog
from services.catalog import service as models
from services.files import service as files
from services.files.service import Purpose, Wish
from services.jobs import lifecycle, running
from services.jobs.types import Beat, Claim, Outcome, Saved
from services.tuning import finish_repository
from services.tuning.names import checkpoint_name
from shared.contracts.tuning import DataFacts, Setting, TuningFigures
from shared.contracts.tuning_orders import ACCURACY, LEARNING_RATE, LOSS, VALIDATION_LOSS
from shared.db.models import Job, Model
from shared.ids import new_id
from shared.storage import Store
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.services.imports.build import TINY
from tests.services.tuning.made import adapter

BASE = "yard-tiny"
CHATS = b"".join(
    orjson.dumps({"prompt": f"q{number}", "completion": f"a{number}"}, option=orjson.OPT_APPEND_NEWLINE)
    for number in range(20)
)
CSV = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2.0,0.5,,\n2,1.0,0.75,1.5,\n"
SETTING = Setting(
    devices=1,
    batch_size=8,
    micro_batch_size=8,
    accumulation=1,
    max_length=64,
    precision="fp32",
    gradient_checkpointing=False,
    compiled=False,
    activation_offloading=False,
    attention="sdpa",
    packing=False,
)
FIGURES = TuningFigures(
    steps=4,
    epochs=2.0,
    trainable=1000,
    parameters=10_000,
    tokens=512,
    trained_tokens=128,
    train_loss=1.0,
    seconds=2.0,
    tokens_per_second=256.0,
    peak_memory_bytes=2**20,
    setting=SETTING,
    data=DataFacts(
        read=20, kept=20, validation=0, tokens=256, trained_tokens=64, longest=16, rows=20, sha256="ab" * 32
    ),
)


class Desk:
    """A tenant's tunings."""

    def __init__(self, gateway: Gateway, tenant: UUID, client: httpx.Client, base: Model) -> None:
        self.gateway, self.tenant, self.client, self.base = gateway, tenant, client, base

    def upload(self, content: bytes = CHATS, *, purpose: str = "fine-tune") -> str:
        answer = self.client.post("/v1/files", data={"purpose": purpose}, files={"file": ("chats.jsonl", content)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def submit(self, **spec: Any) -> dict[str, Any]:
        """A job of kind tuning, by our own route."""
        body = {"kind": "tuning", "gpu_class": "cpu", "spec": {"model": BASE, "data": [{"type": "library"}], **spec}}
        answer = self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def claim(self, job_id: str) -> Claim:
        return work.claim(self.gateway.database, job_id, queue="cpu.forge")

    def progress(self, claim: Claim, done: int, total: int, unit: str = "steps") -> None:
        with self.gateway.database.transaction() as session:
            lifecycle.progress(session, [Beat(claim.job_id, claim.attempt, done, total, unit)])

    def log(self, claim: Claim, level: str, message: str) -> None:
        with self.gateway.database.transaction() as session:
            lifecycle.add_logs(session, claim, [(level, message)])

    def train(self, claim: Claim, *steps: int) -> None:
        """Figures of steps; the last one's with a look at the validation data."""
        found = {n: {LOSS: 2.0 / n, ACCURACY: 0.5, LEARNING_RATE: 1e-4} for n in steps}
        found[steps[-1]][VALIDATION_LOSS] = 1.5
        with self.gateway.database.transaction() as session:
            running.keep_metrics(session, claim, found, told=True)
        self.progress(claim, steps[-1], 4)

    def checkpoint(self, claim: Claim, step: int, *, served: bool = True) -> None:
        with self.gateway.database.transaction() as session:
            name = checkpoint_name(session.get_one(Job, claim.job_id).spec["name"], step)
            model = adapter(session, self.tenant, self.base, name=name) if served else None
            saved = Saved(
                step,
                "fingerprint",
                [{"path": "model/adapter_model.safetensors", "sha256": new_id().hex * 2, "bytes": 9}],
                metrics={LOSS: 2.0 / step, VALIDATION_LOSS: 1.5},
                best=True,
                model_id=model.id if model else None,
            )
            lifecycle.checkpoint(session, claim, saved)

    def succeed(self, claim: Claim) -> Model:
        """The job's end, as its worker writes it."""
        blob = Store.of(self.gateway.settings).put_bytes(self.tenant, CSV)
        with self.gateway.database.transaction() as session:
            name = session.get_one(Job, claim.job_id).spec["name"]
            newest = catalog.named(session, self.tenant, name)
            model = adapter(session, self.tenant, self.base, name=name, version=newest.version + 1 if newest else 1)
            wish = Wish("step_metrics.csv", Purpose.FINE_TUNE_RESULTS, None)
            file = files.add(session, self.tenant, wish, blob=blob)
            finish_repository.finish(
                session,
                claim.job_id,
                figures=FIGURES.model_dump(mode="json"),
                trained_tokens=512,
                result_model_id=model.id,
                result_file_id=file.id,
            )
        self.end(claim)
        return model

    def end(self, claim: Claim, outcome: Outcome = Outcome.SUCCEEDED, **extra: Any) -> None:
        work.end(self.gateway.database, claim, outcome, **extra)


@contextmanager
def opened(gateway: Gateway) -> Iterator[Desk]:
    """A new tenant's; its base is yard-tiny, with all of its files."""
    tenant = gateway.tenant()
    base = models.register_folder(gateway.database, Store.of(gateway.settings), tenant, name=BASE, folder=TINY)
    with gateway.caller(tenant=tenant) as client:
        yield Desk(gateway, tenant, client, base)


def client(gateway: Gateway, desk: Desk) -> OpenAI:
    """OpenAI's own client, as the desk's tenant."""
    return OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(tenant=desk.tenant))


def create(sdk: OpenAI, desk: Desk, **fields: Any) -> FineTuningJob:
    extra = {"gpu_class": "cpu"} | fields.pop("extra_body", {})
    return sdk.fine_tuning.jobs.create(**{"model": BASE, "training_file": desk.upload(), "extra_body": extra, **fields})


def spec_of(desk: Desk, job: FineTuningJob) -> dict[str, Any]:
    found: dict[str, Any] = desk.client.get(f"/v1/jobs/{ours(job, 'job_id')}").json()["spec"]
    return found


def ours(job: FineTuningJob, name: str) -> Any:
    """A field that OpenAI does not know."""
    return (job.model_extra or {})[name]


def claimed(desk: Desk, job: FineTuningJob) -> Claim:
    return desk.claim(ours(job, "job_id"))
