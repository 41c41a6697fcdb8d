"""`modelyard artifacts …`: bring results to this machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import download as downloads
from services.cli.calling import command
from services.cli.client import CallError, Client
from services.cli.output import AsJson, ExitCode, emit, say, table

app = typer.Typer(help="Bring results to this machine.", no_args_is_help=True, add_completion=False)


class NoArtifact(CallError):
    """The job has no such artifact."""

    code = "no_artifact"
    exit_code = ExitCode.NOT_FOUND
    fix = "Artifacts appear when the job has ended: `modelyard jobs wait JOB`."


@command(app, "list")
def list_artifacts(
    client: Client,
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")],
    *,
    as_json: AsJson = False,
) -> None:
    """List a job's artifacts, the main one first."""
    found = client.get(f"/v1/jobs/{job}")["artifacts"]
    if as_json:
        emit({"object": "list", "data": found, "has_more": False})
    else:
        rows = [(each["id"], each["name"], each["bytes"], each["media_type"], each["sha256"]) for each in found]
        table(("id", "name", "bytes", "type", "sha256"), rows)


@command(app)
def download(
    client: Client,
    artifact: Annotated[str | None, typer.Argument(metavar="[ARTIFACT]", help="Id of the artifact.")] = None,
    *,
    job: Annotated[str | None, typer.Option(help="Instead of an artifact's id: the job that made it.")] = None,
    name: Annotated[
        str | None, typer.Option(help="With --job: which of its artifacts; the main one by default.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder; the artifact's name, here, by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download an artifact and check its SHA-256; one that is a folder comes with all its files.

    What a broken transfer has brought stays in FILE.part, and the next call goes on from there.
    """
    if (artifact is None) == (job is None) or (name and not job):
        raise typer.BadParameter("give the artifact's id, or --job and perhaps --name")
    found = client.get(f"/v1/artifacts/{artifact or _of_job(client, str(job), name)['id']}")
    target = _target(found, output)
    with _bar(found) as progress:
        fetch = downloads.fetch if found.get("files") is None else downloads.fetch_folder
        fresh = fetch(client, found, target, force=force, progress=progress)
    if as_json:
        emit({**found, "path": str(target), "downloaded": fresh})
    else:
        size = downloads.size_of(found)
        say(f"{target} {'' if fresh else '(was there already) '}{size} bytes, sha256 {found['sha256']}")


def _of_job(client: Client, job_id: str, name: str | None) -> dict[str, Any]:
    job = client.get(f"/v1/jobs/{job_id}")
    for each in job["artifacts"]:
        if name in (None, each["name"]):
            return dict(each)
    has = ", ".join(each["name"] for each in job["artifacts"]) or "none"
    raise NoArtifact(f"Job {job_id} ({job['state']}) has no artifact {name or 'at all'}; it has: {has}.")


def _target(artifact: dict[str, Any], output: Path | None) -> Path:
    """Where the artifact goes. Its own name counts only as a name, whatever folders it pretends to be in."""
    name = Path(artifact["name"]).name or artifact["id"]
    if output is None:
        return Path(name)
    return output / name if output.is_dir() else output


@contextmanager
def _bar(artifact: dict[str, Any]) -> Iterator[downloads.Progress]:
    """A bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _there: None
        return
    from rich import progress as bars  # noqa: PLC0415 - 100 ms that a script need not pay
    from rich.console import Console  # noqa: PLC0415

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn())
    with bars.Progress(*columns, bars.TransferSpeedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("download", total=downloads.size_of(artifact))
        yield lambda there: progress.update(task, completed=there)
