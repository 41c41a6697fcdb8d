"""A tuning that is watched: the newest loss behind the count of its steps; and `modelyard jobs metrics`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cli import pacing
from services.cli.jobs import app as jobs
from services.cli.output import ExitCode
from services.cli.tune import app as tune
from services.cli.tune_watching import Losses
from services.cli.tuning_view import live
from tests.services.cli.compression_answers import JOB, NO_LOGS, run
from tests.services.cli.scripted import gateway, reply, stream
from tests.services.cli.tuning_answers import NO_METRICS, job, metrics, script, uploads, waiting

STEP = {"loss": 0.42131, "learning_rate": 1.25e-4, "tokens_per_second": 1204.4, "grad_norm": 1.5}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands until it is told to go on."""
    now = [0.0]
    monkeypatch.setattr(pacing, "monotonic", lambda: now[0])

    def go(seconds: float) -> None:
        now[0] += seconds

    return go


class TestLosses:
    def test_the_newest_figures_stand_behind_the_count(self, later: Callable[[float], None]) -> None:
        pages = [metrics((1, STEP), (2, {"validation_loss": 0.5}), more=True), metrics((3, {**STEP, "loss": 0.4}))]
        with gateway(*pages) as running, running.client() as client:
            losses = Losses(client, job())
            assert losses.standing(job("running", done=0)).line == "training 0/120 steps"
            later(10)
            losses.look()
            standing = losses.standing(job("running", done=40))
        assert standing.line == (
            "training 40/120 steps, loss 0.4000, validation 0.5000, lr 1.3e-04, 1,204 tokens/s, 20 s left"
        )
        assert standing.unit == "steps, loss 0.4000, validation 0.5000, lr 1.3e-04, 1,204 tokens/s"
        assert [asked.path for asked in running.asked] == [
            f"/v1/jobs/{JOB}/metrics?after=-1&limit=1000",
            f"/v1/jobs/{JOB}/metrics?after=2&limit=1000",
        ]

    def test_an_attempt_that_goes_on_from_a_checkpoint_tells_its_steps_anew(self) -> None:
        with gateway(metrics((50, STEP)), metrics((41, {**STEP, "loss": 0.3}))) as running, running.client() as client:
            losses = Losses(client, job())
            losses.look()
            again = job("running", done=40, attempt=2)
            losses.standing(again)
            losses.look()
            further = losses.standing(job("running", done=41, attempt=2))
        assert further.line.startswith("training (attempt 2) 41/120 steps, loss 0.3000")
        assert "after=40" in running.asked[-1].path

    def test_data_is_counted_before_there_is_a_loss(self) -> None:
        with gateway(NO_METRICS) as running, running.client() as client:
            losses = Losses(client, job())
            losses.look()
            assert losses.standing(job("running", done=7, unit="samples")).line == "reading 7/120 samples"
            assert losses.standing(job("running", unit="samples")).line == "loading"
            assert losses.standing(job("running")).line == "saving"

    def test_a_gateway_that_is_away_is_asked_again(self) -> None:
        with gateway(NO_METRICS) as gone:
            pass
        with gone.client() as client:
            losses = Losses(client, job())
            losses.look()
            assert losses.standing(job("running", done=1)).line == "training 1/120 steps"

    def test_what_is_not_known_is_left_out(self) -> None:
        assert live({"loss": 2.0, "memory_bytes": 5.0}) == "loss 2.0000"
        assert live({}) == ""


class TestWatching:
    def test_the_log_tells_that_it_goes_on_with_less(self, tmp_path: Path) -> None:
        data = tmp_path / "data.jsonl"
        data.write_text('{"text": "x"}\n')
        relieved = "ran out of memory at step 40: goes on with half the micro-batch (4)"
        log = reply(200, {"data": [{"id": 1, "message": relieved}], "has_more": False})
        answers = [
            *uploads(1), reply(202, job("queued")), reply(200, job("running", done=40)),
            stream({"id": 1, "type": "job.adjusted", "data": {"reason": relieved}}, {"id": 2, "type": "job.succeeded"}),
            reply(200, job("running", done=41)), log, metrics((41, STEP)), reply(200, job()), NO_LOGS, NO_METRICS,
            *script(files=0)[-1:], waiting(),
        ]  # fmt: skip
        with gateway(*answers) as running:
            done = run(tune, running, "tiny", "--data", str(data), "--json")
        assert done.exit_code == ExitCode.OK, done.output
        told = [line.strip() for line in done.stderr.splitlines()]
        assert told.count(relieved) == 1
        assert told.index("training 40/120 steps") < told.index(relieved) < told.index("succeeded")
        assert json.loads(done.stdout)["then"] == []


class TestMetrics:
    def test_steps_are_a_table_of_what_they_told(self) -> None:
        rows = ((1, STEP), (2, {"loss": 0.4, "validation_loss": 0.5, "learning_rate": 1e-4}))
        with gateway(metrics(*rows)) as running:
            done = run(jobs, running, "metrics", JOB, "--limit", "2", "--after", "0")
        assert done.exit_code == ExitCode.OK, done.output
        assert running.asked[0].path == f"/v1/jobs/{JOB}/metrics?after=0&limit=2"
        head, first, second, *_ = done.stdout.splitlines()
        assert head.split() == ["step", "loss", "validation", "learning", "rate", "grad", "norm", "tokens/s"]
        assert first.split() == ["1", "0.4213", "1.25e-04", "1.5", "1,204"]
        assert second.split() == ["2", "0.4000", "0.5000", "1.00e-04"]

    def test_json_has_every_value(self) -> None:
        with gateway(metrics((1, STEP))) as running:
            done = run(jobs, running, "metrics", JOB, "--json")
        (row,) = json.loads(done.stdout)["data"]
        assert (row["id"], row["values"]) == (1, STEP)
