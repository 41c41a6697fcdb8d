"""Tuning on a CPU: the platform beside the same TRL script by hand, and how soon an adapter answers.

By hand is `bench/by_hand_tuning.py`: the same base and lines, a process of its own, as many threads and as nice as a
forge, checkpoints as often. The two take turns: platform, hand, hand, platform.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from bench.report import RESULTS, Report, Row
from bench.tuning_data import lines, pieces
from bench.watching import watch
from bench.yard import Yard
from infra.models import __path__ as packaged
from workers.runtime.forge import NICE

MODEL = "yard-tiny"
STEPS, BATCH, LENGTH, RANK, SAVE = 120, 8, 256, 16, 40
RATE = 1e-3
FEW = 20  # steps of a job that is only waited for
CHARACTERS = 560  # of a line: some 170 tokens
JOB_S, HAND_S, ANSWER_S = 600.0, 600.0, 60.0
TURNS = ("platform", "hand", "hand", "platform")


def measure(yard: Yard, report: Report, *, scale: float) -> None:
    """First answers, then overhead; figures of GPUs where they lie beside ours."""
    written = lines(pieces(CHARACTERS))
    file = _uploaded(yard, written)
    _first_answer(yard, report, file, name="bench-cold", what="base on no engine")
    _first_answer(yard, report, file, name="bench-warm", what="base on an engine")
    _overhead(yard, report, written, file, steps=max(FEW, int(STEPS * scale)))
    gpus(report)


def _uploaded(yard: Yard, written: Sequence[str]) -> str:
    files = {"file": ("bench.jsonl", "\n".join(written).encode())}
    answer = yard.client.post("/v1/files", files=files, data={"purpose": "fine-tune"})
    return str(answer.raise_for_status().json()["id"])


def _spec(file: str, *, name: str, steps: int, serve: bool) -> dict[str, Any]:
    training = {"steps": steps, "batch_size": BATCH, "max_length": LENGTH, "too_long": "truncate", "warmup": 0}
    return {
        "model": MODEL,
        "name": name,
        "data": [{"type": "file", "file_id": file}],
        "lora": {"rank": RANK},
        "training": training | {"learning_rate": RATE},
        "checkpoints": {"every_steps": SAVE},
        "serve": serve,
    }


def _job(yard: Yard, spec: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """A job that has succeeded, and its seconds from POST to there."""
    begun = time.perf_counter()
    job = yard.finished(yard.submit("tuning", spec), timeout_s=JOB_S)
    seconds = time.perf_counter() - begun
    assert job["state"] == "succeeded", job["error"]
    return job, seconds


def _first_answer(yard: Yard, report: Report, file: str, *, name: str, what: str) -> None:
    job, _ = _job(yard, _spec(file, name=name, steps=FEW, serve=True))
    chat = {"model": name, "messages": [{"role": "user", "content": "What is a lock?"}], "max_tokens": 8}
    refusals = 0
    deadline = time.monotonic() + ANSWER_S
    while (answer := yard.client.post("/v1/chat/completions", json=chat)).status_code != httpx.codes.OK:
        refusals += 1
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    seconds = time.time() - datetime.fromisoformat(job["finished_at"]).timestamp()
    note = f"{refusals} refusals before it" if refusals else "the first call of all"
    report.add(Row("serving", f"succeeded to a chat's answer, {what}", seconds, "s", "≤ 5", seconds <= 5, note))


def _overhead(yard: Yard, report: Report, written: Sequence[str], file: str, *, steps: int) -> None:
    jobs, processes, trained, alone = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.jsonl"
        data.write_text("\n".join(written))
        for number, turn in enumerate(TURNS):
            if turn == "platform":
                job, seconds = _job(yard, _spec(file, name=f"bench-{number}", steps=steps, serve=False))
                figures = yard.client.get(f"/v1/jobs/{job['id']}/result").raise_for_status().json()["figures"]
                jobs.append(seconds)
                trained.append(figures["tokens"] / figures["seconds"])
            else:
                found, seconds = _by_hand(data, Path(scratch) / f"hand-{number}", steps=steps)
                processes.append(seconds)
                alone.append(found["tokens"] / found["seconds"]["train"])
    report.add(Row("overhead", f"{steps} steps by hand, its process", statistics.median(processes), "s",
                   note=_list(processes)))  # fmt: skip
    report.add(Row("overhead", f"{steps} steps as a job, POST to succeeded", statistics.median(jobs), "s",
                   note=_list(jobs)))  # fmt: skip
    ratio = statistics.median(jobs) / statistics.median(processes)
    report.add(Row("overhead", "job ÷ process by hand, medians, upload included", ratio, "×", "≤ 1.05", ratio <= 1.05))
    report.add(Row("overhead", "by hand, train()", statistics.median(alone), "tokens/s", note=_list(alone)))
    report.add(Row("overhead", "forge, its steps", statistics.median(trained), "tokens/s", note=_list(trained)))
    ratio = statistics.median(alone) / statistics.median(trained)
    note = "by hand with its checkpoints, the forge without"
    report.add(
        Row("overhead", "seconds of a token, forge ÷ by hand, medians", ratio, "×", "≤ 1.05", ratio <= 1.05, note)
    )


def _by_hand(data: Path, folder: Path, *, steps: int) -> tuple[dict[str, Any], float]:
    """What the script says last, and seconds of its process."""
    folder.mkdir()
    order = {
        "model": str(Path(packaged[0]) / MODEL),
        "data": str(data),
        "out": str(folder / "out"),
        "steps": steps,
        "batch": BATCH,
        "max_length": LENGTH,
        "learning_rate": RATE,
        "rank": RANK,
        "save_steps": SAVE,
        "threads": max(1, (os.cpu_count() or 1) // 2),
        "nice": NICE,
    }
    (folder / "order.json").write_text(json.dumps(order))
    command = [sys.executable, str(Path(__file__).with_name("by_hand_tuning.py")), str(folder / "order.json")]
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": str(order["threads"]), "HOME": str(folder)}
    log = folder / "hand.log"
    found = watch(command, cwd=folder, env=env, timeout_s=HAND_S, log=log)
    assert found.status == 0, log.read_text()[-2000:]
    return found.last, found.seconds


def gpus(report: Report) -> None:
    """What `bench.gpu_tuning` measured on another machine, when its table lies beside ours."""
    for path in sorted(RESULTS.glob("h200-tuning*.json")):
        told = json.loads(path.read_text())
        for row in told["rows"]:
            if row["tokens_s"] is not None:
                note = "; ".join(filter(None, [row["note"], told["machine"]]))
                report.add(Row("gpu", row["variant"], row["tokens_s"], "tokens/s", row["aim"], row["reached"], note))


def _list(figures: list[float]) -> str:
    return " ".join(f"{each:,.1f}" for each in figures)
