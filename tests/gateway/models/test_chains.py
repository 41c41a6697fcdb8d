"""`POST /v1/jobs` of chains whose later jobs name what earlier ones make."""

from collections.abc import Callable
from typing import Any

import httpx

from shared.db.models import Model
from tests.gateway.conftest import Gateway
from tests.gateway.served import PROBE, refused, rows
from tests.services.jobs.late.chains import asked

TinyModel = Callable[..., Model]


def quantize(*behind: dict[str, Any]) -> dict[str, Any]:
    return asked("quantization", *behind, model="tiny", scheme="w4a16", name="small")


class TestChain:
    def test_is_accepted_and_listed(self, client: httpx.Client, tiny: TinyModel) -> None:
        tiny()
        later = asked("quantization", asked("evaluation", baseline="small"), scheme="int8", ignore=["re:nothing"])
        answer = client.post("/v1/jobs", json=quantize(later, PROBE))
        assert answer.status_code == 202, answer.text
        first = answer.json()["id"]
        waiting = client.get("/v1/jobs", params={"after_job_id": first}).json()["data"]
        assert {(job["kind"], job["queue"]) for job in waiting} == {("quantization", "control"), ("probe", "cpu.serve")}
        (second,) = (job for job in waiting if job["kind"] == "quantization")
        assert (second["spec"]["model"], second["plan"]["gpu_class"]) == ("$result", "cpu")
        told = client.get(f"/v1/jobs/{second['id']}/explain").json()
        assert (told["cause"], told["waits_for"]) == ("blocked", first)
        (third,) = client.get("/v1/jobs", params={"after_job_id": second["id"]}).json()["data"]
        assert third["kind"] == "evaluation"

    def test_its_plan_says_what_is_known_later(self, gateway: Gateway, client: httpx.Client, tiny: TinyModel) -> None:
        tiny()
        before = rows(gateway)
        told = client.post("/v1/jobs?validate_only=true", json=quantize(asked("evaluation", PROBE))).json()
        (later,) = told["on_success"]
        assert told["planned_gpu_s"] > 0
        assert (later["planned_gpu_s"], later["cost"]) == (None, None)
        assert later["plan"]["reason"] == "planned when the job before it has made its model"
        assert later["on_success"][0]["planned_gpu_s"] > 0
        assert rows(gateway) == before

    def test_a_name_that_stands_for_nothing_is_refused(self, client: httpx.Client, tiny: TinyModel) -> None:
        tiny()
        for params in ({}, {"validate_only": True}):
            alone = client.post("/v1/jobs", json=asked("quantization"), params=params)
            refused(alone, 422, "validation_failed", param="spec.model")
            behind = client.post("/v1/jobs", json=PROBE | {"on_success": [asked("quantization")]}, params=params)
            refused(behind, 422, "validation_failed", param="on_success.0.spec.model")
