"""The demo's tuning: a model learns a form of answering that it did not know, and answers in it once it is done."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from services.cli import waiting
from services.cli.client import Client
from services.cli.demo_steps import MODEL, Demo, DemoFailed
from services.cli.demo_tuning_task import Example, examples
from services.cli.job_view import clip
from services.cli.model_jobs import Order, submit, wait
from services.cli.output import ExitCode, say, table
from services.cli.sources import Given
from services.cli.tune_watching import Losses
from services.files.service import Purpose
from shared.clock import monotonic

FORGE: Final = "trl"  # of the extra `forge`
NAME: Final = f"{MODEL}-areas"
#: found by trying: a few seconds of a CPU, after which nearly every held-out question is answered
TRAINING: Final = {"learning_rate": 4e-3, "warmup": 0.1, "steps": 150, "batch_size": 8}
RANK = 16
MAX_TOKENS = 8  # an answer in the form has four
SHOWN = 4
ENOUGH = 0.9  # of the held-out questions are answered exactly
JOB_S = 120.0


@dataclass(frozen=True)
class Asked:
    """Answers of a model to the held-out questions, in their order."""

    answers: list[str]
    right: int

    @property
    def share(self) -> float:
        """Of answers that are exactly right."""
        return self.right / len(self.answers)


def run_tuning(client: Client, told: Demo) -> None:
    """Ask, teach, ask again. Raises DemoFailed."""
    if find_spec(FORGE) is None:
        say("    left out: the extra `forge` is not installed (pip install 'modelyard[engine,forge]')")
        return
    learned, held_out = examples()
    before = _ask(client, MODEL, held_out)
    made = _tune(client, learned)
    waited_s = _answers_after(client, held_out[0])
    after = _ask(client, NAME, held_out)
    _show(held_out, before, after)
    if before.right or after.share < ENOUGH:
        raise DemoFailed(f"{NAME} has not learned the form: {after.right} of {len(held_out)}, {before.right} before.")
    told.report["tuning"] = {
        **made,
        "first_answer_s": waited_s,
        "held_out": len(held_out),
        "exact_match": {"before": before.share, "after": after.share},
    }


def _tune(client: Client, learned: Sequence[Example]) -> dict[str, Any]:
    """Train an adapter, its loss in sight; what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Given("areas.jsonl", Path(folder, "areas.jsonl"))
        Path(folder, "areas.jsonl").write_text("".join(f"{json.dumps(each.line)}\n" for each in learned))
        spec = {
            "model": MODEL,
            "name": NAME,
            "data": [file.source],
            "lora": {"rank": RANK},
            "training": TRAINING,
        }
        job = submit(client, Order("tuning", spec, [file], purpose=Purpose.FINE_TUNE))
    say(f"    POST {client.url}/v1/jobs → tuning {job['id']}: LoRA of rank {RANK} on {len(learned)} chats")
    ended = wait(client, job, timeout_s=JOB_S, watched=Losses)
    if waiting.verdict(ended) is not ExitCode.OK:
        raise DemoFailed(f"The tuning has {ended['state']}.")
    found = dict(client.get(f"/v1/jobs/{job['id']}/result"))
    figures = found["figures"]
    speed = f"{figures['tokens_per_second']:,.0f} tokens/s, {figures['seconds']:.1f} s of training"
    say(f"    mean loss {figures['train_loss']:.4f}, {speed}")
    return found


def _answers_after(client: Client, example: Example) -> float:
    """Seconds until the new model has answered a chat, once its job had succeeded."""
    begun = monotonic()
    chat = {"model": NAME, "messages": example.asked, "max_tokens": MAX_TOKENS, "temperature": 0}
    text = client.post("/v1/chat/completions", chat)["choices"][0]["message"]["content"]
    waited_s = round(monotonic() - begun, 2)
    say(f"    {waited_s:.1f} s later {NAME} answers {example.question!r}: {clip(str(text))}")
    return waited_s


def _ask(client: Client, model: str, held_out: Sequence[Example]) -> Asked:
    """All held-out questions as one inference job."""
    spec = {"model": model, "messages": [each.asked for each in held_out], "max_tokens": MAX_TOKENS, "temperature": 0}
    job = client.post("/v1/jobs", {"kind": "inference", "spec": spec})
    ended = waiting.until_end(client, job["id"], timeout_s=JOB_S)
    lines = ended["results"] or ()
    if ended["state"] != "succeeded" or any(line["error"] for line in lines):
        raise DemoFailed(f"Not every question to {model} was answered: its job has {ended['state']}.")
    answers = [line["output"]["text"].strip() for line in lines]
    right = sum(answer == each.answer for answer, each in zip(answers, held_out, strict=True))
    return Asked(answers, right)


def _show(held_out: Sequence[Example], before: Asked, after: Asked) -> None:
    rows = zip(held_out, before.answers, after.answers, strict=True)
    shown = [(each.question, clip(old, width=40), clip(new, width=40)) for each, old, new in list(rows)[:SHOWN]]
    table(("held-out question", MODEL, NAME), shown)
    say(f"    exact match on {len(held_out)} held-out questions: {before.share:.0%} before, {after.share:.0%} after")
