"""The courier as a process on real stores, and its tasks in this one."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
import pytest
import standardwebhooks
from sqlalchemy import text

from services.jobs import control_repository as control_sql
from services.webhooks import service as webhooks
from shared.contracts.jobs import WebhookTarget
from shared.db.models import IdempotencyKey, Job
from shared.db.session import Database
from shared.http import Outbound
from shared.settings import Settings
from shared.storage import Store
from tests.services.jobs import build
from tests.support import webhooks as script
from tests.support.configured import configured, environment
from tests.support.polling import wait_until
from tests.support.stores import RunningStores
from workers.courier import Courier
from workers.tasks.control import Context, Handler
from workers.tasks.repository import Task

RESIDENT_MIB = 150


@pytest.fixture
def here(settings: Settings) -> Iterator[Settings]:
    with configured(settings, webhook_timeout_s=1, webhook_retry_scale=0.01, retry_base_s=0.05) as read:
        yield read


@dataclass(frozen=True)
class Desk:
    """A job, and ways to give the courier something to do for it."""

    database: Database
    job: Job

    def tell(self, url: str, *, seq: int = 1) -> str:
        """Queue an event for `url`; the secret that verifies it."""
        wish = WebhookTarget.model_validate({"url": url})
        with self.database.transaction() as session:
            hook = webhooks.target(self.job.tenant_id, wish)
            webhooks.enqueue(
                session,
                tenant_id=self.job.tenant_id,
                job_id=self.job.id,
                seq=seq,
                type_="job.succeeded",
                url=url,
                secret=hook.encrypted_secret,
                data={"id": str(self.job.id)},
            )
        return str(hook.generated_secret)

    def add_task(self, kind: str = "expand") -> None:
        with self.database.transaction() as session:
            control_sql.add_task(session, self.job.tenant_id, self.job.id, kind)

    def states(self) -> list[str]:
        with self.database.transaction() as session:
            return [log.delivery.state for log in webhooks.of_job(session, self.job.tenant_id, self.job.id)]

    def count(self, table: str) -> int:
        with self.database.transaction() as session:
            return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


@pytest.fixture
def desk(here: Settings, database: Database) -> Desk:
    with database.transaction() as session:
        return Desk(database, build.job(session, build.tenant(session)))


class RunningCourier:
    """A process `python -m workers.courier`."""

    def __init__(self, settings: Settings, log: Path, **overrides: object) -> None:
        self._log = log
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.courier"],
                env={**environment(settings, **overrides), "PATH": os.environ["PATH"]},
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> tuple[int, float]:
        """Status and seconds of a stop by SIGTERM."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30), time.monotonic() - began


@contextmanager
def courier(settings: Settings, folder: Path, **overrides: object) -> Iterator[RunningCourier]:
    running = RunningCourier(settings, folder / "courier.log", **overrides)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


class TestProcess:
    def test_events_go_out_at_once_and_the_process_is_small(self, here: Settings, desk: Desk, tmp_path: Path):
        with script.receiver() as receiver, courier(here, tmp_path) as running:
            secret = desk.tell(receiver.url)
            wait_until(lambda: receiver.received, timeout=30)
            wait_until(lambda: "ready." in running.log, timeout=30)
            desk.tell(receiver.url, seq=2)
            wait_until(lambda: len(receiver.received) == 2, timeout=1.5, what="a notification wakes it")
            wait_until(lambda: desk.states() == ["delivered"] * 2)

            process = psutil.Process(running.process.pid)
            assert process.memory_info().rss < RESIDENT_MIB * 2**20
            assert not [mapped for mapped in process.memory_maps() if "torch" in mapped.path]
            status, seconds = running.stop()
        assert (status, seconds < 5) == (0, True), running.log
        standardwebhooks.Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)

    @pytest.mark.faults
    def test_killed_between_2xx_and_its_record(self, here: Settings, desk: Desk, tmp_path: Path):
        with script.receiver() as receiver:
            desk.tell(receiver.url)
            with courier(here, tmp_path, failpoints="webhook.after_2xx:kill9") as doomed:
                assert doomed.process.wait(timeout=30) == -signal.SIGKILL
            assert desk.states() == ["pending"]
            with courier(here, tmp_path):
                wait_until(lambda: desk.states() == ["delivered"], timeout=30)
        first, second = receiver.received
        assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])

    @pytest.mark.faults
    def test_it_delivers_without_a_broker(self, here: Settings, desk: Desk, tmp_path: Path):
        away = f"redis://{script.closed_port().split('/')[2]}/0"
        with script.receiver() as receiver, courier(here, tmp_path, broker_url=away) as running:
            desk.tell(receiver.url)
            wait_until(lambda: desk.states() == ["delivered"], timeout=30)
            status, seconds = running.stop()
        assert (status, seconds < 10) == (0, True), running.log

    @pytest.mark.faults
    def test_it_outlives_the_database(self, here: Settings, desk: Desk, tmp_path: Path, stores: RunningStores):
        with script.receiver() as receiver, courier(here, tmp_path) as running:
            desk.tell(receiver.url)
            wait_until(lambda: desk.states() == ["delivered"], timeout=30)
            pid = stores.children["postgres"].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: "courier.waiting" in running.log, timeout=30)
            stores.restart("postgres")
            desk.database.close()
            desk.tell(receiver.url, seq=2)
            wait_until(lambda: desk.states() == ["delivered"] * 2, timeout=30)
            assert running.stop()[0] == 0


@contextmanager
def in_process(desk: Desk, handler: Handler, settings: Settings) -> Iterator[Courier]:
    """A courier on a thread, whose tasks are all done by `handler`."""
    sender = Outbound(timeout_s=settings.webhook_timeout_s, allow_http=True)
    running = Courier(Context(desk.database, Store.of(settings)), sender, find=lambda _task: handler)
    stopping = threading.Event()
    thread = threading.Thread(target=running.run, args=(stopping,))
    thread.start()
    try:
        yield running
    finally:
        stopping.set()
        running.wake()
        thread.join()


def refuse(_context: Context, task: Task) -> None:
    raise LookupError(task.kind)


class TestReceivers:
    def test_a_hanging_one_does_not_hold_up_others(self, here: Settings, desk: Desk):
        with script.receiver(script.hang) as slow, script.receiver() as quick:
            for seq in range(1, 21):
                desk.tell(slow.url, seq=seq)
            with in_process(desk, refuse, here) as running:
                wait_until(lambda: slow.received)
                desk.tell(quick.url, seq=21)
                running.wake()
                wait_until(lambda: quick.received, timeout=0.9, what="the quick one is served meanwhile")


class TestTasks:
    @pytest.fixture
    def done(self) -> list[tuple[str, UUID, int]]:
        return []

    @pytest.fixture
    def note(self, done: list[tuple[str, UUID, int]]) -> Callable[[Context, Task], None]:
        return lambda _context, task: done.append((task.kind, task.job_id, task.tries))

    def test_done_once_and_gone(self, here: Settings, desk: Desk, done, note):
        desk.add_task("expand")
        desk.add_task("merge")
        with in_process(desk, note, here):
            wait_until(lambda: desk.count("control_tasks") == 0)
        assert sorted(done) == [("expand", desk.job.id, 1), ("merge", desk.job.id, 1)]

    def test_what_fails_is_tried_again_later(self, here: Settings, desk: Desk, done, note):
        def fail_twice(context: Context, task: Task) -> None:
            note(context, task)
            if task.tries < 3:
                raise ValueError("a prompt that must not be logged")

        desk.add_task()
        with in_process(desk, fail_twice, here) as running:

            def gone() -> bool:
                running.wake()
                return desk.count("control_tasks") == 0

            wait_until(gone)
        assert [tries for _, _, tries in done] == [1, 2, 3]

    def test_a_kind_that_nobody_does_stays_with_its_error(self, here: Settings, desk: Desk):
        desk.add_task()
        with in_process(desk, refuse, here):
            wait_until(lambda: desk.count("control_tasks WHERE error->>'code' = 'LookupError'") == 1)

    @pytest.mark.faults
    def test_killed_before_it_is_removed_means_done_again(self, here: Settings, desk: Desk, tmp_path: Path):
        desk.add_task()
        kind = "UPDATE control_tasks SET lease_expires_at = clock_timestamp() - interval '1 s', tries = 1"
        with desk.database.transaction() as session:
            session.execute(text(kind))
        done: list[int] = []
        with in_process(desk, lambda _context, task: done.append(task.tries), here):
            wait_until(lambda: desk.count("control_tasks") == 0)
        assert done == [2]

    def test_a_long_task_keeps_its_hold(self, here: Settings, desk: Desk, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("workers.tasks.control.LEASE_S", 1.0)
        monkeypatch.setattr("workers.tasks.control.RENEW_S", 0.1)
        begun: list[int] = []
        release = threading.Event()

        def slow(_context: Context, task: Task) -> None:
            begun.append(task.tries)
            release.wait(20)

        desk.add_task()
        with in_process(desk, slow, here) as running:
            wait_until(lambda: begun)
            until = time.monotonic() + 2.5  # more than two leases

            def over() -> bool:
                running.wake()
                return time.monotonic() > until

            wait_until(over, every=0.05)
            release.set()
            wait_until(lambda: desk.count("control_tasks") == 0)
        assert begun == [1]


class TestSweep:
    def test_answers_are_forgotten_after_a_day(self, here: Settings, desk: Desk):
        with desk.database.transaction() as session:
            for key in ("old", "new"):
                session.add(
                    IdempotencyKey(tenant_id=desk.job.tenant_id, route="POST /v1/jobs", key=key, request_sha256=b"")
                )
            session.flush()
            session.execute(
                text("UPDATE idempotency_keys SET created_at = created_at - interval '25 h' WHERE key = 'old'")
            )
        with in_process(desk, refuse, here):
            wait_until(lambda: desk.count("idempotency_keys") == 1)
        assert desk.count("idempotency_keys WHERE key = 'new'") == 1
