"""`modelyard serve|worker|relay|courier|migrate`: the platform's processes, as production runs them."""

import os
from typing import Annotated

import typer

from services.cli.output import note
from shared.embedded.roles import gateway_argv, module_argv
from shared.settings import settings

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; the setting `host` by default.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; the setting `port`.")] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Gateway processes on this port.")] = 1,
) -> None:
    """Run a gateway."""
    configured = settings()
    where = ("--host", host or configured.host, "--port", str(port or configured.port))
    several = () if processes == 1 else ("--workers", str(processes))
    _become(gateway_argv(*where, *several))


@app.command()
def worker() -> None:
    """Run a worker of this host's GPU class."""
    _become(module_argv("workers.app"))


@app.command()
def relay() -> None:
    """Run a relay: bells, reconciler, reaper, schedules."""
    _become(module_argv("workers.schedule"))


@app.command()
def courier() -> None:
    """Run a courier: webhooks, batches, maintenance."""
    _become(module_argv("workers.courier"))


@app.command()
def migrate(
    revision: Annotated[str, typer.Option(help="Schema revision to reach.")] = "head",
) -> None:
    """Bring the database to the newest schema."""
    from shared.db.migrate import upgrade  # noqa: PLC0415 - alembic takes 0.3 s that the other commands need not pay

    upgrade(settings().database_url.get_secret_value(), revision)
    note(f"the schema is at {revision}")


def _become(argv: tuple[str, ...]) -> None:
    """Turn into the role's process: same pid, so a service manager signals the right one."""
    os.execv(argv[0], argv)  # noqa: S606 - a fixed list of arguments, no shell
