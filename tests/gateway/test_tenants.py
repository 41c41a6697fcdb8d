"""Two tenants: what one has, the other cannot see, name, change or even tell from what does not exist."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import text

from gateway.app import create_app
from gateway.routing import Route
from services.tuning import openai_jobs
from shared.ids import new_id
from shared.settings import Settings
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.gateway.served import MODEL, NOWHERE, PROBE, inference, judge, refused, register, rows, submit, tuning

ROUTES = [route for route in create_app(Settings()).routes if isinstance(route, Route)]
#: (method, path) of every call
CALLS = [(method, re.sub(r"{(\w+):\w+}", r"{\1}", route.path)) for route in ROUTES for method in route.methods or ()]
NAMED = [call for call in CALLS if "{" in call[1] and "/domain_packs/" not in call[1]]  # those are everybody's
LISTS = [path for method, path in CALLS if method == "GET" and "{" not in path and path != "/metrics"]
MISSING = {
    "job_id": NOWHERE,
    "artifact_id": NOWHERE,
    "id": NOWHERE,
    "file_id": f"file-{'0' * 32}",
    "model": "no-such-model",
    "a": "no-such-model",
    "b": "no-such-model",
    "calibration_id": NOWHERE,
    "evaluation_id": NOWHERE,
    "alias": "no-such-alias",
    "upload_id": f"upload_{'0' * 32}",
    "batch_id": f"batch_{'0' * 32}",
    "document_set_id": f"docset_{'0' * 32}",
    "fine_tuning_job_id": f"ftjob-{'0' * 32}",
}
#: what the calls that need a body are sent
BODIES: dict[str, Any] = {"PATCH": {}, "PUT": {"model": "nothing"}}
COMPLETION = {"part_ids": ["part_1"]}


@dataclass(frozen=True)
class Owned:
    """One tenant with one of everything; `ids` by the names that paths have for them."""

    client: httpx.Client
    ids: dict[str, str]


@pytest.fixture(scope="module")
def theirs(gateway: Gateway) -> Any:
    tenant = gateway.tenant()
    name, judged = (f"{MODEL}-{new_id().hex}" for _ in range(2))
    register(gateway, tenant, name=name)
    with gateway.caller(tenant=tenant) as client:
        hook = {"url": "https://example.com/theirs", "events": ["job.queued"]}
        job = submit(client, **tuning(name), webhook=hook, metadata={"secret": "theirs"})
        claimed = work.claim(gateway.database, job["id"], queue="cpu.forge")
        artifact = work.artifact(gateway.database, gateway.settings, claimed, name="theirs", data=b"theirs")
        work.end(gateway.database, claimed)
        judgement = judge(gateway, tenant, judged)
        upload = client.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("theirs", b"theirs")})
        made = client.post("/v1/api_keys", json={"name": "theirs", "scopes": ["jobs:read"]}).json()
        ids = {"job_id": job["id"], "artifact_id": artifact, "file_id": upload.json()["id"], "id": made["id"]}
        alias = client.put(f"/v1/model_aliases/{new_id().hex}", json={"model": name}).json()
        reading = {"model": name, "files": [ids["file_id"]], "operation": {"type": "summarize"}, "max_tokens": 64}
        document_set = client.post("/v1/document_sets", json=reading).json()
        lines = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("theirs", b"{}")}).json()
        batch = {"input_file_id": lines["id"], "endpoint": "/v1/chat/completions"}
        ids["fine_tuning_job_id"] = openai_jobs.public_id(UUID(job["id"]))
        ids["batch_id"] = client.post("/v1/batches", json=batch).json()["id"]
        announced = {"bytes": 5, "filename": "theirs", "mime_type": "text/plain", "purpose": "user_data"}
        ids |= {
            "document_set_id": document_set["id"],
            "upload_id": client.post("/v1/uploads", json=announced).json()["id"],
        }
        yield Owned(client, ids | judgement | {"model": name, "alias": alias["id"], "a": judged, "b": judged})


def everything(gateway: Gateway) -> list[Any]:
    """Each row that a foreign call might change."""
    tables = (
        "jobs",
        "job_events",
        "artifacts",
        "files",
        "uploads",
        "models",
        "model_aliases",
        "calibrations",
        "compression_jobs",
        "tuning_jobs",
        "evaluations",
        "webhook_deliveries",
        "outbox",
    )
    keys = "SELECT id, revoked_at, scopes FROM api_keys ORDER BY id"
    with gateway.database.engine.connect() as connection:
        found = [connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")).all() for table in tables]
        return [*found, connection.execute(text(keys)).all()]


def told(answer: httpx.Response, ids: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """What an answer tells, but for the id that the caller gave and what differs anyway."""
    differs = {"x-request-id", "openai-processing-ms", "date", "content-length"}
    headers = {name: value for name, value in answer.headers.items() if name not in differs}
    body = re.sub(r'"request_id":"[^"]*"', "", answer.text)
    for own in ids.values():
        body = body.replace(own, "<id>")
    return answer.status_code, headers, body


class TestMatrix:
    @pytest.mark.parametrize(("method", "path"), NAMED)
    def test_what_is_anothers_is_like_what_is_not_there(
        self, gateway: Gateway, client: httpx.Client, theirs: Owned, *, method: str, path: str
    ) -> None:
        before = everything(gateway)
        body = COMPLETION if path.endswith("/complete") else BODIES.get(method)
        foreign = client.request(method, path.format(**theirs.ids), json=body)
        assert foreign.status_code == 404
        missing = client.request(method, path.format(**MISSING), json=body)
        assert told(foreign, theirs.ids) == told(missing, MISSING)
        others = [other for name, other in theirs.ids.items() if f"{{{name}}}" not in path]
        assert not any(other in foreign.text for other in others)
        assert everything(gateway) == before

    @pytest.mark.parametrize(("method", "path"), [call for call in NAMED if call[0] in ("GET", "HEAD")])
    def test_its_owner_has_it(self, theirs: Owned, method: str, path: str) -> None:
        assert theirs.client.request(method, path.format(**theirs.ids)).status_code == 200

    @pytest.mark.parametrize("path", LISTS)
    def test_no_list_tells_of_it(self, client: httpx.Client, theirs: Owned, path: str) -> None:
        answer = client.get(path)
        assert answer.status_code == 200
        assert not any(own in answer.text for own in theirs.ids.values())

    @pytest.mark.parametrize(
        ("path", "cursor", "name"),
        [
            ("/v1/jobs", "after", "job_id"),
            ("/v1/jobs", "before", "job_id"),
            ("/v1/files", "after", "file_id"),
            ("/v1/api_keys", "after", "id"),
            ("/v1/batches", "after", "batch_id"),
            ("/v1/calibrations", "after", "calibration_id"),
            ("/v1/evaluations", "after", "evaluation_id"),
            ("/v1/document_sets", "after", "document_set_id"),
            ("/v1/fine_tuning/jobs", "after", "fine_tuning_job_id"),
        ],
    )
    def test_no_cursor_either(self, client: httpx.Client, theirs: Owned, *, path: str, cursor: str, name: str) -> None:
        foreign, missing = (client.get(path, params={cursor: ids[name]}) for ids in (theirs.ids, MISSING))
        refused(foreign, 400, "invalid_cursor", param=cursor)
        assert told(foreign, theirs.ids) == told(missing, MISSING)


class TestSubmit:
    """Ids inside a job's body."""

    @pytest.mark.parametrize("name", ["model", "input_file", "after_job_id"])
    def test_no_job_uses_what_is_anothers(
        self, gateway: Gateway, client: httpx.Client, theirs: Owned, name: str
    ) -> None:
        answers = []
        for ids in (theirs.ids, MISSING):
            body = {
                "model": inference(model=ids["model"]),
                "input_file": {"kind": "inference", "spec": {"model": MODEL, "input_file": ids["file_id"]}},
                "after_job_id": {**PROBE, "after_job_id": ids["job_id"]},
            }[name]
            before = rows(gateway)
            answers.append(told(client.post("/v1/jobs", json=body), ids))
            assert rows(gateway) == before
        assert answers[0] == answers[1]
        assert answers[0][0] in (404, 422)

    def test_no_artifact_is_an_input(self, gateway: Gateway, theirs: Owned) -> None:
        tenant = gateway.tenant()
        register(gateway, tenant)
        with gateway.caller(tenant=tenant) as client:
            spec = {"model": MODEL, "input_file": theirs.ids["file_id"]}
            refused(
                client.post("/v1/jobs", json={"kind": "inference", "spec": spec}),
                422,
                "unprocessable",
                param="spec.input_file",
            )


class TestKeys:
    def test_a_key_makes_keys_of_its_own_tenant_alone(self, gateway: Gateway, theirs: Owned) -> None:
        with gateway.caller() as mine:
            made = mine.post("/v1/api_keys", json={"name": "mine", "scopes": ["*"]}).json()
        with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {made['key']}"}) as client:
            assert client.get(f"/v1/jobs/{theirs.ids['job_id']}").status_code == 404
            assert client.get("/v1/jobs").json()["data"] == []

    def test_no_header_chooses_a_tenant(self, client: httpx.Client, theirs: Owned) -> None:
        for header in ("openai-organization", "openai-project", "x-tenant", "x-tenant-id"):
            answer = client.get("/v1/jobs", headers={header: "default"})
            assert answer.json()["data"] == []
            assert client.get(f"/v1/jobs/{theirs.ids['job_id']}", headers={header: "default"}).status_code == 404


def test_every_route_is_a_plain_or_a_keyed_one() -> None:
    assert all(isinstance(route, APIRoute) for route in create_app(Settings()).routes)
