"""The courier: delivers webhooks, does control tasks, sweeps what is over.

It looks for work when a bell rings, when PostgreSQL notifies, when a hand is free again, and every two
seconds whatever happens. Any number may run; leases keep them apart.

    python -m workers.courier
"""

import sys
import threading
from functools import partial

from services.blobs import service as blobs
from services.files import service as files
from services.files import uploads
from services.webhooks import delivery
from services.webhooks.delivery import Sender
from shared.broker import consume
from shared.clock import monotonic
from shared.db.listen import Listener
from shared.db.session import Database
from shared.errors import DatabaseUnavailable, Unavailable
from shared.http import Outbound
from shared.queues import CONTROL
from shared.settings import settings
from shared.storage import Store
from shared.telemetry import configure, logger
from workers.tasks import repository
from workers.tasks.control import Context, FindHandler, Tasks, handler
from workers.tasks.hands import Hands

POLL_S = 2.0
SENDERS = 8  # a hanging receiver holds at most two of them, see services.webhooks.repository
TASKERS = 2
CONNECTIONS = 5  # a hand needs one for a statement, not while it sends; the sweeper holds one while it removes a blob
SWEEP_S = 60.0
SWEEP_ROWS = 1000
SWEEP_BLOBS = 500  # in about three seconds
GRACE_S = 259_200.0
IDEMPOTENCY_S = 24 * 3600.0

log = logger(__name__)


class Courier:
    """The loop. `wake` may be called from any thread."""

    def __init__(
        self, context: Context, sender: Sender, *, find: FindHandler = handler, grace_s: float = GRACE_S
    ) -> None:
        self._database = context.database
        self._store = context.store
        self._grace_s = grace_s
        self._sender = sender
        self._tasks = Tasks(context, find=find)
        self._awake = threading.Event()
        self._senders = Hands("webhook", SENDERS, self.wake)
        self._taskers = Hands("task", TASKERS, self.wake)
        self._sweeper = Hands("sweep", 1, self.wake)
        self._sweep_at = monotonic()

    def wake(self) -> None:
        """Look for work now."""
        self._awake.set()

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set, then finish what is in hand: seconds, bounded by the webhook's timeout."""
        while not stopping.is_set():
            self._awake.clear()
            try:
                self.look()
            except DatabaseUnavailable as error:
                log.warning("courier.waiting", extra={"reason": error.code})
            except Exception:
                log.exception("courier.round_failed")
            self._awake.wait(POLL_S)
        self._senders.rest()
        self._taskers.rest()
        self._sweeper.rest()

    def look(self) -> None:
        """One round: take due deliveries and tasks as far as hands are free, and sweep once a minute.

        Raises:
            DatabaseUnavailable: the database cannot be asked.
        """
        if free := self._senders.free:
            for due in delivery.claim(self._database, limit=free):
                self._senders.take(partial(delivery.deliver, self._database, self._sender, due))
        for task in self._tasks.claim(limit=self._taskers.free):
            self._taskers.take(partial(self._tasks.work, task))
        if monotonic() >= self._sweep_at:
            self._sweep()
            self._sweep_at = monotonic() + SWEEP_S

    def _sweep(self) -> None:
        with self._database.transaction() as session:
            keys = repository.sweep_idempotency_keys(session, age_s=IDEMPOTENCY_S, limit=SWEEP_ROWS)
            expired = files.expire(session, limit=SWEEP_ROWS)
            late = uploads.expire(session)
        if keys or expired or late:
            log.info("courier.swept", extra={"idempotency_keys": keys, "files": expired, "uploads": late})
        if self._sweeper.free:
            self._sweeper.take(self._sweep_blobs)

    def _sweep_blobs(self) -> None:
        try:
            removed = blobs.sweep(self._database, self._store, grace_s=self._grace_s, limit=SWEEP_BLOBS)
        except Unavailable as error:
            log.warning("courier.waiting", extra={"reason": error.code})
            return
        if removed:
            log.info("courier.swept", extra={"blobs": removed})


def main() -> int:
    """Run a courier until SIGTERM or SIGINT; returns the exit status."""
    configured = settings()
    configure("courier", level=configured.log_level)
    database = Database(configured.database_url.get_secret_value(), pool=CONNECTIONS, name="modelyard-courier")
    sender = Outbound(timeout_s=configured.webhook_timeout_s, allow_http=configured.webhook_allow_http)
    store = Store.of(configured, keep=blobs.keeper(database, grace_s=configured.blob_grace_s))
    courier = Courier(Context(database, store), sender, grace_s=configured.blob_grace_s)
    stopping = threading.Event()
    loop = threading.Thread(target=courier.run, args=(stopping,), name="courier")
    listener = Listener(
        database.url, ("bells",), lambda _channel, queue: courier.wake() if queue in ("", CONTROL) else None
    )
    loop.start()
    listener.start()
    log.info("courier.started")
    try:
        return consume("courier", queues=[CONTROL], wake=lambda _queue: courier.wake(), stopping=stopping)
    finally:
        courier.wake()
        loop.join()
        log.info("courier.stopped")


if __name__ == "__main__":
    sys.exit(main())
