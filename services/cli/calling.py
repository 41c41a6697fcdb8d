"""Commands that call a gateway: the options they share, and how failures end them."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from services.cli.client import CallError, Client, address
from services.cli.output import ExitCode, emit, note
from services.cli.yard import DEFAULT_DATA, Data

Url = Annotated[
    str | None,
    typer.Option(envvar="MODELYARD_URL", help="URL of the gateway; by default that of the yard in --data."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="MODELYARD_API_KEY", help="API key; by default the admin key of the yard in --data.", show_envvar=True
    ),
]

WHERE = {"url": (Url, None), "api_key": (ApiKey, None), "data": (Data, DEFAULT_DATA)}


def command(
    app: typer.Typer, name: str | None = None, *, folder: Any = Data
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make `function(client, …)` a command of `app` that takes --url, --api-key and --data besides its own options.

    What goes wrong is told on stderr with its fix, with --json also as an object on stdout, and becomes an
    exit code. A function that has `data` itself is given the folder too. `folder` is the option for it where
    the command needs --data for something else.
    """
    places = WHERE | {"data": (folder, DEFAULT_DATA)}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        own = [each for each in parameters if each.name not in WHERE]
        wanted = [each.name for each in parameters if each.name in WHERE]

        @wraps(function)
        def run(**given: Any) -> None:
            where = {option: given.pop(option) for option in WHERE}
            given |= {option: where[option] for option in wanted}
            try:
                with Client(address(where["data"], url=where["url"], api_key=where["api_key"])) as client:
                    function(client, **given)
            except CallError as error:
                _tell(error, as_json=given.get("as_json", False))
                raise typer.Exit(error.exit_code) from None
            except KeyboardInterrupt:
                raise typer.Exit(ExitCode.INTERRUPTED) from None

        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(option, keyword, default=default, annotation=annotation)
            for option, (annotation, default) in places.items()
        ]
        options = [each.replace(kind=keyword) for each in own] + shared
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in options}
        app.command(name)(run)
        return function

    return register


def _tell(error: CallError, *, as_json: bool) -> None:
    note(f"modelyard: {error}")
    if error.fix:
        note(f"  {error.fix}")
    if as_json:
        emit(error.body)
