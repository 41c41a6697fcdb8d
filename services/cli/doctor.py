"""`modelyard doctor`: what is missing on this host, and how to mend it."""

import dataclasses

import typer

from services.cli.output import AsJson, ExitCode, emit, say
from services.cli.yard import DEFAULT_DATA, Data
from shared.embedded.doctor import Level, examine
from shared.embedded.layout import layout

app = typer.Typer(add_completion=False)
SIGNS = {Level.OK: "ok  ", Level.WARN: "warn", Level.FAIL: "FAIL"}


@app.command()
def doctor(data: Data = DEFAULT_DATA, *, as_json: AsJson = False) -> None:
    """Say what is missing on this host, and how to mend it (exit code 1 when a yard cannot run here)."""
    found = examine(layout(data))
    failed = any(check.level is Level.FAIL for check in found)
    if as_json:
        emit({"ok": not failed, "checks": [dataclasses.asdict(check) for check in found]})
    else:
        for check in found:
            say(f"{SIGNS[check.level]} {check.name:<11} {check.text}" + (f" — {check.fix}" if check.fix else ""))
    if failed:
        raise typer.Exit(ExitCode.FAILED)
