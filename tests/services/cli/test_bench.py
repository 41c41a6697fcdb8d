"""`modelyard bench batching` as a process: no yard, and no engine where it is only arithmetic."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.cli.output import ExitCode
from shared.contracts.serving import Policy
from tests.support.yards import run_cli

ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def compare(*arguments: str, code: ExitCode = ExitCode.OK) -> str:
    done = run_cli("bench", "batching", *arguments, env=ENVIRONMENT)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


class TestSimulated:
    def test_every_policy_has_its_figures(self) -> None:
        found: dict[str, Any] = json.loads(compare("--simulate", "--sweep", "--seconds", "60", "--json"))
        assert [row["policy"] for row in found["scores"]] == list(Policy)
        assert {row["requests"] for row in found["scores"]} == {found["scores"][0]["requests"]}
        assert all(0 <= row["attainment"] <= 1 for row in found["scores"])
        static, dynamic = (row["tokens_per_s"] for row in found["sweep"][:2])
        assert dynamic >= 1.4 * static

    def test_people_get_tables(self) -> None:
        shown = compare("--simulate", "--sweep", "--seconds", "10", "--policies", "static,dynamic")
        assert "simulated: 10 s of 8 requests/s in bursts, seed 1, 32 places" in shown
        assert "× static" in shown
        assert "elastic" not in shown

    def test_a_policy_that_there_is_not_is_named(self) -> None:
        assert "fifo" in compare("--policies", "static,fifo", code=ExitCode.USAGE)

    def test_a_model_that_there_is_not_is_named(self) -> None:
        assert "there is no model in nowhere" in compare("-m", "nowhere", code=ExitCode.NOT_FOUND)

    def test_a_trace_without_requests_is_refused(self) -> None:
        assert "the trace is empty" in compare("--simulate", "--seconds", "1", "--rate", "0.1", code=ExitCode.FAILED)


class TestRealEngine:
    @pytest.mark.slow
    def test_a_trace_goes_through_a_lane_to_an_engine_of_its_own(self) -> None:
        found = json.loads(compare("--seconds", "4", "--rate", "4", "--policies", "dynamic", "--json"))
        (row,) = found["scores"]
        assert (found["engine"], row["policy"]) == ("yard-tiny", "dynamic")
        assert row["tokens_per_s"] > 0
        assert 0 < row["ttft_p50_s"] <= row["latency_p50_s"]

    def test_an_engine_that_does_not_start_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        assert "the engine did not start" in compare("-m", str(tmp_path), code=ExitCode.FAILED)
