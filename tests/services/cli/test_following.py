from typing import Any

import pytest

from services.cli import following
from services.cli.client import Refused
from services.cli.following import follow
from services.cli.sse import ServerSentEvent, parse
from tests.services.cli.scripted import Answer, gateway, reply, stream

QUEUED = {"id": 1, "type": "job.queued", "data": {}}
STARTED = {"id": 2, "type": "job.started", "data": {"attempt": 1}}
SUCCEEDED = {"id": 3, "type": "job.succeeded", "data": {}}


def page(*events: dict[str, Any]) -> Answer:
    return reply(200, {"object": "list", "data": list(events), "has_more": False})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.01)


class TestParse:
    def test_an_event(self) -> None:
        lines = ["id: 7", "event: job.started", 'data: {"a":', "data: 1}", ""]
        assert list(parse(lines)) == [ServerSentEvent("7", "job.started", '{"a":\n1}')]

    def test_pings_are_nothing(self) -> None:
        assert list(parse([": ping", "", ": ping", ""])) == []

    def test_what_was_cut_off_is_dropped(self) -> None:
        assert list(parse(["id: 1", "event: job.queued", "data: {}"])) == []


class TestFollow:
    def test_ends_with_the_terminal_event(self) -> None:
        with gateway(stream(QUEUED, STARTED, SUCCEEDED)) as running, running.client() as client:
            seen = [event.type for event in follow(client, "j") if event]
        assert seen == ["job.queued", "job.started", "job.succeeded"]

    def test_a_broken_stream_goes_on_where_it_was(self) -> None:
        script = (stream(QUEUED), page(), stream(STARTED, SUCCEEDED))
        with gateway(*script) as running, running.client() as client:
            seen = [event.id for event in follow(client, "j") if event]
        assert seen == [1, 2, 3]
        assert [asked.headers.get("last-event-id") for asked in running.asked] == ["0", None, "1"]

    def test_polls_where_streams_do_not_get_through(self) -> None:
        script = (stream(), page(QUEUED), page(STARTED), page(SUCCEEDED))
        with gateway(*script) as running, running.client() as client:
            seen = [event.id for event in follow(client, "j") if event]
        assert seen == [1, 2, 3]
        assert [asked.path for asked in running.asked][1:] == [
            "/v1/jobs/j/events",
            "/v1/jobs/j/events?after=1",
            "/v1/jobs/j/events?after=2",
        ]

    def test_a_gateway_without_a_place_for_a_stream_is_polled(self) -> None:
        script = (reply(429, {"code": "rate_limited"}), page(QUEUED, STARTED, SUCCEEDED))
        with gateway(*script) as running, running.client() as client:
            assert [event.id for event in follow(client, "j") if event] == [1, 2, 3]

    def test_no_such_job_is_told(self) -> None:
        gone = reply(404, {"code": "not_found"})
        with gateway(gone) as running, running.client() as client, pytest.raises(Refused):
            list(follow(client, "j"))

    def test_ticks_while_nothing_happens(self) -> None:
        script = (stream(QUEUED), page(), stream(), page(), stream(SUCCEEDED))
        with gateway(*script) as running, running.client() as client:
            seen = list(follow(client, "j", tick_s=0.001))
        assert None in seen
        assert [event.id for event in seen if event] == [1, 3]
