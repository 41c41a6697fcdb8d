"""`modelyard up`, `down`, `status`, `logs`, `restart`: one host's yard."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from services.cli.output import AsJson, ExitCode, emit, note, say, table
from shared.embedded import control, logs
from shared.embedded.layout import layout
from shared.embedded.yard import Options
from shared.settings import inherited

app = typer.Typer(add_completion=False)

Data = Annotated[Path, typer.Option("--data", envvar="MODELYARD_DATA_DIR", help="Folder of the yard.", file_okay=False)]
Yard = Annotated[Path, typer.Option("--yard", envvar="MODELYARD_DATA_DIR", help="Folder of the yard.", file_okay=False)]
DEFAULT_DATA = Path(".yard")


@app.command()
def up(
    data: Data = DEFAULT_DATA,
    *,
    port: Annotated[
        int | None, typer.Option(envvar="MODELYARD_PORT", min=1, max=65535, help="Port of the gateway.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many workers run.")] = 1,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is ready.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a yard on this host: stores, gateway, relay, worker, courier.

    Any MODELYARD_ setting in the environment is handed to every process.
    """
    place = layout(data)
    options = Options(port=port, workers=workers)
    if not detach:
        control.become(place, options)
    ready = control.launch(place, options, given=inherited(), progress=note)
    if as_json:
        emit(ready.model_dump(mode="json"))
    else:
        say(f"{ready.url}\nadmin key: {place.admin_key_file}")


@app.command()
def down(data: Data = DEFAULT_DATA, *, as_json: AsJson = False) -> None:
    """Stop the yard; returns when every process is gone."""
    place = layout(data)
    stopped = control.stop(place)
    if as_json:
        emit({"stopped": stopped, "data": str(place.data)})
    else:
        say("stopped" if stopped else f"nothing was running in {place.data}")


@app.command()
def status(data: Data = DEFAULT_DATA, *, as_json: AsJson = False) -> None:
    """Show what runs, and whether it is ready (exit code 0) or not (1)."""
    found = control.report(layout(data))
    if as_json:
        emit(dataclasses.asdict(found))
    else:
        say(f"{found.state} · {'ready' if found.ready else 'not ready'} · {found.url} · {found.data}")
        table(
            ("role", "pid", "memory", "up", "restarts"),
            [
                (row.role, row.pid, f"{row.memory_bytes / 2**20:.0f} MiB", _span(row.up_s), row.restarts)
                for row in found.processes
            ],
        )
    if not found.ready:
        raise typer.Exit(ExitCode.FAILED)


@app.command("logs")
def show_logs(
    role: Annotated[str | None, typer.Argument(help="One role; all when left out.")] = None,
    data: Data = DEFAULT_DATA,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each log.")] = 40,
) -> None:
    """Show the yard's logs."""
    files = logs.paths(layout(data), role)
    following = logs.follow(files) if follow else iter(())
    for stream in (logs.last(files, lines=lines), following):
        for name, line in stream:
            say(line if len(files) == 1 else f"{name:<9} {line}")


@app.command()
def restart(
    role: Annotated[str, typer.Argument(help="gateway, relay, worker, courier or a store.")],
    data: Data = DEFAULT_DATA,
    *,
    as_json: AsJson = False,
) -> None:
    """Restart one role; the worker hands its engines over."""
    pids = control.restart(layout(data), role)
    if as_json:
        emit({"role": role, "pids": pids})
    else:
        say(f"{role} runs again: {', '.join(map(str, pids))}")


def _span(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
