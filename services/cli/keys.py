"""`modelyard keys …`: API keys of the caller's tenant."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from services.cli.calling import command
from services.cli.client import Client
from services.cli.job_view import age
from services.cli.output import AsJson, emit, note, say, table

PAGE = 100

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, add_completion=False)


@command(app)
def create(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    *,
    scope: Annotated[
        list[str], typer.Option("--scope", "-s", help="What the key may do, as `jobs:read` or `jobs:*`; repeat it.")
    ],
    expires_days: Annotated[
        float | None, typer.Option("--expires-days", min=0.001, max=36_500, help="Days until it ends by itself.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its text goes to stdout, once: nobody can show it again."""
    until = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
    wish = {"name": name, "scopes": scope, "expires_at": until and until.isoformat()}
    made = client.post("/v1/api_keys", wish)
    if as_json:
        emit(made)
    else:
        note(f"{made['id']} {', '.join(made['scopes'])}")
        say(made["key"])


@command(app, "list")
def list_keys(client: Client, *, as_json: AsJson = False) -> None:
    """List the tenant's keys, newest first, without their secrets."""
    keys = list(_all(client))
    if as_json:
        emit({"object": "list", "data": keys, "has_more": False})
    else:
        rows = [
            (key["id"], key["key_id"], key["name"], " ".join(key["scopes"]), _state(key), _since(key["last_used_at"]))
            for key in keys
        ]
        table(("id", "key id", "name", "scopes", "state", "last used"), rows)


@command(app)
def revoke(
    client: Client,
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `modelyard keys list` shows it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """End a key's life, everywhere within 30 seconds."""
    ended = client.delete(f"/v1/api_keys/{key}")
    if as_json:
        emit(ended)
    else:
        say(f"revoked {ended['id']} ({ended['name']})")


def _all(client: Client) -> Iterator[dict[str, Any]]:
    after = None
    while True:
        page = client.get("/v1/api_keys", limit=PAGE, after=after)
        yield from page["data"]
        if not page["has_more"]:
            return
        after = page["data"][-1]["id"]


def _state(key: Mapping[str, Any]) -> str:
    if key["revoked_at"]:
        return "revoked"
    if key["expires_at"] and datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC):
        return "expired"
    return "live"


def _since(moment: str | None) -> str:
    return age(moment) if moment else "never"
