"""`modelyard tune` and `merge`: what is sent, and what is refused before anything is."""

from pathlib import Path

import pytest

from services.cli.output import ExitCode
from services.cli.tune import app as tune
from shared.contracts.tuning import Checkpoints, Lora, Preparation, Training, TuningSpec
from tests.services.cli.compression_answers import JOB, run, sent
from tests.services.cli.scripted import gateway, reply
from tests.services.cli.tuning_answers import script


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats:2024.jsonl"
    path.write_text('{"prompt": "What a file may be called.", "completion": "[file]"}\n')
    return path


class TestRequest:
    def test_options_become_the_request(self, chats: Path) -> None:
        options = (
            "--data", f"{chats}:2", "-d", "library", "--validation", "file-held", "--method", "rslora",
            "--near-duplicates", "0.8", "--quality", "--min-characters", "4", "--max-characters", "900",
            "--reference", "file-like", "--share", "0.5", "--keep-duplicates",
            "--rank", "8", "--alpha", "16", "--dropout", "0.1", "--target", "q_proj", "--target", "v_proj",
            "--lr", "3e-3", "--schedule", "linear", "--warmup", "0.1", "--steps", "120", "--batch-size", "8",
            "--micro-batch-size", "4", "--weight-decay", "0.01", "--max-grad-norm", "0.5", "--label-smoothing", "0.1",
            "--neftune", "5", "--max-length", "64", "--too-long", "drop", "--packing", "--loss-on", "completion",
            "--early-stopping", "2", "--early-stopping-threshold", "0.01", "--evaluate-every", "10",
            "--log-every", "2", "--seed", "7", "--precision", "fp32", "--no-gradient-checkpointing", "--compile",
            "--no-activation-offloading", "--checkpoint-every", "40", "--checkpoint-every", "90s", "--keep", "2",
            "--checkpoint-models", "--name", "router", "--alias", "best", "--no-serve", "--gpu-class", "h200",
            "--devices", "2",
        )  # fmt: skip
        with gateway(*script()) as running:
            done = run(tune, running, "tiny", *options, "--detach")
            assert done.exit_code == ExitCode.OK, done.output
        assert done.stdout == f"{JOB}\n"
        request = sent(running)
        assert request == {
            "kind": "tuning",
            "gpu_class": "h200",
            "spec": {
                "model": "tiny",
                "method": "rslora",
                "data": [{"type": "file", "file_id": "file-0", "weight": 2.0}, {"type": "library"}],
                "validation": [{"type": "file", "file_id": "file-held"}],
                "preparation": {
                    "deduplicate": False,
                    "near_duplicates": 0.8,
                    "quality": True,
                    "min_characters": 4,
                    "max_characters": 900,
                    "reference": [{"type": "file", "file_id": "file-like"}],
                    "share": 0.5,
                },
                "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
                "training": {
                    "learning_rate": 0.003,
                    "schedule": "linear",
                    "warmup": 0.1,
                    "steps": 120,
                    "batch_size": 8,
                    "micro_batch_size": 4,
                    "weight_decay": 0.01,
                    "max_grad_norm": 0.5,
                    "label_smoothing": 0.1,
                    "neftune_alpha": 5.0,
                    "max_length": 64,
                    "too_long": "drop",
                    "packing": True,
                    "loss_on": "completion",
                    "early_stopping": {"patience": 2, "threshold": 0.01},
                    "evaluate_every": 10,
                    "log_every": 2,
                    "seed": 7,
                    "precision": "fp32",
                    "gradient_checkpointing": False,
                    "compile": True,
                    "activation_offloading": False,
                },
                "checkpoints": {"every_steps": 40, "every_minutes": 1.5, "keep": 2},
                "name": "router",
                "alias": "best",
                "serve": False,
                "checkpoint_models": True,
                "devices": 2,
            },
        }
        assert b'name="purpose"\r\n\r\nfine-tune' in next(
            asked.body for asked in running.asked if asked.path == "/v1/files" and asked.method == "POST"
        )
        missing = {
            contract: set(contract.model_fields) - set(part)
            for contract, part in (
                (TuningSpec, request["spec"]),
                (Training, request["spec"]["training"]),
                (Lora, request["spec"]["lora"]),
                (Checkpoints, request["spec"]["checkpoints"]),
                (Preparation, request["spec"]["preparation"]),
            )
        }
        assert {name for names in missing.values() for name in names} == {
            "serving", "suffix", "validation_share", "epochs"
        }, "a field of the spec has no option here"  # fmt: skip

    def test_the_others_go_with_a_whole_model(self) -> None:
        options = (
            "-d", "file-a", "--method", "full", "--epochs", "2", "--batch-size", "auto", "--suffix", "router",
            "--validation-share", "0.1", "--set", "engine=vllm", "--set", "batching.policy=static", "--prepare",
        )  # fmt: skip
        with gateway(*script(files=0)) as running:
            done = run(tune, running, "tiny", *options, "--detach")
        assert done.exit_code == ExitCode.OK, done.output
        assert sent(running)["spec"] == {
            "model": "tiny",
            "method": "full",
            "data": [{"type": "file", "file_id": "file-a"}],
            "validation_share": 0.1,
            "preparation": {},
            "training": {"epochs": 2.0, "batch_size": "auto"},
            "suffix": "router",
            "serving": {"engine": "vllm", "batching": {"policy": "static"}},
        }

    def test_what_is_not_said_is_left_to_the_platform(self, chats: Path) -> None:
        with gateway(*script()) as running:
            run(tune, running, "tiny", "--data", str(chats), "--detach")
        data = [{"type": "file", "file_id": "file-0"}]
        assert sent(running) == {"kind": "tuning", "spec": {"model": "tiny", "method": "lora", "data": data}}

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("--method", "qlora"), "--method"),
            (("--method", "full", "--rank", "8"), "leave lora out"),
            (("--rank", "512"), "lora.rank"),
            (("--steps", "5", "--epochs", "1"), "not both"),
            (("--batch-size", "many"), "--batch-size"),
            (("--batch-size", "8", "--micro-batch-size", "3"), "does not divide"),
            (("--learning-rate", "-1"), "training.learning_rate"),
            (("--too-long", "cut"), "training.too_long"),
            (("--early-stopping", "2"), "validation"),
            (("--early-stopping-threshold", "0.1", "--validation-share", "0.1"), "--early-stopping-threshold"),
            (("--checkpoint-every", "soon"), "--checkpoint-every"),
            (("--checkpoint-every", "5", "--checkpoint-every", "6"), "once in steps"),
            (("--share", "0.5"), "reference"),
            (("--near-duplicates", "0.1"), "near_duplicates"),
            (("--devices", "3"), "devices"),
            (("--name", "a", "--suffix", "b"), "suffix"),
            (("--validation", "nowhere.jsonl"), "nowhere.jsonl"),
            (("--validation", "library:2"), "a weight is for what is trained on"),
            (("--reference", "library:2"), "a weight is for what is trained on"),
            (("--dry-run", "--detach"), "--dry-run"),
            (("--then", "publish"), "publish"),
            (("--then", "merge=now"), "merge=now"),
            (("--then", "merge", "--then", "quantize"), "no scheme"),
            (("--then", "merge", "--then", "quantize=w3a16"), "w3a16"),
            (("--then", "quantize=w4a16"), "put merge before it"),
            (("--method", "full", "--then", "merge"), "needs an adapter"),
            (("--then", "merge", "--then", "evaluate=nowhere.jsonl"), "nowhere.jsonl"),
        ],
    )
    def test_a_wrong_option_costs_no_upload(self, chats: Path, arguments: tuple[str, ...], told: str) -> None:
        with gateway(reply(500)) as running:
            done = run(tune, running, "tiny", "--data", str(chats), *arguments)
        assert done.exit_code == ExitCode.USAGE, done.output
        assert told in " ".join(done.stderr.replace("│", " ").split())
        assert running.asked == []

    def test_there_is_no_tuning_without_data(self) -> None:
        with gateway(reply(500)) as running:
            done = run(tune, running, "tiny")
        assert (done.exit_code, running.asked) == (ExitCode.USAGE, [])
        assert "--data" in done.stderr
