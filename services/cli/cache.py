"""`modelyard cache …`: what the response cache did, and how to empty it."""

from typing import Annotated
from urllib.parse import quote

import typer

from services.cli.calling import command
from services.cli.client import Client
from services.cli.output import AsJson, emit, say, table

app = typer.Typer(help="See what the response cache did, empty it.", no_args_is_help=True, add_completion=False)

SHOWN = ("hits", "misses", "coalesced", "hit_rate", "stored", "stored_bytes", "purges")


@command(app)
def show(client: Client, *, as_json: AsJson = False) -> None:
    """Show hits, misses and sizes of the tenant's cached answers."""
    figures = client.get("/v1/cache")
    if as_json:
        emit(figures)
        return
    table(SHOWN, [[figures[name] for name in SHOWN]])
    kept = f"answers up to {figures['entry_bytes']} bytes are kept for {figures['ttl_s']} s"
    say(kept if figures["enabled"] else "the response cache is switched off")


@command(app)
def purge(
    client: Client,
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model's answers.")] = None,
    as_json: AsJson = False,
) -> None:
    """Forget the tenant's cached answers; the next calls ask the engine again."""
    purged = client.delete("/v1/cache" if model is None else f"/v1/cache?model={quote(model, safe='')}")
    if as_json:
        emit(purged)
    else:
        say(f"purged the answers of {model}" if model else "purged every answer")
