"""The yard for Prometheus: engines by the figures that their workers keep fresh, queues, workers, a tenant's models.

Engines and queues are the yard's, and every key sees them; names of models are their tenant's, so figures carry a
digest and `modelyard_model_info` says what the caller calls it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from sqlalchemy.orm import Session

from services.metrics import repository
from services.metrics.repository import Named, Queue
from services.workers import service as workers
from services.workers.types import LoadedEngine, WorkerSeen
from shared.metrics import DIGEST, MODELS, model_label
from shared.queues import queue_names

DUE_COUNTED = 100_000  #: due jobs that are counted; more are not told apart

_ENGINE = ("engine", "model", "gpu_class")


@dataclass(frozen=True)
class Yard:
    """Everything at one moment, as the database has it."""

    workers: Sequence[WorkerSeen] = ()
    queues: Sequence[Queue] = ()
    models: Sequence[Named] = ()


def yard(session: Session, tenant_id: UUID) -> Yard:
    """The yard as it is, and the names of the tenant's own models."""
    known = {queue.name: queue for queue in repository.queues(session, limit=DUE_COUNTED)}
    return Yard(
        workers=[worker for worker in workers.workers(session) if worker.live],
        queues=[known.get(name, Queue(name)) for name in sorted({*queue_names(), *known})],
        models=repository.models(session, tenant_id, limit=MODELS),
    )


def families(seen: Yard) -> list[Metric]:
    """The yard as families of figures; infra/docs/metrics.md says what each of them means."""
    engines = [(engine, worker.gpu_class) for worker in seen.workers for engine in worker.engines]
    return [*_engines(engines), *_queues(seen.queues), _workers(seen.workers), _models(seen.models)]


def _engines(engines: Sequence[tuple[LoadedEngine, str]]) -> list[Metric]:
    def gauge(name: str, told: str, values: Iterable[float | None]) -> Metric:
        family = GaugeMetricFamily(f"modelyard_engine_{name}", told, labels=_ENGINE)
        for (engine, gpu_class), value in zip(engines, values, strict=True):
            if value is not None:
                family.add_metric(_labels(engine, gpu_class), value)
        return family

    def counter(name: str, told: str, values: Iterable[int]) -> Metric:
        family = CounterMetricFamily(f"modelyard_engine_{name}", told, labels=_ENGINE)
        for (engine, gpu_class), value in zip(engines, values, strict=True):
            family.add_metric(_labels(engine, gpu_class), value)
        return family

    figures = [engine.figures for engine, _ in engines]
    return [
        _states(engines),
        gauge("running", "Sequences in the batch.", [each.running for each in figures]),
        gauge("waiting", "Sequences admitted, not in the batch yet.", [each.waiting for each in figures]),
        gauge("limit", "Sequences that it admits.", [engine.max_in_flight for engine, _ in engines]),
        gauge("kv_used_ratio", "Share of the KV cache in use.", [each.kv_used for each in figures]),
        gauge("memory_bytes", "Memory that it holds.", [each.memory_bytes for each in figures]),
        gauge("gpu_utilisation_ratio", "Utilisation of its devices.", [each.gpu_utilisation for each in figures]),
        gauge("load_seconds", "From its start to ready.", [each.load_s for each in figures]),
        counter("generated_tokens", "Tokens generated.", [each.tokens_generated for each in figures]),
        counter("restarts", "Deaths of this model's engines.", [each.restarts for each in figures]),
    ]


def _states(engines: Sequence[tuple[LoadedEngine, str]]) -> Metric:
    family = GaugeMetricFamily(
        "modelyard_engine_state", "1 for the engine's state.", labels=(*_ENGINE, "kind", "state")
    )
    for engine, gpu_class in engines:
        family.add_metric([*_labels(engine, gpu_class), engine.kind, engine.condition], 1)
    return family


def _labels(engine: LoadedEngine, gpu_class: str) -> list[str]:
    return [str(engine.id), model_label(engine.model_digest), gpu_class]


def _queues(queues: Sequence[Queue]) -> list[Metric]:
    depth = GaugeMetricFamily("modelyard_queue_due", "Jobs that could start now.", labels=("queue",))
    oldest = GaugeMetricFamily("modelyard_queue_oldest_seconds", "Wait of the oldest due job.", labels=("queue",))
    running = GaugeMetricFamily("modelyard_queue_running", "Jobs that run.", labels=("queue",))
    for queue in queues:
        depth.add_metric([queue.name], queue.depth)
        oldest.add_metric([queue.name], queue.oldest_s)
        running.add_metric([queue.name], queue.running)
    return [depth, oldest, running]


def _workers(seen: Sequence[WorkerSeen]) -> Metric:
    family = GaugeMetricFamily("modelyard_workers", "Live workers.", labels=("gpu_class", "draining"))
    for (gpu_class, draining), count in Counter((each.gpu_class, each.draining) for each in seen).items():
        family.add_metric([gpu_class, str(draining).lower()], count)
    return family


def _models(named: Sequence[Named]) -> Metric:
    labels = ("model", "name", "version", "kind")
    family = GaugeMetricFamily("modelyard_model_info", "1: what the caller's tenant calls a model.", labels=labels)
    for each in named:
        family.add_metric([each.digest[:DIGEST], each.name, str(each.version), each.kind], 1)
    return family
