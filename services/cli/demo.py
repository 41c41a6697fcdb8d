"""`modelyard demo`: a yard, a job, its verified webhook, a batch, documents, models made of a model; all gone again."""

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from services.cli import download, waiting
from services.cli.client import CallError, Client, address
from services.cli.demo_batch import run_batch
from services.cli.demo_compression import run_compression
from services.cli.demo_documents import run_documents
from services.cli.demo_steps import MODEL, Demo, DemoFailed
from services.cli.demo_text import Question, questions
from services.cli.demo_tuning import run_tuning
from services.cli.job_view import clip, show_job, show_results
from services.cli.output import ExitCode, note, say
from services.cli.receiver import Received, Receiver, signature_of
from services.webhooks.signing import new_secret
from shared.embedded import control, state
from shared.embedded.errors import AlreadyRunning, YardError
from shared.embedded.layout import Layout, layout, tail
from shared.embedded.yard import Options
from shared.settings import inherited

LINES = 48
MAX_TOKENS = 48
SHOWN = 6
JOB_S = 150.0  # longest time for the job: the whole demo is meant to end within three minutes
WEBHOOK_S = 30.0
LOG_LINES = 5
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of the yard, kept; a temporary one, removed, by default."),
    ] = None,
    report: Annotated[Path, typer.Option(dir_okay=False, help="Where the report goes.")] = Path("demo-report.json"),
) -> None:
    """Bring a yard up; run a job, a batch, documents, a quantization, a tuning; show the webhook; take all down."""
    for number in ENDS:
        signal.signal(number, _interrupt)
    folder = data or Path(tempfile.mkdtemp(prefix="modelyard-demo-"))
    place = layout(folder)
    told = Demo()
    try:
        with _yard(place, told):
            _tell(place, told)
        told.report["timings_s"] = told.seconds
        report.write_text(json.dumps(told.report, indent=2, ensure_ascii=False) + "\n")
        _say_next(report, told)
    except KeyboardInterrupt:
        note("\ninterrupted; everything is stopped")
        _remove(folder, unless=data)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except (DemoFailed, CallError, YardError, OSError) as error:
        _say_failure(error, place, step=len(told.seconds) + 1)
        raise typer.Exit(ExitCode.FAILED) from None
    _remove(folder, unless=data)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Whoever ends us ends the yard too; a second signal must not leave half of it behind."""
    del number, frame
    for each in ENDS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _yard(place: Layout, told: Demo) -> Iterator[None]:
    """A yard that is up inside and gone afterwards, whatever happens in between. Raises AlreadyRunning."""
    if state.holder(place) is not None:
        raise AlreadyRunning
    try:
        with told.step("up", "Bring a yard up: PostgreSQL, two Redis, S3, gateway, relay, worker, courier"):
            ready = control.launch(place, Options(), given=inherited(), progress=lambda line: note(f"    {line}"))
            told.report["url"] = ready.url
            processes = sum(len(pids) for pids in ready.pids.values())
            say(f"    {ready.url} · {processes} processes · data in {place.data}")
        yield
        with told.step("down", "Take everything down"):
            control.stop(place)
    finally:
        control.stop(place)


def _tell(place: Layout, told: Demo) -> None:
    """Everything between up and down."""
    with Receiver() as receiver, Client(address(place.data)) as client:
        asked = questions(LINES)
        if not asked:
            raise DemoFailed("The documentation is not there: run the demo from a checkout of the repository.")
        files = len({question.source for question in asked})
        with told.step("submit", f"Submit one inference job: {len(asked)} paragraphs of {files} documentation files"):
            secret = new_secret()
            job = _submit(client, asked, webhook={"url": receiver.url, "secret": secret})
        with told.step("run", f"Run it on {MODEL}, {MAX_TOKENS} tokens a line at most"):
            job = waiting.until_end(client, job["id"], timeout_s=JOB_S)
            show_job(job)
            if job["state"] != "succeeded":
                raise DemoFailed(f"The job has {job['state']}.")
        with told.step("artifact", "Download the artifact and check its SHA-256"):
            _check_artifact(client, job, asked, told)
        with told.step("webhook", "Look at the webhook that arrived"):
            _check_webhook(receiver, secret, job, told)
        with told.step("batch", "Run a batch of the same paragraphs, as OpenAI's clients do"):
            run_batch(client, asked, told)
        with told.step("documents", "Write annual reports as PDF, DOCX and XLSX, and read them into a table"):
            run_documents(client, told)
        with told.step("compress", f"Calibrate {MODEL}, make a smaller version of it, and ask that one"):
            run_compression(client, told)
        with told.step("tune", f"Teach {MODEL} a form of answering that it does not know, and ask it at once"):
            run_tuning(client, told)


def _submit(client: Client, asked: list[Question], *, webhook: dict[str, str]) -> dict[str, Any]:
    chats = [question.messages for question in asked]
    spec = {"model": MODEL, "messages": chats, "max_tokens": MAX_TOKENS}
    request = {"kind": "inference", "spec": spec, "webhook": webhook, "metadata": {"from": "modelyard demo"}}
    job: dict[str, Any] = client.post("/v1/jobs", request)
    say(f"    POST {client.url}/v1/jobs → 202, job {job['id']}")
    say(f"    queue {job['queue']}: {job['plan']['reason']}")
    return job


def _check_artifact(client: Client, job: dict[str, Any], asked: list[Question], told: Demo) -> None:
    artifact = job["artifacts"][0]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, artifact["name"])
        download.fetch(client, artifact, target, force=True, progress=lambda _: None)
        lines = [json.loads(line) for line in target.read_text().splitlines()]
    if [line["index"] for line in lines] != list(range(len(asked))):
        raise DemoFailed(f"{artifact['name']} does not hold every line once, in order.")
    if failed := [line["index"] for line in lines if line["error"]]:
        raise DemoFailed(f"Lines {failed} of {artifact['name']} hold errors.")
    say(f"    {artifact['name']}: {len(lines)} lines, {artifact['bytes']} bytes")
    say(f"    sha256 {artifact['sha256']}, as promised")
    say(f"    {MODEL} is a toy of a few million weights that has read Python's library: expect its tone, not sense.\n")
    step = max(1, len(lines) // SHOWN)
    show_results(lines[::step][:SHOWN], prompts=[question.text for question in asked])
    told.report |= {
        "job_id": job["id"],
        "artifact_sha256": artifact["sha256"],
        "artifact": {name: artifact[name] for name in ("id", "name", "bytes", "sha256")},
        "lines": len(lines),
        "usage": job["usage"],
    }


def _check_webhook(receiver: Receiver, secret: str, job: dict[str, Any], told: Demo) -> None:
    received = receiver.wait(timeout_s=WEBHOOK_S)
    if received is None:
        raise DemoFailed(f"No webhook arrived within {WEBHOOK_S:g} s.")
    _show_webhook(received, secret)
    event = json.loads(received.body)
    if event["data"]["id"] != job["id"] or event["type"] != "job.succeeded":
        raise DemoFailed(f"The webhook tells of {event['type']} of {event['data']['id']}.")
    told.report["webhook"] = {
        "id": received.headers["webhook-id"],
        "headers": received.headers,
        "body": received.body.decode(),
        "secret": secret,
    }


def _show_webhook(received: Received, secret: str) -> None:
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        say(f"    {name:<18} {received.headers.get(name, 'missing')}")
    say(f"    {'body':<18} {clip(received.body.decode())}")
    expected = signature_of(received, secret)
    if expected not in received.headers.get("webhook-signature", "").split():
        raise DemoFailed(f"The webhook's signature is not {expected}.")
    say(f"    HMAC-SHA256 of id.timestamp.body under our secret is {expected}: the signature is genuine")


def _say_next(report: Path, told: Demo) -> None:
    say(f"\nDone in {sum(told.seconds.values()):.0f} s; the evidence is in {report}. To go on:")
    rows = (
        ("modelyard up", "a yard of your own in ./.yard (make up, without an activated .venv)"),
        ("open URL/docs", "its API; the URL is printed, the key lies in .yard/admin.key"),
        ("modelyard jobs submit -m yard-tiny --chat -p 'What does os.walk do?' --wait", ""),
        ("modelyard batches create FILE.jsonl --out OUT.jsonl", "a file of requests"),
        ("modelyard documents run FOLDER -m MODEL --schema S.json --out results.csv", "a folder of documents"),
        ("modelyard tune MODEL --data CHATS.jsonl", "an adapter of your own, served when it is done"),
        ("modelyard quantize MODEL --scheme w4a16 --calibration TEXTS.jsonl", "a smaller model, measured and served"),
        ("modelyard jobs list, get, logs, events, explain, cancel, retry", "--help says more"),
        ("infra/docs/jobs.md", "the life of a job"),
    )
    for command, meaning in rows:
        say(f"    {command}{f'   {meaning}' if meaning else ''}")


def _say_failure(error: Exception, place: Layout, *, step: int) -> None:
    message, fix = (error.message, error.advice) if isinstance(error, YardError) else (error, getattr(error, "fix", ""))
    note(f"\nThe demo failed in step {step}: {message}")
    if fix:
        note(f"  {fix}")
    for role in ("gateway", "worker", "courier"):
        for line in tail(place.log(role), lines=LOG_LINES):
            note(f"  {role} | {clip(line)}")
    note(f"  Everything is stopped. All logs: {place.log('yard').parent}")


def _remove(folder: Path, *, unless: Path | None) -> None:
    if unless is None:
        shutil.rmtree(folder, ignore_errors=True)
