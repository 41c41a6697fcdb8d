"""What Prometheus reads, and what is said about it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from services.metrics import service as metrics
from services.workers import service as workers
from services.workers.types import Figures, LoadedEngine, Slots
from shared import telemetry
from shared.contracts.jobs import Pool
from shared.db.session import Database
from shared.ids import new_id
from shared.metrics import OTHER, CallSeen, Labels, observe
from tests.architecture.source import ROOT
from tests.gateway.conftest import Gateway, serving
from tests.gateway.served import register
from tests.services.jobs import build
from tests.support.configured import configured
from tests.support.stores import RunningStores, cloned_database

DIGEST = "0123456789ab" * 5 + "cdef"
PAGE = (ROOT / "infra/docs/metrics.md").read_text()
FIGURES = Figures(
    running=3,
    waiting=2,
    kv_used=0.25,
    tokens_generated=1000,
    memory_bytes=2**30,
    restarts=1,
    load_s=2.5,
    gpu_utilisation=0.5,
)


def engine(gateway: Gateway, figures: Figures) -> LoadedEngine:
    """A ready engine on a live worker of class cpu."""
    boot = workers.describe("cpu", pools=[Pool.SERVE], devices=[0], slots={Pool.SERVE: Slots(1, 1)})
    loaded = LoadedEngine(
        id=new_id(),
        worker_id=boot.id,
        model_digest=DIGEST,
        kind="transformers",
        address="unix:/nowhere",
        devices=(0,),
        state="ready",
        max_in_flight=96,
        in_flight=5,
        pid=1,
        figures=figures,
    )
    with gateway.database.transaction() as session:
        workers.register(session, boot)
        workers.put_engine(session, loaded)
    return loaded


def value(text: str, metric: str, **labels: object) -> float | None:
    """A sample's value; None when there is no such sample."""
    for line in text.splitlines():
        found = re.fullmatch(rf"{metric}(?:\{{(.*)\}})? (\S+)", line)
        if found and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")).items():
            return float(found[2])
    return None


def families(text: str) -> set[str]:
    """Names of the families in an exposition, as Prometheus asks for them."""
    return set(re.findall(r"^# TYPE (modelyard_\S+) ", text, re.MULTILINE))


class TestEngines:
    def test_their_figures_are_those_that_the_worker_noted(self, gateway: Gateway, client: httpx.Client):
        loaded = engine(gateway, FIGURES)
        text = client.get("/metrics").text
        labels = {"engine": str(loaded.id), "model": DIGEST[:12], "gpu_class": "cpu"}
        told = {
            "running": 3,
            "waiting": 2,
            "limit": 96,
            "kv_used_ratio": 0.25,
            "generated_tokens_total": 1000,
            "memory_bytes": 2**30,
            "restarts_total": 1,
            "load_seconds": 2.5,
            "gpu_utilisation_ratio": 0.5,
        }
        assert {name: value(text, f"modelyard_engine_{name}", **labels) for name in told} == told
        assert value(text, "modelyard_engine_state", **labels, kind="transformers", state="busy") == 1
        assert value(text, "modelyard_workers", gpu_class="cpu", draining="false") == 1

    def test_what_nobody_knows_is_left_out(self, gateway: Gateway, client: httpx.Client):
        loaded = engine(gateway, replace(FIGURES, gpu_utilisation=None, load_s=None))
        text = client.get("/metrics").text
        assert value(text, "modelyard_engine_running", engine=str(loaded.id)) == 3
        assert value(text, "modelyard_engine_gpu_utilisation_ratio", engine=str(loaded.id)) is None
        assert value(text, "modelyard_engine_load_seconds", engine=str(loaded.id)) is None


class TestQueues:
    def test_an_empty_queue_is_zero(self, client: httpx.Client):
        assert value(client.get("/metrics").text, "modelyard_queue_due", queue="h200.forge") == 0

    def test_due_jobs_are_counted_and_aged(self, gateway: Gateway, client: httpx.Client):
        with gateway.database.transaction() as session:
            tenant = build.tenant(session)
            for _ in range(2):
                build.job(session, tenant, queue="a100-80g.serve")
        text = client.get("/metrics").text
        assert value(text, "modelyard_queue_due", queue="a100-80g.serve") == 2
        oldest = value(text, "modelyard_queue_oldest_seconds", queue="a100-80g.serve")
        assert oldest is not None
        assert 0 <= oldest < 60


class TestNames:
    @pytest.fixture
    def tenants(self, gateway: Gateway) -> tuple[UUID, UUID]:
        return gateway.tenant(), gateway.tenant()

    def test_of_models_are_for_their_tenant_alone(self, gateway: Gateway, tenants: tuple[UUID, UUID]):
        mine, theirs = tenants
        register(gateway, mine, name="my-secret-model", digest=DIGEST)
        with gateway.caller("usage:read", tenant=mine) as me, gateway.caller("usage:read", tenant=theirs) as other:
            assert value(me.get("/metrics").text, "modelyard_model_info", model=DIGEST[:12], name="my-secret-model")
            assert "my-secret-model" not in other.get("/metrics").text


class TestDatabaseAway:
    @pytest.fixture
    def lonely(self, stores: RunningStores, migrated: str) -> Iterator[Gateway]:
        """A gateway on a database of its own."""
        with cloned_database(stores, migrated) as url, configured(stores.settings(database_url=url)) as settings:
            database = Database(url, name="test")
            with serving(settings) as address:
                yield Gateway(address, settings, database)
            database.close()

    def test_the_process_still_tells_its_own_figures(self, lonely: Gateway, stores: RunningStores):
        with lonely.caller() as client:
            assert value(client.get("/metrics").text, "modelyard_database_up") == 1
            name = lonely.database.engine.url.database
            stores.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            stores.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            text = client.get("/metrics").text
        assert value(text, "modelyard_database_up") == 0
        assert value(text, "modelyard_process_open_fds") is not None
        assert value(text, "modelyard_queue_due", queue="cpu.serve") is None


class TestCalls:
    def test_one_is_counted_with_all_its_times(self):
        observe(CallSeen("chat", "answered", 2.0, "beef" * 16, "cpu", 0.1, 0.5, 10, 16))
        text = telemetry.exposition().decode()
        labels = {"model": "beefbeefbeef", "gpu_class": "cpu"}
        assert value(text, "modelyard_inter_token_seconds_sum", **labels) == pytest.approx(0.1)
        assert value(text, "modelyard_time_to_first_token_seconds_sum", **labels) == 0.5
        assert value(text, "modelyard_call_wait_seconds_sum", **labels) == pytest.approx(0.1)
        assert value(text, "modelyard_call_seconds_sum", **labels, endpoint="chat") == 2
        assert value(text, "modelyard_call_tokens_total", **labels, direction="completion") == 16

    def test_one_that_was_never_placed_has_none_of_them(self):
        observe(CallSeen("embeddings", "refused", 0.01))
        text = telemetry.exposition().decode()
        assert value(text, "modelyard_calls_total", endpoint="embeddings", outcome="refused") == 1
        assert value(text, "modelyard_call_wait_seconds_count", model="none") is None

    def test_only_so_many_models_are_told_apart(self):
        labels = Labels(most=2)
        assert [labels.of(name) for name in "abcab"] == ["a", "b", OTHER, "a", "b"]


#: of the courier's process, which serves no HTTP; they are here when another test has imported its module
COURIERS = {"modelyard_webhook_attempts_total", "modelyard_webhook_attempt_seconds"}


class TestDocumented:
    def test_every_metric_and_no_other(self, client: httpx.Client):
        documented = set(re.findall(r"^\| `(modelyard_\w+)`", PAGE, re.MULTILINE))
        assert documented == families(client.get("/metrics").text) - COURIERS

    @pytest.mark.parametrize("file", ["infra/prometheus/alerts.yml", "infra/grafana/modelyard.json"])
    def test_what_alerts_and_the_dashboard_use_exists(self, file: str):
        known = families(telemetry.exposition(*metrics.families(metrics.Yard())).decode())
        used = set(re.findall(r"modelyard_[a-z_]+", (ROOT / file).read_text()))
        assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= known
        assert len(used) > 5


class TestFiles:
    def test_every_alert_is_whole(self):
        (group,) = yaml.safe_load(Path(ROOT / "infra/prometheus/alerts.yml").read_text())["groups"]
        for rule in group["rules"]:
            assert rule.keys() >= {"alert", "expr", "labels", "annotations"}
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert rule["expr"].count("(") == rule["expr"].count(")")

    def test_the_dashboard_has_its_panels(self):
        board = json.loads((ROOT / "infra/grafana/modelyard.json").read_text())
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert all(target["expr"] for panel in board["panels"] for target in panel["targets"])
