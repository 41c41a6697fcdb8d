"""The demo's quantization: a calibration, a smaller model made by it, what that cost, and an answer of the result."""

from importlib.util import find_spec
from typing import Any

from services.cli import waiting
from services.cli.client import Client
from services.cli.compression_view import rows, show_calibration, show_model, show_rows
from services.cli.demo_steps import MODEL, Demo, DemoFailed
from services.cli.job_view import clip
from services.cli.model_jobs import Order, submit, wait
from services.cli.output import ExitCode, say

FORGE = "llmcompressor"  # of the extra `forge`
SAMPLING = {"samples": 16, "sequence_length": 64}
TEXT = {"type": "text", "samples": 8, "sequence_length": 128}
SCHEME = "w4a16"
NAME = f"{MODEL}-{SCHEME}"
QUESTION = "What does os.walk do?"
JOB_S = 120.0


def run_compression(client: Client, told: Demo) -> None:
    """Calibrate, quantize, ask the result something. Raises DemoFailed."""
    if find_spec(FORGE) is None:
        say("    left out: the extra `forge` is not installed (pip install 'modelyard[engine,forge]')")
        return
    sampling = f"{SAMPLING['samples']} × {SAMPLING['sequence_length']} tokens of library text"
    found = _finished(client, Order("calibration", {"model": MODEL, "sampling": SAMPLING}), what=sampling)
    show_calibration(client.get(f"/v1/calibrations/{found['calibration']}"))
    say("")
    spec = {
        "model": MODEL,
        "scheme": SCHEME,
        "calibration": found["calibration"],
        "evaluation": {"tasks": [TEXT]},
        "gate": {"max_ppl_increase": 0.5},
    }
    made = _finished(client, Order("quantization", spec), what=f"{SCHEME}, by that calibration")
    evaluation = client.get(f"/v1/evaluations/{made['evaluation']}")
    show_rows(rows(evaluation["figures"]), names=[MODEL, NAME])
    show_model(client.get(f"/v1/models/{made['model']}"))
    say("    A CPU unpacks the weights: the file is smaller, the answers are not faster. On a GPU they are.")
    answer = _ask(client)
    told.report["quantization"] = {**made, "figures": evaluation["figures"], "answer": answer}


def _finished(client: Client, order: Order, *, what: str) -> dict[str, Any]:
    job = submit(client, order)
    say(f"    POST {client.url}/v1/jobs → {order.kind} {job['id']}: {what}")
    ended = wait(client, job, timeout_s=JOB_S)
    if waiting.verdict(ended) is not ExitCode.OK:
        raise DemoFailed(f"The {order.kind} has {ended['state']}.")
    return dict(client.get(f"/v1/jobs/{job['id']}/result"))


def _ask(client: Client) -> str:
    """The new model answers a chat, by its name."""
    chat = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 24}
    answer = client.post("/v1/chat/completions", chat)
    text = str(answer["choices"][0]["message"]["content"])
    if not text.strip():
        raise DemoFailed(f"{NAME} has no answer.")
    say(f"    {NAME}, asked {QUESTION!r}: {clip(text)}")
    return text
