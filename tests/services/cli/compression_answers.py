"""What a gateway answers to commands of compression: a job that has ended, its result, its evaluation."""

import json
from typing import Any

import typer
from typer.testing import CliRunner, Result

from tests.services.cli.scripted import Answer, Gateway, reply

JOB = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a10"
CALIBRATION = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a11"
NO_FILES = reply(200, {"data": [], "has_more": False, "last_id": None})
NO_LOGS = reply(200, {"data": [{"id": 1, "message": "imports: 4.2 s"}], "has_more": False})
RESULT = {"job": JOB, "model": "m-1", "artifact": None, "evaluation": "e-1", "calibration": None}
SERVED = {
    "engine": "transformers", "gpu_class": "cpu", "devices": 1, "load_s": 2.0, "memory_bytes": 900 << 20,
    "ttft_ms": 20.0, "tokens_per_second": 50.0, "prompt_tokens": 128, "completion_tokens": 64,
}  # fmt: skip


def job(state: str = "succeeded", *, error: dict[str, Any] | None = None, **progress: Any) -> dict[str, Any]:
    counted = {"done": 3, "total": 3, "unit": "layers", **progress}
    return {"id": JOB, "kind": "quantization", "state": state, "attempt": 1, "progress": counted, "error": error}


def figures(*, served: bool = False) -> dict[str, Any]:
    one = {
        "name": "tiny@1", "bytes": 9 << 20, "weight_bytes": 8 << 20, "parameters": 4_000_000,
        "flops_per_token": 8_000_000, "load_s": 1.0,
        "peak_memory_bytes": 500 << 20, "served": SERVED if served else None, "not_served": None,
    }  # fmt: skip
    other = {
        **one,
        "name": "tiny-w4a16",
        "weight_bytes": 4 << 20,
        "not_served": None if served else "no engine is free",
    }
    found = {"perplexity": 68.0, "ppl_increase": 0.0074, "kl_divergence": 0.0123, "agreement": 0.972}
    text = {"name": "text", "type": "text", "candidate": found, "baseline": {"perplexity": 67.5}}
    return {"candidate": other, "baseline": one, "tasks": [text]}


def evaluation(*, passed: bool = True) -> dict[str, Any]:
    failures = [] if passed else ["text: ppl_increase is 0.0074, more than 0.001"]
    return {"figures": figures(), "gate": {"max_ppl_increase": 0.001}, "passed": passed, "failures": failures}


MODEL = {
    "id": "tiny-w4a16", "version": 1, "version_id": "m-1", "parameters": 4_000_000, "dtype": "bfloat16",
    "bytes": 5 << 20, "aliases": [],
}  # fmt: skip


def script(
    *, uploads: int = 0, ended: dict[str, Any] | None = None, result: Any = RESULT, after: Any = ()
) -> list[Answer]:
    """A gateway that takes the files and the job, which has ended when it is looked at."""
    sent = [NO_FILES, *(reply(200, {"id": f"file-{number}"}) for number in range(uploads))] if uploads else []
    known = ended or job()
    return [*sent, reply(202, known), reply(200, known), NO_LOGS, reply(200, result), *after]


def run(app: typer.Typer, running: Gateway, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", running.url, "--api-key", "modelyard_test"])


def sent(running: Gateway) -> dict[str, Any]:
    """The job that was asked for."""
    (body,) = (json.loads(asked.body) for asked in running.asked if (asked.method, asked.path) == ("POST", "/v1/jobs"))
    assert isinstance(body, dict)
    return body
