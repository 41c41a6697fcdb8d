"""`modelyard engines …`: the models that workers have loaded, how they are, and what their processes said."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.calling import command
from services.cli.client import Client
from services.cli.output import AsJson, ExitCode, emit, fail, say, table
from shared.embedded.layout import layout, tail

PAGE = 100
DIGEST_SHOWN = 12
SHORTEST_ID = 4

app = typer.Typer(help="See the loaded models: state, memory, load, logs.", no_args_is_help=True, add_completion=False)


@command(app, "list")
def list_engines(client: Client, *, as_json: AsJson = False) -> None:
    """List the engines of every live worker."""
    engines = [engine | {"worker": worker["host"]} for worker, engine in _engines(client)]
    if as_json:
        emit({"object": "list", "data": engines, "has_more": False})
        return
    names = _names(client)
    table(
        ("id", "model", "kind", "state", "devices", "memory", "in flight", "waiting", "kv", "restarts", "tokens"),
        [
            (
                engine["id"][-DIGEST_SHOWN:], names.get(engine["model_digest"], engine["model_digest"][:DIGEST_SHOWN]),
                engine["kind"], engine["state"], f"{engine['worker']}:{','.join(map(str, engine['devices']))}",
                _size(engine["memory_bytes"]), f"{engine['in_flight']}/{engine['max_in_flight']}", engine["waiting"],
                f"{engine['kv_used']:.0%}", engine["restarts"], engine["tokens_generated"],
            )
            for engine in engines
        ],
    )  # fmt: skip
    for engine in engines:
        if error := engine["error"]:
            say(f"{engine['id'][-DIGEST_SHOWN:]} {': '.join(filter(None, (error['title'], error.get('detail'))))}")


@command(app)
def show(
    client: Client,
    engine: Annotated[str, typer.Argument(metavar="ID", help="The engine's id, or the end of it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show one engine, field by field."""
    found = _find(client, engine)
    if as_json:
        emit(found)
        return
    for name, value in found.items():
        if value not in (None, "", [], {}):
            say(f"{name:<16} {value}")


@command(app)
def logs(
    client: Client,
    engine: Annotated[str, typer.Argument(metavar="ID", help="The engine's id, or the end of it.")],
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many of the last lines.")] = 50,
    data: Path,
) -> None:
    """Show the end of an engine's log. Logs stay in the worker's data folder (--data): run it on its host."""
    found = _find(client, engine)
    path = layout(data).log(f"engine-{found['model_digest'][:DIGEST_SHOWN]}")
    if not path.exists():
        fail(f"there is no {path} here: the log is on host {found['worker']}", code=ExitCode.NOT_FOUND)
    for line in tail(path, lines=lines):
        say(line)


def _find(client: Client, wanted: str) -> dict[str, Any]:
    found = [
        engine | {"worker": worker["host"]} for worker, engine in _engines(client) if engine["id"].endswith(wanted)
    ]
    if len(found) != 1 or len(wanted) < SHORTEST_ID:
        fail(f"there is {'no' if not found else 'more than one'} engine {wanted!r}", code=ExitCode.NOT_FOUND)
    return found[0]


def _engines(client: Client) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    for worker in client.get("/v1/workers")["data"]:
        if worker["live"]:
            for engine in worker["engines"]:
                yield worker, engine


def _names(client: Client) -> dict[str, str]:
    """Names of the tenant's models by digest; other tenants' stay digests."""
    models = client.get("/v1/models")["data"]
    return {model["digest"]: model["id"] for model in models if model.get("digest")}


def _size(held: int) -> str:
    return f"{held / 2**30:.1f} GiB" if held >= 2**30 else f"{held / 2**20:.0f} MiB"
