"""Models, GPU classes, workers, keys and the parts of a job; and OpenAI's own client."""

from datetime import datetime
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from gateway.routes.docs import error_codes
from services.catalog import repository as catalog
from services.jobs import lifecycle
from services.jobs.types import Outcome
from services.workers import service as workers
from services.workers.types import Slots
from shared.contracts.jobs import Pool
from shared.db.models import Model
from shared.ids import new_id
from tests.gateway import work
from tests.gateway.conftest import Gateway

PROBE: dict[str, Any] = {"kind": "probe", "spec": {"steps": 0}}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
}


def register(gateway: Gateway, tenant: Any, name: str) -> None:
    model = Model(
        id=new_id(),
        tenant_id=tenant,
        name=name,
        digest="0" * 64,
        manifest=[],
        config=CONFIG,
        bytes=4_000_000,
        parameters=1_000_000,
        dtype="fp32",
        context_length=512,
    )
    with gateway.database.transaction() as session:
        catalog.add(session, model)


class TestModels:
    def test_openais_client_lists_them(self, gateway: Gateway) -> None:
        tenant = gateway.tenant()
        for name in ("yard-tiny", "Qwen/Qwen3-8B"):
            register(gateway, tenant, name)
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key("models:read", tenant=tenant)) as client:
            assert [model.id for model in client.models.list()] == ["Qwen/Qwen3-8B", "yard-tiny"]
            found = client.models.retrieve("Qwen/Qwen3-8B")
            assert (found.object, found.id) == ("model", "Qwen/Qwen3-8B")
            assert found.owned_by.startswith("tenant-")
            with pytest.raises(openai.NotFoundError) as caught:
                client.models.retrieve("gpt-5")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert caught.value.request_id == caught.value.response.headers["x-request-id"]

    def test_openais_client_uploads(self, gateway: Gateway) -> None:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key()) as client:
            made = client.files.create(file=("a.jsonl", b'{"prompt": "a"}\n'), purpose="user_data")
            assert client.files.wait_for_processing(made.id).status == "processed"
            assert client.files.content(made.id).read() == b'{"prompt": "a"}\n'
            assert [file.id for file in client.files.list()] == [made.id]
            assert client.files.delete(made.id).deleted

    def test_openais_client_knows_a_bad_key(self, gateway: Gateway) -> None:
        client = OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-wrong")
        with client, pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"

    def test_a_model_makes_an_inference_job(self, gateway: Gateway) -> None:
        tenant = gateway.tenant()
        register(gateway, tenant, "yard-tiny")
        with gateway.caller(tenant=tenant) as client:
            spec = {"model": "yard-tiny", "prompts": ["one", "two"], "max_tokens": 8}
            job = client.post("/v1/jobs", json={"kind": "inference", "spec": spec}).json()
            assert (job["progress"]["total"], job["spec"]["model"]) == (2, "yard-tiny")
            assert "prompts" not in job["spec"]
            claimed = work.claim(gateway.database, job["id"])
            work.record(gateway.database, claimed, "first", "second")
            work.end(gateway.database, claimed)
            done = client.get(f"/v1/jobs/{job['id']}").json()
        assert [(line["index"], line["output"]["text"]) for line in done["results"]] == [(0, "first"), (1, "second")]
        assert done["results"][0]["error"] is None

    def test_a_long_job_has_its_results_in_an_artifact_alone(self, gateway: Gateway) -> None:
        tenant = gateway.tenant()
        register(gateway, tenant, "yard-tiny")
        with gateway.caller(tenant=tenant) as client:
            spec = {"model": "yard-tiny", "prompts": ["one"] * 101, "max_tokens": 8}
            job = client.post("/v1/jobs", json={"kind": "inference", "spec": spec}).json()
            client.post(f"/v1/jobs/{job['id']}/cancel")
            assert client.get(f"/v1/jobs/{job['id']}").json()["results"] is None

    def test_a_parent_sums_up_its_children(self, gateway: Gateway) -> None:
        tenant = gateway.tenant()
        register(gateway, tenant, "yard-tiny")
        with gateway.caller(tenant=tenant) as client:
            spec = {"model": "yard-tiny", "prompts": [f"line {n}" for n in range(1500)], "max_tokens": 8}
            job = client.post("/v1/jobs", json={"kind": "inference", "spec": spec}).json()
            path = f"/v1/jobs/{job['id']}"
            before = client.get(path)
            assert before.json() == job
            assert (before.json()["state"], before.json()["progress"]["total"]) == ("running", 1500)
            children = client.get(f"{path}/explain").json()
            assert (children["cause"], children["children"]) == ("parent_running", 2)
            assert [each["id"] for each in client.get("/v1/jobs").json()["data"]] == [job["id"]]
            with gateway.database.transaction() as session:
                session.execute(text("UPDATE jobs SET progress_done = 300 WHERE parent_id = :id"), {"id": job["id"]})
            after = client.get(path, headers={"if-none-match": before.headers["etag"]})
        assert (after.status_code, after.json()["progress"]["done"]) == (200, 600)
        assert after.json()["progress"]["rate"] > 0


class TestYard:
    def test_classes_say_who_serves_them(self, gateway: Gateway, client: httpx.Client) -> None:
        boot = workers.describe("l40s", pools=[Pool.SERVE], devices=[0], slots={Pool.SERVE: Slots(3, 4)})
        with gateway.database.transaction() as session:
            workers.register(session, boot)
        classes = {each["id"]: each for each in client.get("/v1/gpu_classes").json()["data"]}
        assert {"h200", "rtx4090", "cpu"} <= set(classes)
        assert (classes["l40s"]["live_workers"], classes["h200"]["live_workers"]) == (1, 0)
        assert classes["l40s"]["queues"] == ["l40s.serve", "l40s.forge"]
        listed = client.get("/v1/workers").json()["data"]
        mine = next(each for each in listed if each["id"] == str(boot.id))
        assert (mine["gpu_class"], mine["live"], mine["slots"]) == ("l40s", True, {"serve": {"free": 3, "total": 4}})
        assert "address" not in str(mine)


class TestKeys:
    def test_a_key_is_shown_once_and_works_until_revoked(self, gateway: Gateway, client: httpx.Client) -> None:
        answer = client.post("/v1/api_keys", json={"name": "ci", "scopes": ["jobs:read"]})
        made = answer.json()
        assert answer.status_code == 201
        assert made["key_id"] in made["key"]
        listed = client.get("/v1/api_keys", params={"limit": 1}).json()
        assert (listed["data"][0]["id"], listed["data"][0]["key"], listed["has_more"]) == (made["id"], None, True)
        bearer = {"authorization": f"Bearer {made['key']}"}
        with httpx.Client(base_url=gateway.url, headers=bearer) as other:
            assert other.get("/v1/jobs").status_code == 200
            assert other.post("/v1/jobs", json=PROBE).json()["code"] == "missing_scope"
            assert client.delete(f"/v1/api_keys/{made['id']}").json()["revoked_at"] is not None
            assert other.get("/v1/jobs").status_code == 401
        rest = client.get("/v1/api_keys", params={"after": listed["last_id"]}).json()
        assert len(rest["data"]) == 1


class TestParts:
    def test_attempts_logs_and_deliveries(self, gateway: Gateway, client: httpx.Client) -> None:
        body = {**PROBE, "max_failures": 1, "webhook": {"url": "https://example.com/h"}}
        job = client.post("/v1/jobs", json=body).json()
        links = job["links"]
        claimed = work.claim(gateway.database, job["id"])
        with gateway.database.transaction() as session:
            lifecycle.add_logs(session, claimed, [("info", "engine ready"), ("warning", "slow")])
        work.end(gateway.database, claimed, Outcome.FAILED)
        attempts = client.get(links["attempts"]).json()["data"]
        assert [(each["attempt"], each["outcome"], each["error"]["code"]) for each in attempts] == [
            (1, "failed", "boom")
        ]
        page = client.get(links["logs"], params={"limit": 1}).json()
        assert ([line["message"] for line in page["data"]], page["has_more"]) == (["engine ready"], True)
        rest = client.get(links["logs"], params={"after": page["last_id"]}).json()
        assert [line["message"] for line in rest["data"]] == ["slow"]
        plain = client.get(links["logs"], headers={"accept": "text/plain"})
        assert plain.headers["content-type"].startswith("text/plain")
        stamp, *words = plain.text.splitlines()[0].split(" ")
        assert words == ["1", "info", "engine", "ready"]
        assert datetime.fromisoformat(stamp).tzinfo is not None
        deliveries = client.get(links["webhook_deliveries"]).json()["data"]
        assert [(each["type"], each["state"]) for each in deliveries] == [("job.failed", "pending")]
        assert deliveries[0]["id"].startswith("evt_")
        assert client.get(links["checkpoints"]).json()["data"] == []

    def test_explain_says_why_it_waits(self, client: httpx.Client) -> None:
        job = client.post("/v1/jobs", json={**PROBE, "gpu_class": "h100", "paused": True}).json()
        told = client.get(job["links"]["explain"]).json()
        assert (told["cause"], told["queue"], told["plan"]["gpu_class"]) == ("held", "h100.serve", "h100")


class TestDocs:
    def test_the_page_names_every_route_and_code(self, gateway: Gateway) -> None:
        page = httpx.get(f"{gateway.url}/docs")
        assert "POST /v1/jobs" in page.text
        assert all(f"<tr id={code}>" in page.text for code in error_codes())

    def test_it_needs_nobody_else(self, gateway: Gateway) -> None:
        page = httpx.get(f"{gateway.url}/docs")
        assert "<script" not in page.text
        assert "src=" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]

    def test_a_problem_points_to_it(self, client: httpx.Client) -> None:
        kind = client.get("/v1/nothing").json()["type"]
        path, _, anchor = kind.partition("#")
        assert f"<tr id={anchor}>" in client.get(path).text
