"""Once, however often: across gateways, restarts and answers that were lost on the way."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.gateway.conftest import Gateway, serving
from tests.gateway.served import LATER, NOWHERE, PROBE, inference, refused, register, rows, submit

REPLAYED = "idempotent-replayed"
RETRY = {"x-stainless-retry-count": "1"}


def keyed(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


@pytest.fixture(scope="module")
def other_gateway(gateway: Gateway) -> Iterator[str]:
    """A second gateway on the same database."""
    with serving(gateway.settings) as url:
        yield url


@pytest.fixture
def elsewhere(client: httpx.Client, other_gateway: str) -> Iterator[httpx.Client]:
    """The same caller, at the other gateway."""
    with httpx.Client(base_url=other_gateway, headers=client.headers, timeout=30) as opened:
        yield opened


class TestKey:
    def test_any_gateway_knows_it(self, client: httpx.Client, elsewhere: httpx.Client) -> None:
        first = client.post("/v1/jobs", json=PROBE, headers=keyed("everywhere"))
        again = elsewhere.post("/v1/jobs", json=PROBE, headers=keyed("everywhere"))
        assert (again.status_code, again.content, again.headers[REPLAYED]) == (202, first.content, "true")

    def test_two_gateways_at_once_make_one_job(
        self, gateway: Gateway, client: httpx.Client, elsewhere: httpx.Client
    ) -> None:
        before, gate = rows(gateway)["jobs"], threading.Barrier(12)

        def send(number: int) -> httpx.Response:
            gate.wait()
            return (client, elsewhere)[number % 2].post("/v1/jobs", json=PROBE, headers=keyed("herd"))

        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(send, range(12)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.content for answer in answers}) == 1
        assert sum(REPLAYED not in answer.headers for answer in answers) == 1
        assert rows(gateway)["jobs"] == before + 1

    def test_two_bodies_at_once_make_the_job_of_one(self, gateway: Gateway, client: httpx.Client) -> None:
        before, gate = rows(gateway)["jobs"], threading.Barrier(8)

        def send(number: int) -> int:
            gate.wait()
            body = {**PROBE, "priority": number % 2}
            return client.post("/v1/jobs", json=body, headers=keyed("quarrel")).status_code

        with ThreadPoolExecutor(8) as threads:
            statuses = sorted(threads.map(send, range(8)))
        assert statuses == [202] * 4 + [422] * 4
        assert rows(gateway)["jobs"] == before + 1

    def test_a_quoted_key_is_the_bare_one(self, client: httpx.Client) -> None:
        first = client.post("/v1/jobs", json=PROBE, headers=keyed('"a-b-c"'))
        assert client.post("/v1/jobs", json=PROBE, headers=keyed("a-b-c")).content == first.content
        assert client.post("/v1/jobs", json=PROBE, headers=keyed("A-B-C")).json()["id"] != first.json()["id"]

    def test_another_body_is_refused_in_the_one_shape(self, client: httpx.Client) -> None:
        client.post("/v1/jobs", json=PROBE, headers=keyed("k"))
        answer = client.post("/v1/jobs", json={**PROBE, "metadata": {"a": "b"}}, headers=keyed("k"))
        refused(answer, 422, "idempotency_mismatch", param="Idempotency-Key")

    def test_a_replay_writes_nothing(self, gateway: Gateway, client: httpx.Client) -> None:
        body = {**PROBE, "webhook": {"url": "https://example.com/h", "events": ["job.queued"]}}
        client.post("/v1/jobs", json=body, headers=keyed("still"))
        before = rows(gateway)
        assert client.post("/v1/jobs", json=body, headers=keyed("still")).headers[REPLAYED] == "true"
        assert rows(gateway) == before

    def test_it_holds_for_a_chain_and_for_lines(self, gateway: Gateway) -> None:
        tenant = gateway.tenant()
        register(gateway, tenant)
        with gateway.caller(tenant=tenant) as client:
            body = {**inference(prompts=["a", "b"]), "on_success": [PROBE, PROBE]}
            first = client.post("/v1/jobs", json=body, headers=keyed("chain"))
            before = rows(gateway)
            assert client.post("/v1/jobs", json=body, headers=keyed("chain")).content == first.content
            assert rows(gateway) == before
            assert len(client.get("/v1/jobs").json()["data"]) == 3

    def test_a_waiting_submit_is_replayed_at_once(self, client: httpx.Client) -> None:
        first = client.post("/v1/jobs", json=PROBE, headers=keyed("patient"))
        again = client.post("/v1/jobs", params={"wait": 20}, json=PROBE, headers=keyed("patient"))
        assert again.content == first.content
        assert again.elapsed.total_seconds() < 5

    def test_it_is_forgotten_after_a_day(self, gateway: Gateway, client: httpx.Client) -> None:
        first = submit(client)
        client.post("/v1/jobs", json=PROBE, headers=keyed("old"))
        with gateway.database.transaction() as session:
            session.execute(
                text("UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'")
            )
        late = client.post("/v1/jobs", json={**PROBE, "priority": 1}, headers=keyed("old"))
        assert late.status_code == 202
        assert late.json()["id"] != first["id"]

    def test_routes_have_keys_of_their_own(self, client: httpx.Client) -> None:
        job = client.post("/v1/jobs", json=PROBE, headers=keyed("shared")).json()
        client.post(f"/v1/jobs/{job['id']}/cancel")
        retried = client.post(f"/v1/jobs/{job['id']}/retry", headers=keyed("shared"))
        assert (retried.status_code, retried.json()["retry_of"]) == (202, job["id"])
        other = submit(client)
        client.post(f"/v1/jobs/{other['id']}/cancel")
        answer = client.post(f"/v1/jobs/{other['id']}/retry", headers=keyed("shared"))
        refused(answer, 422, "idempotency_mismatch", param="Idempotency-Key")


class TestBlindRetry:
    """OpenAI's SDK repeats a POST without a key; it only counts its tries."""

    def test_the_first_try_is_always_a_new_job(self, client: httpx.Client) -> None:
        zero = {"x-stainless-retry-count": "0"}
        ids = {client.post("/v1/jobs", json=PROBE, headers=zero).json()["id"] for _ in range(3)}
        assert len(ids) == 3

    def test_a_later_try_finds_the_newest_of_that_body(self, client: httpx.Client) -> None:
        submit(client)
        newest = submit(client)
        again = client.post("/v1/jobs", json=PROBE, headers=RETRY)
        assert (again.json()["id"], again.headers[REPLAYED]) == (newest["id"], "true")

    def test_it_finds_nothing_of_another_tenant(self, gateway: Gateway, client: httpx.Client) -> None:
        body = {**PROBE, "run_after": LATER}
        with gateway.caller() as other:
            theirs = other.post("/v1/jobs", json=body).json()
        mine = client.post("/v1/jobs", json=body, headers=RETRY)
        assert mine.json()["id"] != theirs["id"]
        assert REPLAYED not in mine.headers

    def test_a_key_says_more(self, client: httpx.Client) -> None:
        first = submit(client)
        again = client.post("/v1/jobs", json=PROBE, headers=RETRY | keyed("new"))
        assert again.json()["id"] != first["id"]

    def test_nonsense_is_no_count(self, client: httpx.Client) -> None:
        first = submit(client)
        for count in ("-1", "many", "1.5"):
            answer = client.post("/v1/jobs", json=PROBE, headers={"x-stainless-retry-count": count})
            assert answer.json()["id"] != first["id"]


class TestValidateOnly:
    @pytest.mark.parametrize("body", [PROBE, {**PROBE, "gpu_class": "h100", "on_success": [PROBE]}, inference()])
    def test_it_writes_nothing(self, gateway: Gateway, body: dict[str, Any]) -> None:
        tenant = gateway.tenant()
        register(gateway, tenant)
        with gateway.caller(tenant=tenant) as client:
            before = rows(gateway)
            answer = client.post("/v1/jobs", params={"validate_only": True}, json=body, headers=keyed("plan"))
            assert (answer.status_code, answer.json()["object"], answer.json()["valid"]) == (200, "job.plan", True)
            assert answer.json()["plan"]["queue"].endswith(".serve")
            assert rows(gateway) == before
            assert client.post("/v1/jobs", json=body, headers=keyed("plan")).status_code == 202

    def test_it_finds_what_a_submit_would(self, client: httpx.Client) -> None:
        answers = [
            client.post("/v1/jobs", params={"validate_only": only}, json={**PROBE, "gpu_class": "abacus"})
            for only in (True, False)
        ]
        for answer in answers:
            refused(answer, 422, "unknown_gpu_class", param="gpu_class")

    @pytest.mark.parametrize(
        ("wrong", "status", "param"),
        [
            ({"on_success": [PROBE, {**PROBE, "spec": {"steps": -1}}]}, 422, "on_success.1.spec.steps"),
            ({"on_success": [{**PROBE, "kind": "moon"}]}, 400, "on_success.0.kind"),
            ({"on_success": [{**PROBE, "after_job_id": NOWHERE}]}, 422, "on_success"),
            ({"after_job_id": NOWHERE}, 422, "after_job_id"),
            ({"webhook": {"url": "https://user:pass@example.com/"}}, 400, "webhook.url"),
        ],
    )
    def test_also_beside_and_behind_the_job(
        self, client: httpx.Client, wrong: dict[str, Any], status: int, param: str
    ) -> None:
        for only in (True, False):
            answer = client.post("/v1/jobs", params={"validate_only": only}, json={**PROBE, **wrong})
            refused(answer, status, answer.json()["code"], param=param)
