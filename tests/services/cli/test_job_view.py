from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.cli import job_view

JOB: dict[str, Any] = {"state": "running", "held_at": None, "cancel_requested_at": None}


class TestState:
    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({}, "running"),
            ({"held_at": "2026-01-31T12:00:00Z"}, "running (paused)"),
            ({"cancel_requested_at": "2026-01-31T12:00:00Z"}, "running (cancelling)"),
            ({"state": "cancelled", "cancel_requested_at": "2026-01-31T12:00:00Z"}, "cancelled"),
        ],
    )
    def test_says_what_the_state_does_not(self, changed: dict[str, Any], expected: str) -> None:
        assert job_view.state(JOB | changed) == expected


class TestClip:
    def test_is_one_line(self) -> None:
        assert job_view.clip("a\n\n  b\tc") == "a b c"

    def test_controls_do_not_reach_the_terminal(self) -> None:
        assert "\x1b" not in job_view.clip("\x1b[31mred\x07")

    def test_is_cut(self) -> None:
        assert job_view.clip("x" * 200, width=10) == "x" * 9 + "…"


class TestResults:
    def test_what_a_model_writes_is_no_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = {"index": 0, "output": {"text": "[bold]x[/] :smile: [data]", "finish_reason": "stop"}, "error": None}
        job_view.show_results([line])
        assert "[bold]x[/] :smile: [data]" in capsys.readouterr().out

    def test_an_error_stands_in_its_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = {"code": "context_length_exceeded", "title": "The line is too long", "detail": ""}
        job_view.show_results([{"index": 3, "output": None, "error": error}], prompts=["a", "b", "c", "the fourth"])
        shown = capsys.readouterr().out
        assert "context_length_exceeded: The line is too long" in shown
        assert "the fourth" in shown


class TestAge:
    @pytest.mark.parametrize(("seconds", "expected"), [(5, "5s"), (125, "2m"), (7300, "2h"), (200_000, "2d")])
    def test_is_short(self, seconds: int, expected: str) -> None:
        assert job_view.age((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()) == expected
