"""The relay: rings bells from the outbox, rings again what was missed, and takes back what nobody drives any more.

Any number may run: what two of them ring twice costs a wake-up, and what they reap is claimed row by row.

    python -m workers.schedule
"""

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable

from sqlalchemy.orm import Session

from services.jobs import lifecycle
from services.jobs import queue_repository as queue_sql
from services.workers import service as workers
from services.workers.types import Capacity
from shared import broker, failpoints
from shared.clock import monotonic
from shared.db.listen import Listener
from shared.db.session import Database
from shared.errors import DatabaseUnavailable
from shared.queues import CONTROL, gpu_classes, queue_names
from shared.settings import Settings, settings
from shared.telemetry import configure, logger

GATHER_S = 0.002  #: a burst of submissions becomes one round
BUSY_S = 0.02  #: under load rounds are rarer: 50 a second ring as well as 500
ECHO_S = 0.25  #: first look after ringing; doubles up to `reconcile_s`
ROWS = 1000  #: outbox rows of one round
COURIERS = 2  #: bells of `control`: a courier drains what there is
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 5.0
REAPED = 100  #: attempts ended in one transaction

Ring = Callable[[str, int], None]
log = logger(__name__)


def bells(due: int, capacity: Capacity) -> int:
    """How often to ring for `due` jobs: at most once a free slot, and once a worker, which takes all it can hold.

    Free slots are as old as a heartbeat: with none known, one bell still goes out. Without a live worker none
    does; one that starts looks for itself.
    """
    return min(due, max(1, capacity.free), capacity.accepting)


class Relay:
    """Turns outbox rows into bells. Rows are forgotten after ringing: a crash rings twice, never not at all."""

    def __init__(self, database: Database, configured: Settings, *, ring: Ring = broker.ring) -> None:
        self._database = database
        self._configured = configured
        self._ring = ring
        self._heard = threading.Event()
        self._stopping = threading.Event()
        self._listener = Listener(database.url, ("bells",), lambda _channel, _queue: self._heard.set())
        self._rang_at = -math.inf
        self._echo_s = ECHO_S
        self._look_at = monotonic()  # when every queue is looked at next

    def run(self) -> None:
        """Ring until `stop`. No failure of a round ends it: the rows stay, and the next round rings them."""
        self._listener.start()
        backoff = FIRST_BACKOFF_S
        while not self._stopping.is_set():
            try:
                wait = self._round()
                backoff = FIRST_BACKOFF_S
            except (DatabaseUnavailable, broker.BrokerUnavailable) as error:
                log.warning("relay.waiting", extra={"reason": error.code, "retry_in_s": backoff})
                self._stopping.wait(backoff)
                wait, backoff = 0.0, min(LAST_BACKOFF_S, backoff * 2)
            except Exception:
                log.exception("relay.round_failed")
                self._stopping.wait(backoff)
                wait, backoff = 0.0, min(LAST_BACKOFF_S, backoff * 2)
            self._sleep(wait)

    def stop(self) -> None:
        """End `run` after the round in progress."""
        self._stopping.set()
        self._heard.set()

    def close(self) -> None:
        """Stop listening; takes up to one poll of the listener."""
        self._listener.close()

    def _sleep(self, seconds: float) -> None:
        """Until a notification, at most `seconds`; then let those that come together gather."""
        self._heard.wait(seconds)
        self._heard.clear()  # before the next look: what is notified from now on causes another one
        busy = monotonic() - self._rang_at < BUSY_S
        self._stopping.wait(BUSY_S if busy else GATHER_S)

    def _round(self) -> float:
        """Ring what is due; returns the seconds until something will be."""
        looking = monotonic() >= self._look_at
        with self._database.transaction() as session:
            rows = queue_sql.take_bells(session, limit=ROWS)
            # Deliveries that are tried again leave no row behind, so the courier is asked for in every round.
            queues = {CONTROL, *rows.values(), *(queue_names() if looking else ())}
            wanted = self._wanted(session, queues)
            until = queue_sql.next_bell_in(session) if not rows else 0.0
        for queue, count in wanted.items():
            self._ring(queue, count)
        self._look_again(rang=bool(wanted), rows=bool(rows), looked=looking)
        if rows:
            failpoints.hit("relay.after_publish")
            until = self._forget(rows)
        longest = min(self._configured.relay_poll_s, max(0.0, self._look_at - monotonic()))
        return longest if until is None else min(longest, until)

    def _look_again(self, *, rang: bool, rows: bool, looked: bool) -> None:
        """A bell may be lost, or meet a worker that is full: look again soon, then less and less often."""
        now = monotonic()
        if rang and rows:
            self._rang_at, self._echo_s = now, ECHO_S
        elif looked:
            self._echo_s = min(self._configured.reconcile_s, self._echo_s * 2 if rang else math.inf)
        else:
            return
        self._look_at = now + self._echo_s if looked else min(self._look_at, now + self._echo_s)

    def _wanted(self, session: Session, queues: Iterable[str]) -> dict[str, int]:
        """Bells for each of these queues that has due work and somebody to do it."""
        found = workers.capacity(session, [queue for queue in queues if queue != CONTROL])
        able = {queue: each for queue, each in found.items() if each.accepting}
        most = max((each.accepting for each in able.values()), default=0)
        due = queue_sql.due_counts(session, list(able), limit=most) if able else {}
        wanted = {queue: bells(due[queue], each) for queue, each in able.items()}
        wanted[CONTROL] = min(COURIERS, workers.control_due(session, limit=COURIERS))
        return {queue: count for queue, count in wanted.items() if count}

    def _forget(self, rows: dict[int, str]) -> float | None:
        with self._database.transaction() as session:
            queue_sql.forget_bells(session, list(rows))
            return queue_sql.next_bell_in(session)


class Reaper:
    """Ends what nobody drives: attempts without a lease, jobs past their deadline, workers not heard of."""

    def __init__(self, database: Database, configured: Settings) -> None:
        self._database = database
        self._configured = configured
        self._stopping = threading.Event()
        self._steady_since: float | None = None
        self._last_tick = -math.inf

    def run(self) -> None:
        """Tick until `stop`, whatever happens in a tick."""
        while not self._stopping.is_set():
            self.tick()
            self._stopping.wait(self._configured.reaper_tick_s)

    def stop(self) -> None:
        """End `run` after the tick in progress."""
        self._stopping.set()

    def tick(self) -> None:
        """One look. After an outage every lease looks dead, so reaping starts again one whole lease later."""
        now = monotonic()
        if now - self._last_tick > 2 * self._configured.reaper_tick_s:
            self._steady_since = None  # this process, or its host, was stopped meanwhile
        try:
            self._expire()
            if self._steady_since is not None and now - self._steady_since >= self._configured.lease_ttl_s:
                self._reap()
        except DatabaseUnavailable:
            self._steady_since = None
            log.warning("reaper.waiting", extra={"reason": DatabaseUnavailable.code})
        except Exception:
            log.exception("reaper.tick_failed")
        else:
            self._steady_since = now if self._steady_since is None else self._steady_since
        self._last_tick = monotonic()

    def _expire(self) -> None:
        ended = REAPED
        while ended == REAPED:
            with self._database.transaction() as session:
                ended = lifecycle.expire_overdue(session, limit=REAPED)

    def _reap(self) -> None:
        ended = REAPED
        while ended == REAPED:
            with self._database.transaction() as session:
                ended = lifecycle.reap(session, limit=REAPED)
                if ended:
                    failpoints.hit("reaper.after_update")
                    log.info("reaper.reaped", extra={"attempts": ended})
        with self._database.transaction() as session:
            for worker in workers.stop_silent(session):
                log.warning("worker.silent", extra={"worker": worker})


def main() -> int:
    """Run a relay until SIGTERM or SIGINT; returns the exit status."""
    configured = settings()
    configure("relay", level=configured.log_level)
    gpu_classes()  # a class file that cannot be used is told now
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # inherited by the threads: only `sigwait` takes them
    database = Database(configured.database_url.get_secret_value(), pool=2, name="modelyard-relay")
    relay, reaper = Relay(database, configured), Reaper(database, configured)
    threads = [
        threading.Thread(target=part.run, name=name, daemon=True)
        for name, part in (("relay", relay), ("reaper", reaper))
    ]
    for thread in threads:
        thread.start()
    log.info("relay.started")
    signal.sigwait(ends)
    relay.stop()
    reaper.stop()
    for thread in threads:
        thread.join(timeout=broker.PUBLISH_SOCKET_S)
    log.info("relay.stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
