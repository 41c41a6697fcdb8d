"""`modelyard documents …`: a folder of documents in, a checked table out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import documents_request, documents_view, files_saving
from services.cli.calling import command
from services.cli.client import CallError, Client
from services.cli.documents_request import Wanted
from services.cli.files_upload import Outgoing, forget, send_all
from services.cli.following_sets import DOCUMENT_SET, until_end, verdict
from services.cli.job_request import moment, only_given, pairs
from services.cli.listing import All, Limit, listing
from services.cli.output import AsJson, emit, note, say
from services.cli.waiting import Timeout
from services.files.service import Purpose

TABLES = (".csv", ".jsonl", ".parquet")
REPORTS = (".html", ".json")
KEPT_S = 30 * 86_400  # how long a document that was uploaded for a run is kept
SKIPPED = 5  # files that are told by name

app = typer.Typer(help="Read documents with a model.", no_args_is_help=True, add_completion=False)

SetId = Annotated[str, typer.Argument(metavar="SET", help="Id of the document set, docset_….")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where the table goes: a .csv, .jsonl or .parquet file.")]
Report = Annotated[Path | None, typer.Option("--report", help="Where the report goes: a .html or .json file.")]
AllowFailures = Annotated[
    bool, typer.Option("--allow-failures", help="Exit code 0 although some documents could not be read.")
]


@dataclass(frozen=True)
class Files:
    """Where a set's table and report go. Raises AlreadyThere for one that is there."""

    out: Path | None
    report: Path | None
    force: bool

    def __post_init__(self) -> None:
        for target, option, known in ((self.out, "--out", TABLES), (self.report, "--report", REPORTS)):
            if target is not None and target.suffix not in known:
                raise typer.BadParameter(f"its name ends in {', '.join(known)}", param_hint=option)
            files_saving.check(target, force=self.force)

    def save(self, client: Client, found: dict[str, Any]) -> None:
        """Bring them here. Raises NothingToSave."""
        made = {each["name"]: each for each in found["artifacts"]}
        for target, stem in ((self.out, "results"), (self.report, "report")):
            if target is None:
                continue
            name = f"{stem}{target.suffix}"
            if name not in made:
                raise files_saving.NothingToSave(f"The set ({found['status']}) has no {name}.")
            files_saving.save(client, {**made[name], "content": made[name]["url"]}, target, force=self.force)

    def show(self, found: dict[str, Any], *, as_json: bool) -> None:
        """Print the set; as JSON with where its files are here."""
        named = {"out": self.out, "report": self.report}
        told = {name: str(path) for name, path in named.items() if path is not None}
        emit({**found, **told}) if as_json else documents_view.show_set(found)


@command(app)
def run(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    paths: Annotated[list[Path], typer.Argument(metavar="FOLDER|FILE…", help="Documents, and folders of them.")],
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="Model that reads them.")],
    schema: Annotated[Path | None, typer.Option(help="Extract: a file with the JSON schema of the fields.")] = None,
    labels: Annotated[str | None, typer.Option(help="Classify: labels, separated by commas.")] = None,
    multi: Annotated[bool, typer.Option("--multi", help="With --labels: any number of them.")] = False,
    summarize: Annotated[bool, typer.Option("--summarize", help="Summarize each document.")] = False,
    words: Annotated[int | None, typer.Option(help="With --summarize: about so many words.")] = None,
    template: Annotated[Path | None, typer.Option(help="Custom: a file with a prompt that has {text}.")] = None,
    pack: Annotated[str | None, typer.Option(help="Domain pack: an installed one, or a folder.")] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Tokens of a chunk; what fits by default.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Tokens that neighbouring chunks share.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy, and the default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into the folders below too.")] = False,
    out: Out = None,
    report: Report = None,
    force: files_saving.Force = False,
    gpu_class: Annotated[str | None, typer.Option(help="GPU class, or auto: the cheapest that fits.")] = None,
    deadline: Annotated[str | None, typer.Option(help="Expire if not done by then: a time, or 30m, 2h, 1d.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, returned as given; may be repeated.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait: say the set's id.")] = False,
    allow_failures: AllowFailures = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Upload documents, read them with a model, bring the table here.

    Exit codes: 0 done, 9 done but some documents could not be read, 1 failed, 7 cancelled, 8 expired, 6 not within
    --timeout. Flagged values are no failure: they are marked in the table. Ctrl-C leaves the set running.
    """
    wanted = Wanted(schema, labels, multi, summarize, words, template)
    body = {
        "model": model, "operation": wanted.operation(), "pack": documents_request.pack(pack),
        "chunking": only_given({"tokens": chunk_tokens, "overlap": overlap}), "max_tokens": max_tokens,
        "temperature": temperature, "seed": seed, "gpu_class": gpu_class,
        "deadline": moment(deadline, "--deadline"), "metadata": pairs(metadata or (), "--metadata"),
    }  # fmt: skip
    files = Files(out, report, force)
    found = documents_request.find(paths, recursive=recursive)
    _warn(found.skipped)
    made = _create(client, found, only_given(body))
    note(f"document set {made['id']}")
    if detach:
        emit(made) if as_json else say(made["id"])
        return
    made = until_end(client, DOCUMENT_SET, made, timeout_s=timeout)
    _end(client, made, files, allow_failures=allow_failures, as_json=as_json)


@command(app)
def wait(
    client: Client,
    document_set: SetId,
    *,
    out: Out = None,
    report: Report = None,
    force: files_saving.Force = False,
    allow_failures: AllowFailures = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a set, and bring its table here. Exit codes as of `documents run`."""
    files = Files(out, report, force)
    found = until_end(client, DOCUMENT_SET, _get(client, document_set), timeout_s=timeout)
    _end(client, found, files, allow_failures=allow_failures, as_json=as_json)


@command(app)
def results(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    document_set: SetId,
    *,
    out: Out = None,
    report: Report = None,
    force: files_saving.Force = False,
    limit: Limit = 20,
    all_: All = False,
    after: Annotated[int | None, typer.Option(min=0, help="Go on behind the document of this index.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what became of the documents, while the set runs too; with --out or --report, bring the files here."""
    files = Files(out, report, force)
    if out is not None or report is not None:
        found = _get(client, document_set)
        files.save(client, found)
        files.show(found, as_json=as_json)
        return
    start = None if after is None else str(after)
    path = f"{DOCUMENT_SET.where(document_set)}/results"
    listing(client, path, documents_view.show_records, limit=limit, all_=all_, after=start, as_json=as_json)


@command(app)
def get(client: Client, document_set: SetId, *, as_json: AsJson = False) -> None:
    """Show a document set."""
    found = _get(client, document_set)
    emit(found) if as_json else documents_view.show_set(found)


@command(app, "list")
def list_sets(
    client: Client,
    *,
    limit: Limit = 20,
    all_: All = False,
    after: Annotated[str | None, typer.Option(help="Go on behind the set of this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List document sets, newest first."""
    listing(client, DOCUMENT_SET.path, documents_view.show_sets, limit=limit, all_=all_, after=after, as_json=as_json)


@command(app)
def cancel(client: Client, document_set: SetId, *, as_json: AsJson = False) -> None:
    """Stop a set. Documents that have been read keep their results."""
    found = client.post(f"{DOCUMENT_SET.where(document_set)}/cancel")
    emit(found) if as_json else say(f"{found['id']} {found['status']}")


@command(app)
def packs(
    client: Client,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One pack, with its terms and rules.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the domain packs that are installed, or show one."""
    if name is not None:
        emit(client.get(f"/v1/domain_packs/{name}"))
        return
    found = client.get("/v1/domain_packs")
    emit(found) if as_json else documents_view.show_packs(found["data"])


def _create(client: Client, found: documents_request.Found, body: dict[str, Any]) -> dict[str, Any]:
    outgoing = [Outgoing(path, name, Purpose.DOCUMENT, KEPT_S) for path, name in found.documents]
    files = [each["id"] for each in send_all(client, outgoing)]
    try:
        return dict(client.post(DOCUMENT_SET.path, {**body, "files": files}))
    except CallError:
        forget(client, files)
        raise


def _get(client: Client, set_id: str) -> dict[str, Any]:
    return dict(client.get(DOCUMENT_SET.where(set_id)))


def _warn(skipped: tuple[Path, ...]) -> None:
    if skipped:
        names = ", ".join(path.name for path in skipped[:SKIPPED])
        more = f" and {len(skipped) - SKIPPED} more" if len(skipped) > SKIPPED else ""
        note(f"skipped, because only {documents_request.FORMATS} can be read: {names}{more}")


def _end(client: Client, found: dict[str, Any], files: Files, *, allow_failures: bool, as_json: bool) -> None:
    code = verdict(DOCUMENT_SET, found, allow_failures=allow_failures)
    if found["artifacts"]:
        files.save(client, found)
    files.show(found, as_json=as_json)
    raise typer.Exit(code)
