"""The demo's batch: the same paragraphs as a file of requests, as any OpenAI client would send it."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.cli import download
from services.cli.client import Client
from services.cli.demo_steps import MODEL, Demo, DemoFailed
from services.cli.demo_text import Question
from services.cli.files_upload import Outgoing, send
from services.cli.following_sets import BATCH, summary, until_end
from services.cli.job_view import clip
from services.cli.output import say
from services.files.service import Purpose

LINES = 24
MAX_TOKENS = 24
BATCH_S = 60.0
ENDPOINT = "/v1/chat/completions"


def run_batch(client: Client, asked: Sequence[Question], told: Demo) -> None:
    """Upload the lines, run them, and check that each came back once, in order. Raises DemoFailed."""
    wanted = [_line(number, question) for number, question in enumerate(asked[:LINES])]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "requests.jsonl"), Path(folder, "answers.jsonl")
        source.write_text("".join(f"{json.dumps(line)}\n" for line in wanted))
        uploaded = send(client, Outgoing(source, source.name, Purpose.BATCH))
        made = client.post(BATCH.path, {"input_file_id": uploaded["id"], "endpoint": ENDPOINT})
        say(f"    POST {client.url}/v1/batches → {made['id']}, {len(wanted)} lines, window {made['completion_window']}")
        batch = until_end(client, BATCH, made, timeout_s=BATCH_S)
        say(f"    {summary(BATCH, batch)}")
        if batch["status"] != "completed" or batch["request_counts"]["failed"]:
            raise DemoFailed(f"The batch is {summary(BATCH, batch)}.")
        file = client.get(f"/v1/files/{batch['output_file_id']}")
        content = {**file, "content": f"/v1/files/{file['id']}/content"}
        download.fetch(client, content, target, force=True, progress=lambda _there: None)
        answers = [json.loads(line) for line in target.read_text().splitlines()]
    _check(wanted, answers)
    first = answers[0]["response"]
    text = first["body"]["choices"][0]["message"]["content"]
    say(f"    {answers[0]['custom_id']}: {first['status_code']}, {clip(text)}")
    told.report["batch"] = {
        "id": batch["id"],
        "request_counts": batch["request_counts"],
        "usage": batch["usage"],
        "output_file_id": batch["output_file_id"],
        "line": answers[0],
    }


def _line(number: int, question: Question) -> dict[str, Any]:
    body = {"model": MODEL, "messages": question.messages, "max_tokens": MAX_TOKENS}
    return {"custom_id": f"paragraph-{number}", "method": "POST", "url": ENDPOINT, "body": body}


def _check(wanted: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]) -> None:
    if [answer["custom_id"] for answer in answers] != [line["custom_id"] for line in wanted]:
        raise DemoFailed("The output file does not hold every line once, in order.")
    say(f"    {len(answers)} answers, each line once, in the order of the file")
