"""Health, outages, and how a gateway ends."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from sqlalchemy import text

from services.health.service import RELAY
from services.workers import service as workers
from services.workers.types import Slots
from shared.contracts.jobs import Pool
from shared.db.session import Database
from shared.embedded.ports import pick
from shared.embedded.roles import ROOT, gateway_argv
from shared.settings import Environment
from tests.gateway.conftest import Gateway, serving
from tests.support import wait_until
from tests.support.configured import environment
from tests.support.stores import RunningStores

PROBE = {"kind": "probe", "spec": {"steps": 0}}
STREAM = {"accept": "text/event-stream"}


def nobody() -> str:
    """An address where nothing listens."""
    return f"127.0.0.1:{pick(('nobody',), keep={})['nobody']}"


class TestHealth:
    def test_alive_needs_nothing(self, gateway: Gateway) -> None:
        answer = httpx.get(f"{gateway.url}/health/live")
        assert (answer.status_code, answer.json()) == (200, {"status": "live"})

    def test_ready_is_everything_at_once(self, gateway: Gateway) -> None:
        before = httpx.get(f"{gateway.url}/health/ready")
        checks = before.json()["checks"]
        assert before.status_code == 503
        assert {name for name, check in checks.items() if check["ok"]} == {"postgres", "store", "broker", "cache"}
        assert all(check["latency_ms"] < 1000 for check in checks.values())
        boot = workers.describe("cpu", pools=[Pool.SERVE], devices=[0], slots={Pool.SERVE: Slots(1, 1)})
        with gateway.database.transaction() as session:
            workers.register(session, boot)
        relay = Database(gateway.database.url, pool=1, name=RELAY)
        with relay.transaction() as session:
            session.execute(text("SELECT 1"))
        wait_until(lambda: httpx.get(f"{gateway.url}/health/ready").status_code == 200, what="a whole yard is ready")
        relay.close()
        wait_until(lambda: httpx.get(f"{gateway.url}/health/ready").status_code == 503, what="a yard without a relay")

    def test_in_production_a_worker_is_not_needed(self, gateway: Gateway) -> None:
        alone = gateway.settings.model_copy(update={"environment": Environment.PRODUCTION})
        with serving(alone) as url:
            answer = httpx.get(f"{url}/health/ready")
        assert (answer.status_code, answer.json()["checks"]["relay"]["ok"]) == (200, False)


class TestOutage:
    @pytest.fixture(scope="class")
    @classmethod
    def orphan(cls, stores: RunningStores, gateway: Gateway) -> Iterator[str]:
        """A gateway that has lost PostgreSQL, Redis and the store."""
        lost = stores.settings(
            database_url=f"postgresql+psycopg://a:b@{nobody()}/c",
            broker_url=f"redis://{nobody()}",
            cache_url=f"redis://{nobody()}",
            s3_endpoint=nobody(),
        )
        with serving(lost) as url:
            yield url

    def test_it_says_what_is_missing_within_a_second(self, orphan: str) -> None:
        answer = httpx.get(f"{orphan}/health/ready", timeout=2)
        assert answer.status_code == 503
        assert not any(check["ok"] for check in answer.json()["checks"].values())

    def test_it_asks_callers_to_come_back(self, gateway: Gateway, orphan: str) -> None:
        answer = httpx.get(f"{orphan}/v1/jobs", headers={"authorization": f"Bearer {gateway.key()}"})
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert answer.json()["retryable"]
        assert int(answer.headers["retry-after-ms"]) > 0

    def test_a_commit_that_is_lost_is_told(self, gateway: Gateway, client: httpx.Client) -> None:
        """The connection dies in the commit itself: a deferred trigger kills it."""
        with gateway.database.transaction() as session:
            session.execute(
                text("""CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$""")
            )
            session.execute(
                text("""CREATE CONSTRAINT TRIGGER die AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED
                        FOR EACH ROW EXECUTE FUNCTION die()""")
            )
        try:
            with ThreadPoolExecutor(4) as threads:
                answers = list(threads.map(lambda _: client.post("/v1/jobs", json=PROBE), range(8)))
        finally:
            with gateway.database.transaction() as session:
                session.execute(text("DROP FUNCTION die CASCADE"))
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "database_unavailable")}
        assert client.get("/v1/jobs").json()["data"] == []
        assert client.post("/v1/jobs", json=PROBE).status_code == 202

    def test_what_nobody_expected_is_told_without_particulars(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("canary-7f3a")

        monkeypatch.setattr("services.workers.service.workers", fail)
        answer = client.get("/v1/workers")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "canary" not in answer.text
        assert answer.json()["request_id"] == answer.headers["x-request-id"]

    def test_a_stream_outlives_a_database_that_comes_back(self, gateway: Gateway, client: httpx.Client) -> None:
        job = client.post("/v1/jobs", json=PROBE).json()
        with client.stream("GET", job["links"]["events"], headers=STREAM) as answer:
            lines = answer.iter_lines()
            assert "job.queued" in next(line for line in lines if line.startswith("event"))
            address = gateway.database.url.replace("+psycopg", "")
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name <> 'test' AND pid <> pg_backend_pid()"
                )
            wait_until(lambda: client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200)
            assert "job.cancelled" in next(line for line in lines if line.startswith("event"))


class TestEnd:
    def test_whoever_waits_is_let_go(self, gateway: Gateway) -> None:
        """A stop waits for every connection; streams and long polls end at once, so that it is short."""
        port = pick(("gateway",), keep={})["gateway"]
        argv = gateway_argv("--host", "127.0.0.1", "--port", str(port))
        process = subprocess.Popen(argv, env={**os.environ, **environment(gateway.settings)}, cwd=ROOT)
        headers = {"authorization": f"Bearer {gateway.key()}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            try:
                wait_until(lambda: answers(client), timeout=30)
                job = client.post("/v1/jobs", json=PROBE).json()
                with ThreadPoolExecutor(1) as threads:
                    polling = threads.submit(client.get, job["links"]["self"], params={"wait": 60})
                    with client.stream("GET", job["links"]["events"], headers=STREAM) as stream:
                        lines = stream.iter_lines()
                        assert "job.queued" in next(line for line in lines if line.startswith("event"))
                        process.terminate()
                        list(lines)  # a stream that was cut off would raise
                    assert polling.result(timeout=5).json()["state"] == "queued"
                assert process.wait(timeout=5) in (0, -signal.SIGTERM)  # uvicorn ends as it was told to
            finally:
                process.kill()
                process.wait()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False
