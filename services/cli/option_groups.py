"""Options in groups: a dataclass whose fields are options stands for all of them in a command's signature."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """A command that takes dataclasses, as one that takes their fields: `Annotated[…, typer.Option(…)]` with a default.

    The names of all fields and of the other parameters differ.
    """
    own = list(inspect.signature(function).parameters.values())
    groups: dict[str, Any] = {each.name: each.annotation for each in own if is_dataclass(each.annotation)}
    spread = [part for each in own for part in _spread(each)]
    assert len({each.name for each in spread}) == len(spread), function.__name__

    @wraps(function)
    def run(*given: Any, **options: Any) -> None:
        made = {
            name: group(**{each.name: options.pop(each.name) for each in fields(group)})
            for name, group in groups.items()
        }
        function(*given, **made, **options)

    run.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    return run


def _spread(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    if not is_dataclass(parameter.annotation):
        return [parameter]
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=each.type,
        )
        for each in fields(parameter.annotation)
    ]
