"""What people see of calibrations, quantizations and evaluations: phases, rates, tables."""

from collections.abc import Callable
from typing import Any

import pytest

from services.cli import models, pacing
from services.cli.compression_view import compared, rows
from services.cli.output import ExitCode
from services.cli.pacing import Pace
from tests.services.cli.compression_answers import figures, job, run
from tests.services.cli.scripted import gateway, reply


class TestPace:
    @pytest.fixture
    def later(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        now = [100.0]
        monkeypatch.setattr(pacing, "monotonic", lambda: now[0])

        def pass_(seconds: float) -> None:
            now[0] += seconds

        return pass_

    def test_phase_count_rate_and_time_left(self, later: Callable[[float], None]) -> None:
        pace = Pace("quantization")
        assert pace.standing(job("queued", done=0, total=None)).line == "queued"
        assert pace.standing(job("running", done=0, total=24)).line == "quantizing 0/24 layers"
        later(10)
        told = pace.standing(job("running", done=4, total=24))
        assert told.line == "quantizing 4/24 layers, 0.4 a second, 50 s left"
        assert (told.title, told.done, told.total) == ("quantizing", 4, 24)

    def test_what_is_counted_says_what_is_done(self) -> None:
        calibration, quantization = Pace("calibration"), Pace("quantization")
        running: dict[str, Any] = {"done": 1, "total": 3}
        assert calibration.standing(job("running", unit="samples", **running)).title == "collecting"
        assert calibration.standing(job("running", **running)).title == "measuring"
        assert quantization.standing(job("running", **running)).title == "quantizing"
        assert quantization.standing(job("running")).line == "saving"
        assert quantization.standing(job("running", unit="samples", **running)).title == "evaluating"
        assert quantization.standing(job("running", unit="samples")).line == "finishing"
        assert quantization.standing(job("succeeded", unit="samples")).line == "succeeded"

    def test_another_attempt_begins_to_count_anew(self, later: Callable[[float], None]) -> None:
        pace = Pace("quantization")
        pace.standing(job("running", done=0, total=24))
        later(10)
        pace.standing(job("running", done=20, total=24))
        again = {**job("running", done=2, total=24), "attempt": 2}
        assert pace.standing(again).line == "quantizing (attempt 2) 2/24 layers"
        later(10)
        assert pace.standing(again).line == "quantizing (attempt 2) 2/24 layers"
        assert "0.2 a second" in pace.standing({**again, "progress": {**again["progress"], "done": 4}}).line


class TestTable:
    def test_the_original_stands_beside_what_was_made_of_it(self) -> None:
        found = {what: rest for what, *rest in rows(figures(served=True))}
        assert found["weights"] == ["8 MiB", "4 MiB", "-50%"]
        assert found["text: perplexity"] == ["67.500", "68.000", "+0.74%"]
        assert found["text: agreement"] == ["–", "97.20%", ""]
        assert found["transformers on cpu: first token"] == ["20.0 ms", "20.0 ms", ""]
        assert "text: ppl_increase" not in found

    def test_one_model_has_no_change(self) -> None:
        alone = {**figures(), "baseline": None, "tasks": []}
        assert {(before, change) for _, before, _, change in rows(alone)} == {("–", "")}


class TestCompare:
    def test_two_models_beside_each_other(self) -> None:
        measured = figures(served=True)
        side = {"dtype": "bfloat16", "bytes": 9 << 20, "parameters": 4_000_000, "kv_bytes_per_token": 768}
        task = {"name": "text", "a": {"perplexity": 67.5}, "b": {"perplexity": 68.0}, "between": {"agreement": 0.972}}
        found: dict[str, Any] = {
            "a": {"id": "tiny@1", **side, "measured": measured["baseline"]},
            "b": {"id": "tiny-w4a16@1", **side, "dtype": "int4", "measured": measured["candidate"]},
            "tasks": [task],
            "lineage": {"base": "tiny@1", "derived": "tiny-w4a16@1"},
        }
        shown = {what: rest for what, *rest in compared(found)}
        assert shown["dtype"] == ["bfloat16", "int4", ""]
        assert shown["text: agreement"] == ["–", "97.20%", ""]
        with gateway(reply(200, found)) as running:
            done = run(models.app, running, "compare", "tiny", "tiny-w4a16")
        assert done.exit_code == ExitCode.OK, done.output
        assert running.asked[0].path == "/v1/models/tiny/compare/tiny-w4a16"
        assert "tiny-w4a16@1 comes of tiny@1" in done.stdout

    def test_two_that_nobody_measured(self) -> None:
        side = {"dtype": "bfloat16", "bytes": 9, "parameters": 4, "kv_bytes_per_token": 768, "measured": None}
        found: dict[str, Any] = {"a": {"id": "a@1", **side}, "b": {"id": "b@1", **side}, "tasks": [], "lineage": None}
        with gateway(reply(200, found)) as running:
            done = run(models.app, running, "compare", "a", "b")
        assert "modelyard evaluate b@1 --baseline a@1" in done.stdout
