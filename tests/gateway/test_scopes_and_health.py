"""Who may call at all, and what a gateway says of itself when the things that it stands on are missing."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from gateway.app import create_app
from gateway.routing import Route
from services.accounts.service import Scope
from services.health.service import RELAY
from services.workers import service as workers
from services.workers.types import Slots
from shared.contracts.jobs import Pool
from shared.db.session import Database
from shared.settings import Environment, Settings
from tests.gateway.conftest import Gateway, serving
from tests.gateway.served import NOWHERE, PROBE, refused, rows
from tests.support import wait_until
from tests.support.webhooks import closed_port

ROUTES = [route for route in create_app(Settings()).routes if isinstance(route, Route)]
CALLS = [
    (method, re.sub(r"{\w+(:\w+)?}", NOWHERE, route.path), route.scope)
    for route in ROUTES
    for method in sorted(route.methods or ())
]
FAMILIES = sorted({scope.partition(":")[0] for scope in Scope})


class TestScopes:
    @pytest.mark.parametrize(("method", "path", "scope"), CALLS)
    def test_a_key_needs_the_scope_and_no_other(self, gateway: Gateway, method: str, path: str, scope: Scope) -> None:
        before = rows(gateway)
        with gateway.caller(*(set(Scope) - {scope})) as without:
            answer = without.request(method, path)
            assert answer.status_code == 403
            if method != "HEAD":
                refused(answer, 403, "missing_scope")
                assert f"scope {scope}." in answer.json()["detail"]
        with gateway.caller(scope) as having:
            assert having.request(method, path).status_code not in (401, 403)
        assert rows(gateway) == before

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_family_is_all_of_its_scopes(self, gateway: Gateway, family: str) -> None:
        with gateway.caller(f"{family}:*") as client:
            for method, path, scope in CALLS:
                expected = scope.partition(":")[0] == family
                assert (client.request(method, path).status_code != 403) is expected, (method, path)

    def test_nobody_gives_what_he_has_not(self, gateway: Gateway) -> None:
        with gateway.caller("admin:keys", "jobs:read") as client:
            for scopes in (["*"], ["jobs:write"], ["jobs:*"], ["jobs:read", "files:read"]):
                answer = client.post("/v1/api_keys", json={"name": "more", "scopes": scopes})
                refused(answer, 403, "missing_scope", param="scopes")
            assert client.post("/v1/api_keys", json={"name": "same", "scopes": ["jobs:read"]}).status_code == 201

    def test_a_body_is_not_read_for_strangers(self, gateway: Gateway) -> None:
        answer = httpx.post(f"{gateway.url}/v1/jobs", content=b"{", headers={"content-type": "text/plain"})
        refused(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


class TestKeys:
    def test_a_revoked_key_is_none(self, gateway: Gateway, client: httpx.Client) -> None:
        made = client.post("/v1/api_keys", json={"name": "short", "scopes": ["*"]}).json()
        with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {made['key']}"}) as short:
            assert short.get("/v1/jobs").status_code == 200
            assert short.delete(f"/v1/api_keys/{made['id']}").status_code == 200  # its own last act
            for method, path, _ in CALLS:
                assert short.request(method, path).status_code == 401, path
        again = client.delete(f"/v1/api_keys/{made['id']}").json()
        assert again["revoked_at"] == client.get(f"/v1/api_keys/{made['id']}").json()["revoked_at"]

    def test_an_expired_key_is_none(self, gateway: Gateway, client: httpx.Client) -> None:
        expiring = {"name": "brief", "scopes": ["jobs:read"], "expires_at": "2100-01-01T00:00:00Z"}
        made = client.post("/v1/api_keys", json=expiring).json()
        with gateway.database.transaction() as session:
            session.execute(text("UPDATE api_keys SET expires_at = now() WHERE id = :id"), {"id": made["id"]})
        answer = httpx.get(f"{gateway.url}/v1/jobs", headers={"authorization": f"Bearer {made['key']}"})
        refused(answer, 401, "invalid_api_key")

    def test_a_changed_letter_is_enough(self, gateway: Gateway) -> None:
        key = gateway.key()
        for place in (12, 20, 40, len(key) - 1):
            other = key[:place] + ("a" if key[place] != "a" else "b") + key[place + 1 :]
            answer = httpx.get(f"{gateway.url}/v1/jobs", headers={"authorization": f"Bearer {other}"})
            refused(answer, 401, "invalid_api_key")

    def test_no_query_carries_a_key(self, gateway: Gateway) -> None:
        for name in ("api_key", "key", "access_token"):
            refused(httpx.get(f"{gateway.url}/v1/jobs", params={name: gateway.key()}), 401, "invalid_api_key")


@contextmanager
def gateway_on(settings: Settings, **changed: Any) -> Iterator[str]:
    with serving(settings.model_copy(update=changed)) as url:
        yield url


def ready(url: str) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{url}/health/ready")
    checks: dict[str, Any] = answer.json()["checks"]
    assert answer.json()["ready"] is (answer.status_code == 200)
    return answer.status_code, checks


def missing(checks: dict[str, Any]) -> set[str]:
    """Names of what is needed and not there."""
    return {name for name, check in checks.items() if check["needed"] and not check["ok"]}


def nowhere(scheme: str) -> SecretStr:
    """A URL at which nobody answers."""
    return SecretStr(closed_port().removesuffix("/hook").replace("http", scheme))


class TestHealth:
    def test_it_lives_whatever_is_missing(self, gateway: Gateway) -> None:
        assert httpx.get(f"{gateway.url}/health/live").json() == {"status": "live"}
        with gateway_on(gateway.settings, database_url=nowhere("postgresql+psycopg")) as url:
            assert httpx.get(f"{url}/health/live").status_code == 200

    def test_a_yard_without_hands_says_so(self, gateway: Gateway) -> None:
        status, checks = ready(gateway.url)
        assert (status, missing(checks)) == (503, {"worker", "relay"})
        assert set(checks) == {"postgres", "store", "broker", "cache", "worker", "relay"}
        assert checks["worker"] == {
            "ok": False,
            "needed": True,
            "latency_ms": checks["worker"]["latency_ms"],
            "error": "there is none",
        }
        assert checks["postgres"]["ok"]
        assert checks["postgres"]["latency_ms"] >= 0

    def test_with_hands_it_is_ready(self, gateway: Gateway) -> None:
        boot = workers.describe("cpu", pools=[Pool.SERVE], devices=[0], slots={Pool.SERVE: Slots(1, 1)})
        relay = Database(gateway.database.url, name=RELAY)
        with ExitStack() as stack:
            stack.callback(relay.close)
            stack.enter_context(relay.engine.connect())
            with gateway.database.transaction() as session:
                workers.register(session, boot)
            wait_until(lambda: ready(gateway.url)[0] == 200, what="the yard is ready")
            with gateway.database.transaction() as session:
                workers.stop(session, boot.id)
            wait_until(lambda: missing(ready(gateway.url)[1]) == {"worker"}, what="the worker is missed")

    @pytest.mark.parametrize("production", [False, True])
    def test_a_broker_away_stops_one_host_alone(self, gateway: Gateway, production: bool) -> None:
        environment = Environment.PRODUCTION if production else Environment.TEST
        with gateway_on(gateway.settings, broker_url=nowhere("redis"), environment=environment) as url:
            status, checks = ready(url)
        assert not checks["broker"]["ok"]
        assert checks["broker"]["error"]
        assert (status == 200, "broker" in missing(checks)) == (production, not production)

    def test_a_cache_away_stops_nobody(self, gateway: Gateway) -> None:
        with gateway_on(gateway.settings, cache_url=nowhere("redis"), environment=Environment.PRODUCTION) as url:
            status, checks = ready(url)
        assert (status, checks["cache"]["ok"], checks["cache"]["needed"]) == (200, False, False)

    def test_a_store_away_is_named(self, gateway: Gateway) -> None:
        endpoint = nowhere("http").get_secret_value().removeprefix("http://")
        with gateway_on(gateway.settings, s3_endpoint=endpoint, environment=Environment.PRODUCTION) as url:
            status, checks = ready(url)
            assert (status, missing(checks)) == (503, {"store"})
            headers = {"authorization": f"Bearer {gateway.key()}"}
            form = {"data": {"purpose": "user_data"}, "files": {"file": ("a", b"a")}}
            answer = httpx.post(f"{url}/v1/files", headers=headers, timeout=30, **form)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            assert answer.json()["retryable"] is True
            assert httpx.post(f"{url}/v1/jobs", headers=headers, json=PROBE).status_code == 202

    def test_a_database_away_is_named_and_to_be_tried_again(self, gateway: Gateway) -> None:
        with gateway_on(gateway.settings, database_url=nowhere("postgresql+psycopg")) as url:
            status, checks = ready(url)
            assert (status, missing(checks)) == (503, {"postgres", "worker", "relay"})
            headers = {"authorization": f"Bearer {gateway.key()}"}
            answer = httpx.post(f"{url}/v1/jobs", headers=headers, json=PROBE, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert (answer.json()["retryable"], answer.json()["error"]["type"]) == (True, "server_error")
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")

    def test_it_tells_no_secret(self, gateway: Gateway) -> None:
        answer = httpx.get(f"{gateway.url}/health/ready").text
        secrets = (gateway.settings.database_url, gateway.settings.broker_url, gateway.settings.s3_secret_key)
        assert not any(secret.get_secret_value() in answer for secret in secrets)
        assert "127.0.0.1" not in answer


class TestMetrics:
    def test_they_are_for_a_key(self, gateway: Gateway) -> None:
        refused(httpx.get(f"{gateway.url}/metrics"), 401, "invalid_api_key")
        with gateway.caller("usage:read") as client:
            figures = client.get("/metrics")
        assert figures.headers["content-type"].startswith("text/plain")
        families = re.findall(r"^# TYPE (\S+)", figures.text, re.MULTILINE)
        assert "modelyard_http_requests_total" in families
        assert len(families) == len(set(families))

    def test_no_id_is_a_label(self, gateway: Gateway, client: httpx.Client) -> None:
        for method, path, _ in CALLS:
            client.request(method, path)
        assert NOWHERE not in client.get("/metrics").text
