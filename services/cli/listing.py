"""Commands that list: how many rows, and from where; as a table, or as JSON."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from services.cli.client import Client
from services.cli.output import emit, say

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")]
All = Annotated[bool, typer.Option("--all", help="Every one, page by page.")]


def listing(
    client: Client,
    path: str,
    show: Callable[[list[Any]], None],
    *,
    limit: int,
    all_: bool,
    after: str | None,
    as_json: bool,
    **params: Any,
) -> None:
    """Show up to `limit` rows of a list, or every one, behind `after`, and say whether there are more."""
    rows, more = client.rows(path, limit=None if all_ else limit, after=after, **params)
    if as_json:
        emit({"object": "list", "data": rows, "has_more": more})
        return
    show(rows)
    if more:
        say(f"there are more: --all, or --after {rows[-1]['id']}")
