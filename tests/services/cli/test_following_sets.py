"""Waiting for batches and document sets: counts as they move, exit codes, and what happens when it gets dark."""

import signal
import subprocess
import sys
from typing import Any

import pytest

from services.cli import following_sets
from services.cli.client import Refused, Unreachable
from services.cli.following_sets import BATCH, DOCUMENT_SET, cause_of_end, summary, until_end, verdict
from services.cli.output import ExitCode
from services.cli.waiting import Late
from shared.embedded.roles import ROOT
from tests.services.cli.scripted import gateway, reply, reset
from tests.support.polling import wait_until


def found(status: str = "in_progress", **counts: int) -> dict[str, Any]:
    counted = {"total": 4, "completed": 0, "flagged": 0, "failed": 0, **counts}
    return {"id": "docset_1", "status": status, "counts": counted, "error": None}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_sets, "FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(following_sets, "LOOK_S", 0.01)


class TestUntilEnd:
    def test_looks_until_it_has_ended(self, capsys: pytest.CaptureFixture[str]) -> None:
        script = (reply(200, found(completed=1)), reply(200, found("finalizing", completed=4)))
        with gateway(*script, reply(200, found("completed", completed=4))) as running, running.client() as client:
            ended = until_end(client, DOCUMENT_SET, found("queued"))
        assert ended["status"] == "completed"
        assert [asked.path for asked in running.asked] == ["/v1/document_sets/docset_1"] * 3
        assert capsys.readouterr().err.splitlines() == [
            "queued 0/4 documents",
            "in_progress 1/4 documents",
            "finalizing 4/4 documents",
            "completed 4/4 documents",
        ]

    def test_one_that_has_ended_is_not_looked_at_again(self) -> None:
        with gateway(reply(500)) as running, running.client() as client:
            until_end(client, DOCUMENT_SET, found("failed"))
        assert running.asked == []

    def test_a_gateway_may_be_away_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("services.cli.client.PAUSES", (0.0,))
        script = (reset, reset, reply(200, found("completed")))
        with gateway(*script) as running, running.client() as client:
            assert until_end(client, DOCUMENT_SET, found())["status"] == "completed"

    def test_but_not_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("services.cli.client.PAUSES", (0.0,))
        monkeypatch.setattr(following_sets, "PATIENCE_S", 0.0)
        with gateway(reset) as running, running.client() as client, pytest.raises(Unreachable):
            until_end(client, DOCUMENT_SET, found())

    def test_a_refusal_ends_it(self) -> None:
        with gateway(reply(404, {"code": "not_found"})) as running, running.client() as client, pytest.raises(Refused):
            until_end(client, DOCUMENT_SET, found())

    def test_patience_has_a_limit_of_the_callers(self) -> None:
        with gateway(reply(200, found())) as running, running.client() as client, pytest.raises(Late) as late:
            until_end(client, DOCUMENT_SET, found(), timeout_s=0.05)
        assert late.value.exit_code == ExitCode.TIMEOUT

    def test_an_interruption_says_how_to_go_on(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(_seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("services.cli.following_sets.time.sleep", interrupted)
        with gateway(reply(200, found())) as running, running.client() as client, pytest.raises(KeyboardInterrupt):
            until_end(client, DOCUMENT_SET, found())
        assert "modelyard documents wait docset_1" in capsys.readouterr().err


class TestVerdict:
    @pytest.mark.parametrize(
        ("status", "failed", "allowed", "code"),
        [
            ("completed", 0, False, ExitCode.OK),
            ("completed", 1, False, ExitCode.INCOMPLETE),
            ("completed", 1, True, ExitCode.OK),
            ("failed", 1, True, ExitCode.FAILED),
            ("cancelled", 1, True, ExitCode.CANCELLED),
            ("expired", 0, False, ExitCode.EXPIRED),
        ],
    )
    def test_a_status_is_an_exit_code(self, status: str, failed: int, *, allowed: bool, code: ExitCode) -> None:
        assert verdict(DOCUMENT_SET, found(status, failed=failed), allow_failures=allowed) == code

    def test_a_batch_says_what_is_wrong_with_its_file(self) -> None:
        problems = [{"code": "invalid_json", "message": "not JSON", "line": 7, "param": None}] * 3
        batch = {"errors": {"object": "list", "data": problems}}
        assert cause_of_end(batch) == "line 7: not JSON (invalid_json); and 2 more"

    def test_counts_of_zero_are_not_told(self) -> None:
        shown = {"id": "b", "status": "in_progress", "request_counts": {"total": 9, "completed": 3, "failed": 2}}
        assert summary(BATCH, shown) == "in_progress 5/9 lines, 2 failed"
        assert summary(BATCH, {**shown, "request_counts": {"total": 0, "completed": 0, "failed": 0}}) == "in_progress"
        assert summary(DOCUMENT_SET, found(completed=3, flagged=1)) == "in_progress 3/4 documents, 1 flagged"


class TestInterrupted:
    def test_a_signal_leaves_it_running(self) -> None:
        with gateway(reply(200, found())) as running:
            where = ("--url", running.url, "--api-key", "modelyard_test")
            # whoever runs these tests in the background of a shell has them ignore SIGINT
            argv = ["env", "--default-signal=INT", sys.executable, "-m", "services.cli.main"]
            argv += ["documents", "wait", "docset_1", *where]
            with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as waiting:
                wait_until(lambda: len(running.asked) > 2, timeout=60, what="it looks")
                waiting.send_signal(signal.SIGINT)
                _, told = waiting.communicate(timeout=30)
        assert waiting.returncode == ExitCode.INTERRUPTED
        assert "modelyard documents wait docset_1" in told
        assert {asked.method for asked in running.asked} == {"GET"}
