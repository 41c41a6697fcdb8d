"""Every route: who may, whose it is, and what every answer carries."""

import os
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi.routing import APIRoute

from gateway.app import create_app
from gateway.routing import Route
from services.accounts.service import Scope
from services.tuning import openai_jobs
from shared.ids import new_id
from shared.settings import Settings
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.gateway.served import judge, tuning

PROBE: dict[str, Any] = {"kind": "probe", "spec": {"steps": 0}}
ROUTES = [route for route in create_app(Settings()).routes if isinstance(route, APIRoute)]
KEYED = [route for route in ROUTES if isinstance(route, Route)]
OPEN = {"/health/live", "/health/ready", "/docs", "/openapi.json"}
OF_A_TENANT = [route for route in KEYED if "{" in route.path and "/domain_packs/" not in route.path]
PLACES = (
    "job_id artifact_id file_id upload_id batch_id document_set_id fine_tuning_job_id calibration_id evaluation_id id"
    " model a b alias pack"
)
ANY = dict.fromkeys(PLACES.split(), "1")  #: something for every path
BODIES: dict[str, Any] = {
    "POST /v1/jobs": PROBE,
    "POST /v1/api_keys": {"name": "a", "scopes": ["jobs:read"]},
    "PATCH /v1/models/{model:path}": {},
    "PUT /v1/model_aliases/{alias:path}": {"model": "theirs"},
    "POST /v1/uploads/{upload_id}/complete": {"part_ids": ["part_1"]},
}


def name(route: APIRoute) -> str:
    return f"{min(route.methods or ())} {route.path}"


def call(client: httpx.Client, route: APIRoute, **values: str) -> httpx.Response:
    method = min(route.methods or ())
    return client.request(method, route.path.replace(":path", "").format(**values), json=BODIES.get(name(route)))


@pytest.fixture(scope="module")
def theirs(gateway: Gateway) -> dict[str, str]:
    tenant = gateway.tenant()
    with gateway.caller(tenant=tenant) as owner:
        judgement = judge(gateway, tenant, "theirs")
        job = owner.post("/v1/jobs", json=tuning("theirs")).json()
        claimed = work.claim(gateway.database, job["id"], queue="cpu.forge")
        artifact_id = work.artifact(gateway.database, gateway.settings, claimed, name="a", data=b"theirs")
        file = owner.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"theirs")}).json()
        key = owner.get("/v1/api_keys").json()["data"][0]
        announced = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"}
        upload = owner.post("/v1/uploads", json=announced).json()
        lines = owner.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", b"{}")}).json()
        wish = {"input_file_id": lines["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = owner.post("/v1/batches", json=wish).json()
    return (
        ANY
        | judgement
        | {
            "job_id": job["id"],
            "fine_tuning_job_id": openai_jobs.public_id(UUID(job["id"])),
            "artifact_id": artifact_id,
            "file_id": file["id"],
            "upload_id": upload["id"],
            "batch_id": batch["id"],
            "id": key["id"],
            "model": "theirs",
            "a": "theirs",
            "b": "theirs",
            "alias": "theirs",
        }
    )


class TestRoutes:
    def test_every_route_but_four_asks_for_a_key(self) -> None:
        assert {route.path for route in ROUTES if not isinstance(route, Route)} == OPEN

    def test_every_route_has_a_scope_that_exists(self) -> None:
        assert {route.scope for route in KEYED} <= set(Scope)

    def test_a_route_without_a_scope_is_refused(self) -> None:
        with pytest.raises(KeyError):
            Route("/v1/x", lambda: None)

    @pytest.mark.parametrize("route", KEYED, ids=name)
    def test_nobody_comes_in_without_a_key(self, gateway: Gateway, route: Route) -> None:
        with httpx.Client(base_url=gateway.url, verify=False) as nobody:
            answer = call(nobody, route, **ANY)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        if min(route.methods or ()) != "HEAD":
            assert answer.json()["code"] == "invalid_api_key"

    @pytest.mark.parametrize("route", KEYED, ids=name)
    def test_a_key_without_the_scope_is_refused(self, gateway: Gateway, route: Route) -> None:
        others = sorted(set(Scope) - {route.scope})
        with gateway.caller(*others) as client:
            answer = call(client, route, **ANY)
        assert answer.status_code == 403


class TestTenants:
    """One tenant's key with another's ids: every route that takes an id says 404, and changes nothing."""

    @pytest.mark.parametrize("route", OF_A_TENANT, ids=name)
    def test_foreign_ids_are_not_found(
        self, gateway: Gateway, client: httpx.Client, theirs: dict[str, str], route: Route
    ) -> None:
        answer = call(client, route, **theirs)
        assert answer.status_code == 404
        with gateway.database.engine.connect() as connection:
            row = connection.exec_driver_sql(
                "SELECT state, held_at, cancel_requested_at FROM jobs WHERE id = %s", (UUID(theirs["job_id"]),)
            ).one()
        assert tuple(row) == ("running", None, None)

    def test_lists_show_nothing_of_theirs(self, client: httpx.Client, theirs: dict[str, str]) -> None:
        for path in ("/v1/jobs", "/v1/files", "/v1/models"):
            assert client.get(path).json()["data"] == []
        keys = client.get("/v1/api_keys").json()["data"]
        assert theirs["id"] not in {key["id"] for key in keys}

    def test_their_ids_are_no_cursors(self, client: httpx.Client, theirs: dict[str, str]) -> None:
        cursors = {"/v1/jobs": "job_id", "/v1/files": "file_id", "/v1/api_keys": "id"}
        for path, name in cursors.items():
            answer = client.get(path, params={"after": theirs[name]})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")

    def test_their_jobs_are_no_predecessors(self, client: httpx.Client, theirs: dict[str, str]) -> None:
        answer = client.post("/v1/jobs", json={**PROBE, "after_job_id": theirs["job_id"]})
        assert (answer.status_code, answer.json()["param"]) == (422, "after_job_id")


class TestKeyForms:
    @pytest.mark.parametrize("value", ["", "Bearer", "Basic dXNlcjpwYXNz", "Bearer modelyard_test_x", "Bearer a b"])
    def test_what_is_no_key(self, gateway: Gateway, value: str) -> None:
        answer = httpx.get(f"{gateway.url}/v1/jobs", headers={"authorization": value})
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key")

    def test_the_scheme_has_no_case(self, gateway: Gateway) -> None:
        answer = httpx.get(f"{gateway.url}/v1/jobs", headers={"authorization": f"bearer {gateway.key()}"})
        assert answer.status_code == 200

    def test_two_keys_are_none(self, gateway: Gateway) -> None:
        headers = [("authorization", f"Bearer {gateway.key()}")] * 2
        assert httpx.get(f"{gateway.url}/v1/jobs", headers=headers).status_code == 401


class TestHost:
    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:80:80", "", "[::1"])
    def test_a_name_that_is_not_ours(self, gateway: Gateway, host: str) -> None:
        answer = httpx.get(f"{gateway.url}/health/live", headers={"host": host})
        assert answer.status_code == 421
        assert answer.json()["code"] == "unknown_host"

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:1", "[::1]", "[::1]:8080"])
    def test_a_name_that_is(self, gateway: Gateway, host: str) -> None:
        assert httpx.get(f"{gateway.url}/health/live", headers={"host": host}).status_code == 200


class TestHeaders:
    def test_every_answer_is_safe_to_show(self, gateway: Gateway, client: httpx.Client) -> None:
        for answer in (
            client.get("/v1/jobs"),
            client.get("/v1/nothing"),
            client.post("/v1/jobs", content=b"{"),
            httpx.get(f"{gateway.url}/health/live"),
        ):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["cache-control"] == "no-store"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert int(answer.headers["openai-processing-ms"]) >= 0
            assert "access-control-allow-origin" not in answer.headers

    def test_a_request_keeps_its_name(self, client: httpx.Client) -> None:
        assert client.get("/v1/jobs", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"

    @pytest.mark.parametrize("given", ["", "a" * 129, "a b"])
    def test_or_gets_a_good_one(self, client: httpx.Client, given: str) -> None:
        named = client.get("/v1/jobs", headers=[("x-request-id", given)]).headers["x-request-id"]
        assert named.startswith("req_")


class TestMetrics:
    def test_requests_are_counted_by_route(self, gateway: Gateway, client: httpx.Client) -> None:
        client.get(f"/v1/jobs/{new_id()}")
        client.get("/v1/made-up-path")
        figures = client.get("/metrics")
        assert figures.headers["content-type"].startswith("text/plain; version=")
        labels = f'process="{os.getpid()}",route="/v1/jobs/{{job_id}}"'
        assert f'modelyard_http_requests_total{{method="GET",{labels},status="404"}}' in figures.text
        assert f'modelyard_http_request_seconds_bucket{{le="0.005",{labels}}}' in figures.text
        assert "made-up-path" not in figures.text
