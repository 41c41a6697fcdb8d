import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime

import pytest
import standardwebhooks
from sqlalchemy import text

from services.webhooks import delivery, service
from services.webhooks.repository import Attempt, Due
from services.webhooks.service import DeliveryLog
from shared.clock import utc_now
from shared.db.models import Job
from shared.db.session import Database
from shared.failpoints import Injected, armed
from shared.http import Outbound
from shared.settings import Settings
from tests.support import webhooks as script
from tests.support.polling import wait_until
from tests.support.webhooks import Server


@dataclass(frozen=True)
class Desk:
    """A courier's work on one job's events, by hand."""

    database: Database
    sender: Outbound
    job: Job
    tell: Callable[..., str]

    def send(self) -> list[Attempt]:
        return delivery.deliver_due(self.database, self.sender)

    def claim(self, limit: int = 10) -> list[Due]:
        return delivery.claim(self.database, limit=limit)

    def log(self) -> DeliveryLog:
        with self.database.transaction() as session:
            (found,) = service.of_job(session, self.job.tenant_id, self.job.id)
            return found

    def make_due(self) -> None:
        with self.database.transaction() as session:
            session.execute(text("UPDATE webhook_deliveries SET next_at = clock_timestamp() WHERE state = 'pending'"))


@pytest.fixture
def desk(here: Settings, database: Database, job: Job, tell: Callable[..., str]) -> Desk:
    return Desk(database, Outbound(timeout_s=here.webhook_timeout_s, allow_http=True), job, tell)


def wait_s(log: DeliveryLog) -> float:
    """Seconds from the last try to the next one."""
    assert log.delivery.next_at is not None
    return (log.delivery.next_at - log.attempts[-1].at).total_seconds()


class TestSuccess:
    def test_it_arrives_signed_and_is_recorded(self, desk: Desk):
        with script.receiver(script.status(200, body=b"thanks")) as receiver:
            secret = desk.tell(receiver.url)
            assert [attempt.state for attempt in desk.send()] == ["delivered"]
            assert not desk.send()
        (request,) = receiver.received
        event = standardwebhooks.Webhook(secret).verify(request.body, request.headers)
        assert event["id"] == request.headers["webhook-id"]
        assert request.headers["content-type"] == "application/json"
        found = desk.log()
        assert (found.delivery.state, found.delivery.tries, found.delivery.next_at) == ("delivered", 1, None)
        assert found.delivery.delivered_at is not None
        assert [(a.number, a.status, a.response, a.error) for a in found.attempts] == [(1, 200, "thanks", None)]

    def test_a_long_answer_is_kept_in_part(self, desk: Desk):
        with script.receiver(script.status(200, body=b"\x00\xff" + b"x" * 10_000)) as receiver:
            desk.tell(receiver.url)
            desk.send()
        response = str(desk.log().attempts[0].response)
        assert len(response) == delivery.RESPONSE_BYTES
        assert "\x00" not in response

    @pytest.mark.parametrize("answer", [script.flood, script.drip_body], ids=["gigabyte", "drip"])
    def test_a_body_that_never_ends_counts_by_its_status(self, desk: Desk, answer):
        with script.receiver(answer) as receiver:
            desk.tell(receiver.url)
            desk.send()
        assert desk.log().delivery.state == "delivered"


class TestFailure:
    @pytest.mark.parametrize(
        ("answer", "status", "error"),
        [
            (script.status(500), 500, None),
            (script.status(301, location="http://127.0.0.1:1/"), 301, None),
            (script.status(404), 404, None),
            (script.hang, None, "timeout"),
            (script.drip, None, "timeout"),
            (script.reset, None, "connect"),
            (script.garbage, None, "protocol"),
        ],
        ids=["500", "301", "404", "hang", "drip", "reset", "garbage"],
    )
    def test_it_is_tried_again_with_the_same_id_and_bytes(self, desk: Desk, answer, status, error):
        with script.receiver(answer, script.status(204)) as receiver:
            desk.tell(receiver.url)
            desk.send()
            (attempt,) = desk.log().attempts
            assert (desk.log().delivery.state, attempt.status) == ("pending", status)
            assert error is None or str(attempt.error).startswith(error)
            desk.make_due()
            desk.send()
        assert desk.log().delivery.state == "delivered"
        first, second = receiver.received
        assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])

    def test_nobody_listens(self, desk: Desk):
        desk.tell(script.closed_port())
        desk.send()
        assert str(desk.log().attempts[0].error).startswith("connect")

    def test_410_is_the_end(self, desk: Desk):
        with script.receiver(script.status(410)) as receiver:
            desk.tell(receiver.url)
            desk.send()
        assert (desk.log().delivery.state, desk.log().delivery.next_at) == ("dead", None)

    def test_the_schedule_and_its_end(self, desk: Desk, here: Settings):
        with script.receiver(script.status(500)) as receiver:
            desk.tell(receiver.url)
            for pause in delivery.SCHEDULE_S[1:]:
                desk.send()
                scaled = pause * here.webhook_retry_scale
                assert scaled * 0.99 <= wait_s(desk.log()) + 0.05
                assert wait_s(desk.log()) <= scaled * (1 + delivery.JITTER) + 0.05
                desk.make_due()
            desk.send()
        assert (desk.log().delivery.state, desk.log().delivery.tries, len(receiver.received)) == ("dead", 10, 10)
        assert sum(delivery.SCHEDULE_S) == 75 * 3600 + 35 * 60 + 5

    @pytest.mark.parametrize("spelled", ["seconds", "date"])
    def test_retry_after_makes_the_pause_longer(self, desk: Desk, spelled):
        later = "60" if spelled == "seconds" else format_datetime(utc_now() + timedelta(seconds=60), usegmt=True)
        with script.receiver(script.status(429, retry_after=later)) as receiver:
            desk.tell(receiver.url)
            desk.send()
        assert 55 < wait_s(desk.log()) < 65

    @pytest.mark.parametrize("nonsense", ["soon", "-5", "9" * 400, "²", ""])
    def test_a_retry_after_that_says_nothing_usable(self, desk: Desk, nonsense):
        with script.receiver(
            script.status(503, retry_after=nonsense.encode("utf-8", "ignore").decode("latin-1"))
        ) as receiver:
            desk.tell(receiver.url)
            desk.send()
        assert wait_s(desk.log()) <= delivery.LONGEST_S + 1

    def test_a_secret_that_does_not_open_is_not_sent(self, desk: Desk):
        with script.receiver() as receiver:
            desk.tell(receiver.url)
            with desk.database.transaction() as session:
                session.execute(text("UPDATE webhook_deliveries SET secret = '\\x00'"))
            desk.send()
        assert not receiver.received
        assert str(desk.log().attempts[0].error).startswith("secret")


class TestCrash:
    def test_killed_after_2xx_means_delivered_again_with_the_same_bytes(self, desk: Desk):
        with script.receiver() as receiver:
            secret = desk.tell(receiver.url)
            with armed("webhook.after_2xx:raise@1"):
                with pytest.raises(Injected):
                    desk.send()
                assert (desk.log().delivery.state, desk.log().delivery.tries) == ("pending", 0)
                wait_until(desk.send, what="the lease runs out")
        assert desk.log().delivery.state == "delivered"
        first, second = receiver.received
        assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
        assert standardwebhooks.Webhook(secret).verify(second.body, second.headers)

    def test_what_is_leased_is_not_taken_twice(self, desk: Desk):
        desk.tell("http://127.0.0.1:1/")
        assert len(desk.claim()) == 1
        assert not desk.claim()

    def test_a_late_record_of_a_lost_lease_is_dropped(self, desk: Desk):
        with script.receiver(script.status(500), script.status(204)) as receiver:
            desk.tell(receiver.url)
            (stale,) = desk.claim(1)
            wait_until(desk.send, what="the lease runs out")
            assert desk.log().delivery.tries == 1
            desk.make_due()
            desk.send()
            delivery.deliver(desk.database, desk.sender, stale)
        assert (desk.log().delivery.state, [a.number for a in desk.log().attempts]) == ("delivered", [1, 2])


class TestFairness:
    def test_a_hanging_receiver_holds_two_hands_at_most(self, desk: Desk):
        for seq in range(1, 21):
            desk.tell("http://slow.example/", seq=seq)
        desk.tell("http://quick.example/", seq=21)
        taken = [due.url for due in desk.claim(8)]
        assert sorted(taken) == ["http://quick.example/", "http://slow.example/", "http://slow.example/"]
        assert not desk.claim(8)

    def test_two_couriers_share_what_is_due(self, desk: Desk):
        with script.receiver() as receiver:
            for seq in range(1, 31):
                desk.tell(receiver.url, seq=seq)
            couriers = [threading.Thread(target=_drain, args=(desk, receiver, 30)) for _ in range(3)]
            for courier in couriers:
                courier.start()
            for courier in couriers:
                courier.join()
        assert len({request.headers["webhook-id"] for request in receiver.received}) == 30
        assert len(receiver.received) == 30


def _drain(desk: Desk, receiver: Server, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(receiver.received) < count and time.monotonic() < deadline:
        desk.send()
