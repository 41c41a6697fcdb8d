"""What a gateway answers to `modelyard tune` and `merge`: a job, its metrics, what it has made."""

from typing import Any

from tests.services.cli.compression_answers import JOB, NO_FILES, NO_LOGS
from tests.services.cli.scripted import Answer, reply

FOLLOWER = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a12"
LAST = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a13"
SETTING = {
    "devices": 1, "batch_size": 16, "micro_batch_size": 4, "accumulation": 4, "max_length": 64, "precision": "fp32",
    "gradient_checkpointing": True, "compiled": False, "activation_offloading": False, "attention": "sdpa",
    "packing": False,
}  # fmt: skip
FIGURES = {
    "steps": 120, "epochs": 1.5, "trainable": 300_000, "parameters": 4_300_000, "tokens": 60_000,
    "trained_tokens": 9_000, "train_loss": 0.0421, "validation_loss": 0.0512, "best_step": 100, "stopped_early": True,
    "seconds": 6.0, "tokens_per_second": 9876.5, "mfu": None, "peak_memory_bytes": 700 << 20, "setting": SETTING,
    "relief": {"halvings": 1, "gradient_checkpointing": True, "activation_offloading": False, "devices": None},
    "data": {"kept": 512, "tokens": 12_000, "left_out": {"duplicate": 3}},
}  # fmt: skip
ADAPTER = {
    "id": "ft:tiny:acme::0f1e2d3c", "version": 1, "version_id": "m-1", "parameters": 4_000_000, "dtype": "bfloat16",
    "bytes": 600 << 10, "aliases": ["router"], "parent": "tiny@1",
    "adapter": {"rank": 16, "alpha": 32.0, "target_modules": ["q_proj"]},
}  # fmt: skip
RESULT = {
    "job": JOB, "model": "m-1", "artifact": "a-1", "evaluation": None, "calibration": None, "file": "file-csv",
    "figures": FIGURES,
}  # fmt: skip
NO_METRICS = reply(200, {"data": [], "has_more": False, "last_id": None})


def job(state: str = "succeeded", *, done: int = 120, unit: str = "steps", attempt: int = 1) -> dict[str, Any]:
    progress = {"done": done, "total": 120, "unit": unit}
    return {"id": JOB, "kind": "tuning", "state": state, "attempt": attempt, "progress": progress, "error": None}


def metrics(*rows: tuple[int, dict[str, float]], more: bool = False) -> Answer:
    data = [{"id": step, "attempt": 1, "values": values} for step, values in rows]
    return reply(200, {"data": data, "has_more": more, "last_id": rows[-1][0] if rows else None})


def waiting(*ids: str) -> Answer:
    """The jobs that wait for one."""
    return reply(200, {"data": [{"id": each} for each in ids], "has_more": False, "last_id": ids[-1] if ids else None})


def uploads(number: int) -> list[Answer]:
    return [NO_FILES, *(reply(200, {"id": f"file-{each}"}) for each in range(number))]


def script(*, files: int = 1, result: dict[str, Any] | None = None, after: tuple[Answer, ...] = ()) -> list[Answer]:
    """A gateway that takes the files and the job, which has ended when it is looked at."""
    sent = uploads(files) if files else []
    return [*sent, reply(202, job()), reply(200, job()), NO_LOGS, NO_METRICS, reply(200, result or RESULT), *after]
