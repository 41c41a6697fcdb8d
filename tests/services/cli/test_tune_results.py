"""`modelyard tune` and `merge`: what follows, what is shown at the end, and what a dry run says."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.merge import app as merge
from services.cli.output import ExitCode
from services.cli.tune import app as tune
from tests.services.cli.compression_answers import JOB, run, sent
from tests.services.cli.scripted import gateway, reply
from tests.services.cli.tuning_answers import ADAPTER, FOLLOWER, LAST, RESULT, job, script, uploads, waiting

DRAFT: dict[str, Any] = {
    "plan": {"queue": "h200.forge", "reason": "the cheapest that fits"},
    "advice": {
        "memory": {"weights": 15 << 30, "activations": 30 << 30, "total": 45 << 30, "room": 130 << 30},
        "setting": {
            "devices": 2, "batch_size": 16, "micro_batch_size": 4, "accumulation": 2, "max_length": 2048,
            "precision": "bf16", "gradient_checkpointing": False, "compiled": True, "activation_offloading": False,
            "packing": True,
        },
        "trainable_parameters": 41_943_040, "tokens": 1_000_000, "steps": 31, "tokens_per_second": 16_000,
        "seconds": 92.5, "cost": 0.091, "words": ["about 92 s, by the size of the files: a guess"],
    },
    "on_success": [
        {"kind": "merge", "plan": {"reason": "planned when the job before it has made its model"}, "on_success": []}
    ],
}  # fmt: skip


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats:2024.jsonl"
    path.write_text('{"prompt": "What a file may be called.", "completion": "[file]"}\n')
    return path


class TestChain:
    def test_each_step_works_on_what_the_one_before_made(self, chats: Path) -> None:
        steps = ("merge", "evaluate", "quantize=w4a16", f"evaluate={chats}")
        options = [part for step in steps for part in ("--then", step)]
        given = ("--data", str(chats), "--validation", "file-held", "--gpu-class", "cpu")
        answers = [*uploads(1), reply(202, job("queued")), waiting(FOLLOWER), waiting(LAST), waiting()]
        with gateway(*answers) as running:
            done = run(tune, running, "tiny", *given, *options, "--detach", "--json")
        assert done.exit_code == ExitCode.OK, done.output
        assert json.loads(done.stdout) == {"job": JOB, "model": None, "artifact": None, "then": [FOLLOWER, LAST]}
        text = {"type": "text", "data": [{"type": "file", "file_id": "file-held"}]}
        answered = {"type": "generation", "file_id": "file-0"}
        judged = {"model": "$result", "baseline": "tiny"}
        assert sent(running)["on_success"] == [
            {
                "kind": "merge",
                "spec": {"model": "$result"},
                "gpu_class": "cpu",
                "on_success": [
                    {"kind": "evaluation", "spec": {**judged, "tasks": [text]}, "gpu_class": "cpu"},
                    {
                        "kind": "quantization",
                        "spec": {"model": "$result", "scheme": "w4a16"},
                        "gpu_class": "cpu",
                        "on_success": [
                            {"kind": "evaluation", "spec": {**judged, "tasks": [text, answered]}, "gpu_class": "cpu"}
                        ],
                    },
                ],
            }
        ]

    def test_a_merge_begins_one_too(self) -> None:
        with gateway(*script(files=0)) as running:
            done = run(merge, running, "lora", "-n", "whole", "--set", "engine=vllm", "--then", "evaluate", "--detach")
        assert done.exit_code == ExitCode.OK, done.output
        judged = {"kind": "evaluation", "spec": {"model": "$result", "tasks": [{"type": "text"}]}}
        assert sent(running) == {
            "kind": "merge",
            "spec": {"model": "lora", "name": "whole", "serving": {"engine": "vllm"}},
            "on_success": [judged],
        }


class TestResult:
    def test_json_is_one_object(self, chats: Path) -> None:
        with gateway(*script(after=(waiting(),))) as running:
            done = run(tune, running, "tiny", "--data", str(chats), "--json")
        assert done.exit_code == ExitCode.OK, done.output
        assert json.loads(done.stdout) == {"job": JOB, "model": "m-1", "artifact": "a-1", "then": []}

    def test_people_see_what_came_of_it_and_how_to_go_on(self, chats: Path) -> None:
        with gateway(*script(after=(reply(200, ADAPTER),))) as running:
            done = run(tune, running, "tiny", "--data", str(chats))
        assert done.exit_code == ExitCode.OK, done.output
        for told in (
            "120 (1.5 epochs, ended early)",
            "0.0512 (lowest at step 100)",
            "512 samples, 12,000 tokens (left out: 3 duplicate)",
            "batches of 16 (4 × 4), at most 64 tokens, fp32, gradient checkpointing",
            "micro-batch halved 1 times, gradient checkpointing",
            "rank 16, alpha 32, beside tiny@1",
            "modelyard chat ft:tiny:acme::0f1e2d3c",
        ):
            assert told in done.stdout

    def test_a_run_that_failed_made_nothing(self, chats: Path) -> None:
        error = {"code": "loss_not_finite", "title": "The loss is not finite", "detail": "at step 12"}
        nothing = {**RESULT, "model": None, "artifact": None, "figures": None, "file": None}
        answers = script(result=nothing)
        answers[3] = reply(200, {**job("failed"), "error": error})
        with gateway(*answers) as running:
            done = run(tune, running, "tiny", "--data", str(chats))
        assert done.exit_code == ExitCode.FAILED
        assert "at step 12" in done.stderr
        assert "--learning-rate" in done.stderr
        assert done.stdout == ""

    def test_a_merge_shows_the_whole_model(self) -> None:
        model = {**ADAPTER, "id": "whole", "adapter": None, "parent": None}
        answers = script(files=0, result={**RESULT, "figures": None, "file": None}, after=(reply(200, model),))
        del answers[3]  # a merge has no metrics
        with gateway(*answers) as running:
            done = run(merge, running, "lora")
        assert done.exit_code == ExitCode.OK, done.output
        assert "600 KiB in bfloat16" in done.stdout
        assert "modelyard chat whole" in done.stdout


class TestDryRun:
    def test_memory_time_and_cost_are_said_and_nothing_is_started(self, chats: Path) -> None:
        with gateway(*uploads(1), reply(200, DRAFT)) as running:
            done = run(tune, running, "tiny", "--data", str(chats), "--devices", "2", "--then", "merge", "--dry-run")
        assert done.exit_code == ExitCode.OK, done.output
        assert running.asked[-1].path == "/v1/jobs?validate_only=true"
        for told in (
            "45 GiB: weights 15 GiB, activations 30 GiB",
            "batches of 16 (4 × 2 on 2 devices), at most 2048 tokens, bf16, compiled layers, packed rows",
            "0.091",
            "by the size of the files: a guess",
            "merge: planned when the job before it",
            "Nothing was started.",
        ):
            assert told in done.stdout
        assert all(asked.method != "DELETE" for asked in running.asked)

    def test_files_of_a_plan_that_is_refused_are_forgotten(self, chats: Path) -> None:
        refused = {"code": "validation_failed", "detail": "it holds 64 tokens", "errors": []}
        with gateway(*uploads(1), reply(422, refused), reply(200, {"deleted": True})) as running:
            done = run(tune, running, "tiny", "--data", str(chats), "--max-length", "999", "--dry-run", "--json")
        assert done.exit_code == ExitCode.REFUSED
        assert json.loads(done.stdout)["code"] == "validation_failed"
        assert [asked.path for asked in running.asked if asked.method == "DELETE"] == ["/v1/files/file-0"]
