"""`/v1/models` and `/v1/model_aliases`: shown, changed, pointed at, deleted."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from services.jobs import lifecycle
from services.workers import service as workers
from shared.contracts.jobs import Pool
from shared.db.models import Model
from tests.gateway.conftest import Gateway
from tests.gateway.served import refused
from tests.services.jobs import build as jobs


class TestShow:
    def test_what_it_takes_and_where_it_fits(self, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        row = tiny()
        body = client.get("/v1/models/tiny").json()
        assert (body["id"], body["version"], body["version_id"]) == ("tiny", 1, str(row.id))
        memory = {each["dtype"]: each for each in body["memory"]}
        assert memory["bf16"]["weight_bytes"] == row.bytes
        assert memory["fp32"]["weight_bytes"] == 4 * row.parameters
        assert memory["fp32"]["kv_bytes_per_token"] == 2 * memory["bf16"]["kv_bytes_per_token"]
        classes = {each["gpu_class"]: each for each in body["gpu_classes"]}
        assert (classes["cpu"]["devices"], classes["cpu"]["dtype"], classes["h200"]["dtype"]) == (1, "fp32", "bf16")

    def test_by_every_name(self, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        first, second = tiny(), tiny(readme="2")
        client.put("/v1/model_aliases/prod", json={"model": "tiny@1"})
        found = {name: client.get(f"/v1/models/{name}").json() for name in ("tiny", "tiny@1", "prod", str(second.id))}
        assert {name: body["version"] for name, body in found.items()} == {
            "tiny": 2,
            "tiny@1": 1,
            "prod": 1,
            str(second.id): 2,
        }
        assert (found["prod"]["id"], found["tiny@1"]["aliases"]) == ("tiny@1", ["prod"])
        assert found["prod"]["version_id"] == str(first.id)

    @pytest.mark.parametrize("name", ["none", "tiny@9", "tiny@x", "tiny@0", "019b2f6e-1d00-7000-8000-0000000000b1"])
    def test_names_of_nothing(self, client: httpx.Client, tiny: Callable[..., Model], name: str) -> None:
        tiny()
        refused(client.get(f"/v1/models/{name}"), 404, "model_not_found", param="model")

    def test_versions_newest_first(self, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        tiny("org/tiny"), tiny("org/tiny", readme="2")
        body = client.get("/v1/models/org%2Ftiny/versions").json()
        assert [row["id"] for row in body["data"]] == ["org/tiny@2", "org/tiny@1"]

    def test_openais_client(self, gateway: Gateway, tenant: UUID, tiny: Callable[..., Model]) -> None:
        tiny()
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(tenant=tenant)) as client:
            assert [model.id for model in client.models.list()] == ["tiny"]
            assert client.models.delete("tiny").deleted
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve("tiny")

    def test_ready_replicas(self, gateway: Gateway, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        row = tiny()
        worker = workers.describe("h200", pools=[Pool.SERVE], devices=[0], slots={})
        with gateway.database.transaction() as session:
            workers.register(session, worker)
            session.execute(
                text(
                    "INSERT INTO engines"
                    " (id, worker_id, model_digest, kind, address, devices, state, max_in_flight, pid)"
                    " VALUES (gen_random_uuid(), :worker, :digest, 'vllm', 'unix:/x', '[0]', 'ready', 8, 1)"
                ),
                {"worker": worker.id, "digest": row.digest},
            )
        (listed,) = client.get("/v1/models").json()["data"]
        assert (listed["ready_replicas"], listed["gpu_class"]) == (1, "h200")


class TestChange:
    def test_options_are_merged(self, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        tiny()
        client.patch("/v1/models/tiny", json={"serving": {"max_in_flight": 8, "batching": {"policy": "static"}}})
        body = client.patch(
            "/v1/models/tiny",
            json={"serving": {"context_length": 256, "batching": {"max_wait_ms": 5}}, "alias": "prod"},
        ).json()
        assert body["serving"] == {
            "max_in_flight": 8,
            "context_length": 256,
            "batching": {"policy": "static", "max_wait_ms": 5},
        }
        assert body["aliases"] == ["prod"]
        null = client.patch("/v1/models/tiny", json={"serving": {"max_in_flight": None}}).json()
        assert null["serving"]["max_in_flight"] is None

    @pytest.mark.parametrize(
        ("serving", "field"),
        [
            ({"context_length": 10_000_000}, "serving.context_length"),
            ({"tensor_parallel": 8}, "serving.tensor_parallel"),
            ({"engine": "llamacpp"}, "serving.engine"),
            ({"max_in_flight": 0}, "serving.max_in_flight"),
            ({"batching": {"policy": "elastic"}}, "serving.batching"),
            ({"gpu": 1}, "serving.gpu"),
        ],
    )
    def test_options_that_do_not_suit(
        self, client: httpx.Client, tiny: Callable[..., Model], serving: dict[str, Any], field: str
    ) -> None:
        tiny()
        answer = client.patch("/v1/models/tiny", json={"serving": serving})
        assert answer.status_code in (400, 422)
        assert answer.json()["param"] == field


class TestAliases:
    def test_moves_from_version_to_version(self, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        tiny(), tiny(readme="2")
        assert client.put("/v1/model_aliases/prod", json={"model": "tiny@1"}).json()["model"] == "tiny@1"
        assert client.put("/v1/model_aliases/prod", json={"model": "tiny"}).json()["model"] == "tiny@2"
        assert [row["model"] for row in client.get("/v1/model_aliases").json()["data"]] == ["tiny@2"]
        assert client.delete("/v1/model_aliases/prod").json()["deleted"]
        refused(client.delete("/v1/model_aliases/prod"), 404, "not_found", param="alias")
        refused(client.get("/v1/models/prod"), 404, "model_not_found", param="model")

    def test_a_models_name_is_taken(self, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        tiny()
        answer = client.put("/v1/model_aliases/tiny", json={"model": "tiny"})
        refused(answer, 409, "name_taken", param="alias")
        assert answer.headers["x-should-retry"] == "false"

    def test_another_tenants_model_is_not_there(
        self, gateway: Gateway, client: httpx.Client, tiny: Callable[..., Model]
    ) -> None:
        row = tiny()
        client.put("/v1/model_aliases/prod", json={"model": "tiny"})
        with gateway.caller() as stranger:
            for name in ("tiny", "prod", str(row.id)):
                assert stranger.get(f"/v1/models/{name}").status_code == 404
                assert stranger.delete(f"/v1/models/{name}").status_code == 404
            assert stranger.put("/v1/model_aliases/x", json={"model": "tiny"}).status_code == 404
            assert stranger.delete("/v1/model_aliases/prod").status_code == 404


class TestDelete:
    def test_all_versions_or_one(self, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        tiny(), tiny(readme="2")
        assert client.delete("/v1/models/tiny@2").json() == {"id": "tiny@2", "object": "model", "deleted": True}
        assert client.get("/v1/models/tiny").json()["version"] == 1
        client.delete("/v1/models/tiny")
        assert client.get("/v1/models").json()["data"] == []
        assert tiny(readme="3").version == 3

    def test_refused_while_a_job_or_an_alias_needs_it(
        self, gateway: Gateway, tenant: UUID, client: httpx.Client, tiny: Callable[..., Model]
    ) -> None:
        tiny()
        job = client.post("/v1/jobs", json={"kind": "inference", "spec": {"model": "tiny", "prompts": ["a"]}}).json()
        client.put("/v1/model_aliases/prod", json={"model": "tiny"})
        answer = client.delete("/v1/models/tiny")
        detail = refused(answer, 409, "model_in_use", param="model")["detail"]
        assert "jobs (1), aliases (1)" in detail
        assert answer.headers["x-should-retry"] == "false"
        client.delete("/v1/model_aliases/prod")
        with gateway.database.transaction() as session:
            lifecycle.cancel(session, tenant, UUID(job["id"]), reason="test")
        assert client.delete("/v1/models/tiny").status_code == 200

    def test_refused_while_a_call_waits_for_it(
        self, gateway: Gateway, tenant: UUID, client: httpx.Client, tiny: Callable[..., Model]
    ) -> None:
        row = tiny()
        with gateway.database.transaction() as session:
            session.execute(
                text(
                    "INSERT INTO demands (queue, model_id, mode, tenant_id)"
                    " VALUES (:queue, :model, 'generate', :tenant)"
                ),
                {"queue": jobs.QUEUE, "model": row.id, "tenant": tenant},
            )
        refused(client.delete("/v1/models/tiny"), 409, "model_in_use", param="model")
        with gateway.database.transaction() as session:
            session.execute(text("UPDATE demands SET wanted_at = wanted_at - interval '1 minute'"))
        assert client.delete("/v1/models/tiny").status_code == 200
