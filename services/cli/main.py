"""`modelyard`: one command line for the yard, the jobs and the processes. Modules load when called."""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from services.cli.output import ExitCode, note
from shared.embedded.errors import NotRunning, YardError

#: command → (module below services.cli, line of help). The module's `app` is a Typer that has a command of that
#: name; when it has none, `app` as a whole is the command (`modelyard jobs submit` is `submit` in jobs.py).
COMMANDS = {
    "demo": ("demo", "Bring a yard up, run a job, a batch, documents, a quantization, a tuning, take all down."),
    "up": ("yard", "Start a yard on this host: stores, gateway, relay, worker, courier."),
    "down": ("yard", "Stop the yard; returns when every process is gone."),
    "status": ("yard", "Show what runs, and whether it is ready."),
    "logs": ("yard", "Show the yard's logs."),
    "restart": ("yard", "Restart one role; the worker hands its engines over."),
    "doctor": ("doctor", "Say what is missing on this host, and how to mend it."),
    "chat": ("chat", "Talk to a model, its answer as it is written."),
    "jobs": ("jobs", "Submit work, watch it, stop it."),
    "artifacts": ("artifacts", "Bring results to this machine."),
    "files": ("files", "Upload files, list them, bring them back."),
    "batches": ("batches", "Run files of requests within a window."),
    "documents": ("documents", "Read documents with a model: a folder in, a checked table out."),
    "tune": ("tune", "Train a model on examples: an adapter, or all of its weights."),
    "merge": ("merge", "Add an adapter to its base: a whole checkpoint."),
    "quantize": ("quantize", "Make a smaller version of a model, measure it, register it."),
    "calibrate": ("calibrate", "Find out how well a model can be quantized."),
    "evaluate": ("evaluate", "Measure a model, alone or beside another one."),
    "models": ("models", "Register models, name them, choose how they are served."),
    "engines": ("engines", "See the loaded models: state, memory, load, logs."),
    "cache": ("cache", "See what the response cache did, empty it."),
    "keys": ("keys", "Make, list and revoke API keys."),
    "bench": ("bench", "Measure what this host reaches: batching policies on one trace."),
    "serve": ("roles", "Run a gateway."),
    "worker": ("roles", "Run a worker of this host's GPU class."),
    "relay": ("roles", "Run a relay: bells, reconciler, reaper, schedules."),
    "courier": ("roles", "Run a courier: webhooks, batches, maintenance."),
    "migrate": ("roles", "Bring the database to the newest schema."),
    "bootstrap": (
        "bootstrap",
        "Migrate, then make the first tenant and key and register the packaged models.",
    ),
}


class Commands(TyperGroup):
    """Knows every command's name and line of help, and loads its module only to run it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, (load(name) if name in COMMANDS else command), rest


def load(name: str) -> Any:
    """The real command behind a name in COMMANDS."""
    module = COMMANDS[name][0]
    group = typer.main.get_group(import_module(f"services.cli.{module}").app)
    return group if module == name and name not in group.commands else group.commands[name]


app = typer.Typer(
    cls=Commands,
    name="modelyard",
    help="Run large-language-model work as durable jobs on your own GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its traces show local variables: keys, prompts
)


@app.callback()
def root() -> None:
    """Run large-language-model work as durable jobs on your own GPUs."""


def main() -> None:
    """The script `modelyard`."""
    try:
        app()
    except YardError as error:
        note(f"modelyard: {error}")
        sys.exit(ExitCode.NOT_FOUND if isinstance(error, NotRunning) else ExitCode.FAILED)


if __name__ == "__main__":
    main()
