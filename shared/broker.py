"""Bells: Celery messages that name a queue and mean "there may be work". The row in PostgreSQL is the job.

A lost, duplicated or forged bell costs latency, never a job, so everything that Celery does to keep a
message's promise is off: acknowledgement is early, nothing is prefetched, nothing is retried, delayed or
stored. The settings and what went wrong without them are in the reliability notes; each number below has its
reason beside it.
"""

import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

from celery import Celery, signals
from celery.platforms import EX_OK, SecurityWarning
from celery.worker import state
from kombu.entity import Queue
from kombu.exceptions import KombuError, OperationalError

from shared.errors import Unavailable
from shared.settings import settings
from shared.telemetry import logger

RING = "modelyard.ring"  # the only task there is
VISIBILITY_S = 300  # covers "popped, not yet started"; the work itself is held by a lease in PostgreSQL
WORKER_SOCKET_S = 15.0  # a half-open connection is noticed; BRPOP answers every second
PUBLISH_SOCKET_S = 2.0  # a publisher rather gives up: the relay rings again
CONNECTIONS = 20
RESTART_S = 0.5

_ALONE = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}

log = logger(__name__)


class BrokerUnavailable(Unavailable):
    """The broker cannot be reached right now; the bell will be rung again."""

    code: ClassVar[str] = "broker_unavailable"


def make_app(role: str, *, queues: Sequence[str] = (), socket_s: float = WORKER_SOCKET_S) -> Celery:
    """A Celery application of a process. It connects when first used."""
    app = Celery(f"modelyard-{role}", set_as_current=False)
    app.conf.update(
        broker_url=settings().broker_url.get_secret_value(),
        broker_transport_options=_transport(role, socket_s),
        visibility_timeout=VISIBILITY_S,  # Celery reads it in three places, and the smallest wins
        result_backend_transport_options={"visibility_timeout": VISIBILITY_S},
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: a process outlives its broker
        broker_channel_error_retry=True,
        broker_pool_limit=4,
        task_serializer="json",
        accept_content=["json"],  # a pickle in a message is code
        result_accept_content=["json"],
        event_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,  # late acks redeliver whatever outlasts the visibility timeout (celery#5935)
        task_reject_on_worker_lost=False,
        task_track_started=False,
        task_create_missing_queues=False,
        task_default_queue="modelyard.none",
        task_queues=[_queue(name) for name in queues],
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 1},
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # one reserved message would wait behind a busy slot (celery#2788)
        worker_pool="threads",
        worker_concurrency=2,  # a body only wakes somebody
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=0,
        worker_enable_remote_control=False,  # its reply keys grow in Redis for ever (celery#6089)
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
        timezone="UTC",
    )
    return app


def ring(queue: str, count: int = 1) -> None:
    """Ring `count` bells for a queue. Takes about 0.6 ms of CPU each; gives up within seconds when Redis is away.

    Raises:
        BrokerUnavailable: the bells were not taken; some may have been.
    """
    app, target = _publisher(), _queue(queue)
    try:
        # The queue goes by name through the nameless exchange: no binding in Redis that FLUSHALL could take away.
        with app.producer_or_acquire() as producer:
            for _ in range(count):
                app.send_task(RING, args=[queue], queue=target, producer=producer, ignore_result=True)
    except (KombuError, OperationalError, OSError) as error:
        raise BrokerUnavailable from error


def consume(role: str, *, queues: Sequence[str], wake: Callable[[str], None], stopping: threading.Event) -> int:
    """Turn bells of `queues` into calls of `wake(queue)`. Starts, and goes on, without a broker.

    In the main thread Celery takes the signals: SIGTERM and SIGINT set `stopping` and end it. In another thread
    the process keeps its own handlers, and this goes on until the process ends. `wake` must return at once and is
    called from two threads; what it raises is logged.

    Returns: the exit status of the process.
    """
    app = make_app(role, queues=queues)
    known = frozenset(queues)

    @app.task(name=RING, ignore_result=True, max_retries=0)
    def rung(queue: str) -> None:
        if queue in known:
            wake(queue)

    _heed_signals(stopping)
    try:
        while True:
            worker = app.Worker(queues=list(queues), quiet=True, **_ALONE)
            worker.start()
            if stopping.is_set():
                return int(worker.exitcode or 0)
            # A message that is no JSON ends kombu's loop. It is popped already: the next round reads on.
            log.error("broker.consumer_failed", extra={"queues": sorted(known)})
            stopping.wait(RESTART_S)
    finally:
        stopping.set()


def _heed_signals(stopping: threading.Event) -> None:
    """Set `stopping` when the process is asked to end, whether or not Celery has put up its handlers yet."""

    def stop(*_: object, **__: object) -> None:
        stopping.set()
        state.should_stop = EX_OK

    def keep_logging(**_: object) -> None:
        """Being connected tells Celery to leave the log handlers as they are."""

    if threading.current_thread() is threading.main_thread():
        for ends in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ends, stop)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.setup_logging.connect(keep_logging, weak=False)
    # As root Celery warns of pickle; JSON is all that we accept, and a task's body is three lines of ours.
    warnings.filterwarnings("ignore", category=SecurityWarning)


def _queue(name: str) -> Queue:
    return Queue(name, routing_key=name)  # type: ignore[no-untyped-call]


@cache
def _publisher() -> Celery:
    return make_app("relay", socket_s=PUBLISH_SOCKET_S)


def _transport(role: str, socket_s: float) -> dict[str, Any]:
    return {
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,  # the default sweeps every 100 s, whatever the timeout says
        "socket_timeout": socket_s,
        "socket_connect_timeout": min(5.0, socket_s),
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": False,
        "queue_order_strategy": "round_robin",
        "global_keyprefix": "modelyard:",
        "client_name": f"modelyard-{role}",
        "max_connections": CONNECTIONS,
    }
