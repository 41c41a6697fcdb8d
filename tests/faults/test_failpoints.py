"""Processes killed exactly inside their race windows (faults 1, 2, 5, 6, 19): each dies once, its successor goes on."""

import uuid
from pathlib import Path

import httpx
import pytest

from shared.contracts.jobs import State
from shared.db.models import WebhookDelivery
from tests.faults.conftest import quick_yard
from tests.faults.history import History, inference, submit
from tests.support.polling import wait_until
from tests.support.webhooks import receiver

pytestmark = pytest.mark.faults

WORKER = ("claim.after_commit", "hb.before", "batch.after_compute", "batch.after_commit", "finish.after_upload")
FORGE = ("ckpt.after_upload", "ckpt.after_commit")
OTHERS = ("submit.after_commit", "relay.after_publish", "webhook.after_2xx", "finish.after_commit")


def once(*names: str) -> str:
    return ",".join(f"{name}:kill9@once" for name in names)


class TestFailpoints:
    def test_a_job_whose_worker_dies_in_every_window_ends_once(self, tmp_path: Path) -> None:
        with quick_yard(tmp_path, failpoints=once(*WORKER), max_lost=len(WORKER) + 1) as (yard, history):
            job_id = submit(yard, "inference", inference(60))
            job = history.finished(job_id)
            assert job["state"] == State.SUCCEEDED
            passed = {path.name.removeprefix("failpoint-") for path in yard.place.data.rglob("failpoint-*")}
            assert passed == set(WORKER), "the worker died in each window"
            assert job["attempt"] > 2
            history.check([job_id])

    def test_a_forge_job_resumes_from_its_checkpoint(self, tmp_path: Path) -> None:
        with quick_yard(tmp_path, failpoints=once(*FORGE)) as (yard, history):
            spec = {"steps": 12, "step_seconds": 0.1, "checkpoint_every": 3, "pool": "forge"}
            job_id = submit(yard, "probe", spec)
            job = history.finished(job_id)
            assert (job["state"], job["attempt"]) == (State.SUCCEEDED, len(FORGE) + 1)
            with yard.client() as client:
                steps = [row["step"] for row in client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]]
            assert len(steps) == len(set(steps)), "no step was committed twice"
            history.check([job_id])

    def test_gateway_relay_and_courier_die_in_theirs(self, tmp_path: Path) -> None:
        with receiver() as sink, quick_yard(tmp_path, failpoints=once(*OTHERS)) as (yard, history):
            key = str(uuid.uuid4())
            hook = {"url": sink.url}
            body = {"kind": "probe", "spec": {}, "webhook": hook}
            with yard.client() as client, pytest.raises(httpx.TransportError):
                client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})

            job_id = submit(yard, "probe", {}, key=key, webhook=hook)

            assert history.finished(job_id)["state"] == State.SUCCEEDED
            with yard.client() as client:
                listed = client.get("/v1/jobs").json()["data"]
            assert [job["id"] for job in listed] == [job_id], "the key made one job"
            history.check([job_id])
            first, second = wait_until(lambda: sink.received[:2] if len(sink.received) > 1 else None, timeout=60)
            assert first.body == second.body
            assert first.headers["webhook-id"] == second.headers["webhook-id"]
            wait_until(lambda: delivered(history), timeout=30, what="the second delivery is marked")


def delivered(history: History) -> bool:
    with history.database.transaction() as session:
        return {row.state for row in session.query(WebhookDelivery)} == {"delivered"}
