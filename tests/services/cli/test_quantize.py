"""`modelyard quantize`: what is sent, what is refused before anything is, what is shown at the end."""

import json
from pathlib import Path

import pytest

from services.cli.output import ExitCode
from services.cli.quantize import app as quantize
from tests.services.cli.compression_answers import CALIBRATION, JOB, MODEL, RESULT, evaluation, job, run, script, sent
from tests.services.cli.scripted import gateway, reply


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "chats:2024.jsonl"
    path.write_text('{"text": "What a file may be called."}\n')
    return path


class TestQuantize:
    def test_options_become_the_request(self, texts: Path) -> None:
        options = (
            "--scheme", "w4a16", "--name", "small", "--method", "gptq", "--group-size", "64", "--ignore", "lm_head",
            "--override", "re:.*a=b=w8a16", "--override", "down_proj=w4a16:32", "--override", "up_proj=w8a16",
            "--calibration", f"{texts}:2", "--calibration", "library", "--samples", "32", "--sequence-length", "128",
            "--reference", "file-like", "--seed", "7", "--gate", "max_ppl_increase=0.5", "--gate", "min_agreement=0.9",
            "--text", str(texts), "--alias", "best", "--gpu-class", "h200", "--no-speed",
            "--devices", "2",
        )  # fmt: skip
        with gateway(*script(uploads=1)) as running:
            done = run(quantize, running, "tiny", *options, "--detach")
            assert done.exit_code == ExitCode.OK, done.output
        assert done.stdout == f"{JOB}\n"
        assert sent(running) == {
            "kind": "quantization",
            "gpu_class": "h200",
            "spec": {
                "model": "tiny",
                "name": "small",
                "scheme": "w4a16",
                "method": "gptq",
                "group_size": 64,
                "ignore": ["lm_head"],
                "overrides": [
                    {"layers": ["re:.*a=b", "up_proj"], "scheme": "w8a16"},
                    {"layers": ["down_proj"], "scheme": "w4a16", "group_size": 32},
                ],
                "data": [{"type": "file", "file_id": "file-0", "weight": 2.0}, {"type": "library"}],
                "sampling": {
                    "samples": 32,
                    "sequence_length": 128,
                    "strategy": "domain",
                    "reference": [{"type": "file", "file_id": "file-like"}],
                    "seed": 7,
                },
                "gate": {"max_ppl_increase": 0.5, "min_agreement": 0.9},
                "alias": "best",
                "devices": 2,
                "evaluation": {
                    "tasks": [{"type": "text", "data": [{"type": "file", "file_id": "file-0"}]}],
                    "speed": False,
                },
            },
        }

    def test_json_is_one_object(self) -> None:
        with gateway(*script()) as running:
            done = run(quantize, running, "tiny", "-s", "fp8-dynamic", "--json")
        assert done.exit_code == ExitCode.OK, done.output
        assert json.loads(done.stdout) == {"job": JOB, "model": "m-1", "artifact": None, "evaluation": "e-1"}
        assert "imports: 4.2 s" in done.stderr
        assert sent(running)["spec"] == {
            "model": "tiny",
            "scheme": "fp8-dynamic",
            "evaluation": {"tasks": [{"type": "text"}], "speed": True},
        }

    def test_people_see_a_table_and_how_to_go_on(self) -> None:
        with gateway(*script(after=(reply(200, evaluation()), reply(200, MODEL)))) as running:
            done = run(quantize, running, "tiny", "-s", "w4a16")
        assert done.exit_code == ExitCode.OK, done.output
        for told in ("67.500", "68.000", "+0.74%", "97.20%", "no engine is free", "modelyard chat tiny-w4a16"):
            assert told in done.stdout
        assert "gate       passed" in done.stdout

    def test_a_gate_that_is_not_met_shows_the_table_too(self) -> None:
        error = {"code": "gate_not_met", "title": "The model did not pass its gate", "detail": "text: too far"}
        ends = script(
            ended=job("failed", error=error),
            result={**RESULT, "model": None},
            after=[reply(200, evaluation(passed=False))],
        )
        with gateway(*ends) as running:
            done = run(quantize, running, "tiny", "-s", "w4a16", "--gate", "max_ppl_increase=0.001")
        assert done.exit_code == ExitCode.FAILED
        assert "gate_not_met" in done.stderr
        assert "Nothing was registered" in done.stderr
        assert "68.000" in done.stdout
        assert "NOT MET: max_ppl_increase 0.001" in done.stdout

    def test_a_calibration_is_named_by_its_id(self) -> None:
        with gateway(*script()) as running:
            run(
                quantize,
                running,
                "tiny",
                "-s",
                "recommended",
                "--calibration",
                CALIBRATION,
                "--no-evaluate",
                "--detach",
            )
        spec = {"model": "tiny", "scheme": "recommended", "calibration": CALIBRATION, "evaluation": None}
        assert sent(running)["spec"] == spec

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("--scheme", "w3a16"), "scheme"),
            (("--scheme", "w8a16", "--method", "awq"), "awq"),
            (("--scheme", "w8a16", "--group-size", "64"), "group size"),
            (("--scheme", "w4a16", "--smoothing", "0.5"), "int8"),
            (("--scheme", "w4a16", "--gate", "max_ppl_increase=2%"), "0.02 is 2%"),
            (("--scheme", "w4a16", "--gate", "max_ppl_increase=inf"), "not a number"),
            (("--scheme", "w4a16", "--gate", "max_ppl_increase=-1"), "gate.max_ppl_increase"),
            (("--scheme", "w4a16", "--gate", "perplexity=1"), "max_kl_divergence"),
            (("--scheme", "w4a16", "--gate", "min_agreement"), "KEY=VALUE"),
            (("--scheme", "w4a16", "--override", "down_proj"), "PATTERN=SCHEME"),
            (("--scheme", "w4a16", "--override", "down_proj=w4a16:big"), "group size"),
            (("--scheme", "w4a16", "--calibration", CALIBRATION, "--calibration", "library"), "alone"),
            (("--scheme", "w4a16", "--calibration", CALIBRATION, "--samples", "4"), "sampling"),
            (("--scheme", "recommended"), "calibration"),
            (("--scheme", "w4a16", "--no-evaluate", "--gate", "min_agreement=1"), "--no-evaluate"),
            (("--scheme", "w4a16", "--calibration", "nowhere.jsonl"), "nowhere.jsonl"),
            ((), "--scheme"),
        ],
    )
    def test_a_wrong_option_costs_no_upload(self, texts: Path, arguments: tuple[str, ...], told: str) -> None:
        data = () if CALIBRATION in arguments else ("--calibration", str(texts))
        with gateway(reply(500)) as running:
            done = run(quantize, running, "tiny", *arguments, *data)
        assert done.exit_code == ExitCode.USAGE, done.output
        assert told in " ".join(done.stderr.split())
        assert running.asked == []
