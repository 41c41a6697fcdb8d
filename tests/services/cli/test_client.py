import json
from pathlib import Path

import pytest

from services.cli import client as client_module
from services.cli.client import Address, Client, NoAddress, NoKey, Refused, Unreachable, address
from services.cli.output import ExitCode
from shared.clock import utc_now
from shared.embedded.layout import layout
from shared.embedded.state import Phase, YardState
from tests.services.cli.scripted import gateway, reply, reset
from tests.support.webhooks import closed_port

PROBLEM = {
    "title": "A field is missing, unknown or has a wrong value.",
    "status": 422,
    "detail": "A field is missing, unknown or has a wrong value.",
    "code": "validation_failed",
    "param": "priority",
    "request_id": "req_1",
    "errors": [{"param": "priority", "code": "greater_than_equal", "message": "should be at least 0"}],
}


@pytest.fixture
def yard_folder(tmp_path: Path) -> Path:
    place = layout(tmp_path / "yard")
    place.data.mkdir()
    state = {"url": "http://127.0.0.1:8123", "data": str(place.data), "version": "1", "state": Phase.READY, "pid": 1}
    YardState.model_validate({**state, "started_at": utc_now()}).save(place)
    place.admin_key_file.write_text("modelyard_admin\n")
    return place.data


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSES", (0.01, 0.01, 0.01))


class TestAddress:
    def test_comes_from_the_yard(self, yard_folder: Path) -> None:
        found = address(yard_folder)
        assert (found.url, found.key) == ("http://127.0.0.1:8123", "modelyard_admin")

    def test_what_was_given_goes_first(self, yard_folder: Path) -> None:
        found = address(yard_folder, url="https://yard.example/", api_key="modelyard_mine")
        assert (found.url, found.key) == ("https://yard.example", "modelyard_mine")

    def test_the_yards_key_goes_nowhere_else(self, yard_folder: Path) -> None:
        with pytest.raises(NoKey, match=r"https://yard\.example"):
            address(yard_folder, url="https://yard.example")

    def test_no_yard_is_said_with_the_way_out(self, tmp_path: Path) -> None:
        with pytest.raises(NoAddress, match="no yard") as raised:
            address(tmp_path)
        assert "modelyard up" in raised.value.fix

    def test_a_key_is_not_shown(self, yard_folder: Path) -> None:
        assert "modelyard_admin" not in repr(address(yard_folder))


class TestRetries:
    def test_a_submit_is_repeated_under_one_key(self) -> None:
        with gateway(reply(503, {"code": "database_unavailable"}), reset, reply(202, {"id": "j"})) as running:
            with running.client() as client:
                assert client.post("/v1/jobs", {"kind": "probe"}) == {"id": "j"}
            keys = {asked.headers["idempotency-key"] for asked in running.asked}
        assert len(running.asked) == 3
        assert len(keys) == 1

    def test_a_key_that_was_given_is_used(self) -> None:
        with gateway(reply(202, {"id": "j"})) as running, running.client() as client:
            client.post("/v1/jobs", {}, key="mine")
        assert running.asked[0].headers["idempotency-key"] == "mine"

    def test_two_submits_have_two_keys(self) -> None:
        with gateway(reply(202, {"id": "j"})) as running, running.client() as client:
            client.post("/v1/jobs", {})
            client.post("/v1/jobs", {})
        first, second = (asked.headers["idempotency-key"] for asked in running.asked)
        assert first != second

    def test_a_request_in_flight_is_asked_for_again(self) -> None:
        busy = reply(409, {"code": "conflict"}, retry_after_ms="10")
        with gateway(busy, reply(202, {"id": "j"})) as running, running.client() as client:
            assert client.post("/v1/jobs", {}) == {"id": "j"}

    def test_a_wrong_request_is_not_repeated(self) -> None:
        with gateway(reply(422, PROBLEM)) as running, running.client() as client, pytest.raises(Refused):
            client.post("/v1/jobs", {})
        assert len(running.asked) == 1

    def test_nobody_there_is_said_soon(self) -> None:
        with Client(Address(closed_port().removesuffix("/hook"), "k")) as client, pytest.raises(Unreachable) as raised:
            client.get("/v1/jobs")
        assert "modelyard up" in raised.value.fix
        assert raised.value.exit_code is ExitCode.UNREACHABLE


class TestErrors:
    def test_a_field_is_named(self) -> None:
        with gateway(reply(422, PROBLEM)) as running, running.client() as client, pytest.raises(Refused) as raised:
            client.post("/v1/jobs", {})
        assert "priority: should be at least 0" in str(raised.value)
        assert "validation_failed, 422" in str(raised.value)
        assert raised.value.body == PROBLEM

    def test_a_known_code_has_its_fix(self) -> None:
        body = {"code": "invalid_api_key", "detail": "No valid API key was given."}
        with gateway(reply(401, body)) as running, running.client() as client, pytest.raises(Refused) as raised:
            client.get("/v1/jobs")
        assert "--api-key" in raised.value.fix
        assert raised.value.exit_code is ExitCode.REFUSED

    @pytest.mark.parametrize(
        ("status", "code", "expected"),
        [
            (404, "not_found", ExitCode.NOT_FOUND),
            (404, "model_not_found", ExitCode.REFUSED),
            (409, "already_finished", ExitCode.REFUSED),
            (500, "internal_error", ExitCode.UNREACHABLE),
        ],
    )
    def test_exit_codes_tell_them_apart(self, status: int, code: str, expected: ExitCode) -> None:
        assert Refused(status, {"code": code}).exit_code is expected

    def test_what_is_not_ours_is_shown_as_it_is(self) -> None:
        page = reply(404, b"<h1>nothing here</h1>")
        with gateway(page) as running, running.client() as client, pytest.raises(Refused, match="404"):
            client.get("/v1/jobs")


class TestHeaders:
    def test_every_call_carries_the_key(self) -> None:
        with gateway(reply(200, {})) as running, running.client() as client:
            client.get("/v1/jobs", state=["queued", "running"], after=None)
        assert running.asked[0].headers["authorization"] == "Bearer modelyard_test"
        assert running.asked[0].path == "/v1/jobs?state=queued&state=running"

    def test_json_is_sent(self) -> None:
        with gateway(reply(202, {})) as running, running.client() as client:
            client.post("/v1/jobs", {"kind": "inference"})
        assert json.loads(running.asked[0].body) == {"kind": "inference"}

    def test_a_verb_has_no_body(self) -> None:
        with gateway(reply(200, {})) as running, running.client() as client:
            client.post("/v1/jobs/j/cancel")
        assert running.asked[0].body == b""
