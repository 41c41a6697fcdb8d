"""Values by path, and the object that they make by a schema: there and back."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from services.documents.schemas import Shape, join
from shared.contracts.documents import Value


def plant(shape: Shape, values: Iterable[Value], *, leaf: Callable[[Value], Any] = lambda value: value.value) -> Any:
    """The object that values make. `leaf` gives what stands for one of them; null where there is none."""
    root = {"": _bare(shape)}
    for value in values:
        holder, key, at = root, "", shape
        for step in value.path.split(".") if value.path else ():
            holder, key, at = _descend(holder[key], step, at)
        holder[key] = leaf(value)
    return root[""]


def flatten(shape: Shape, planted: Any, path: str = "") -> Iterator[Value]:
    """The values of an object that was planted with values as its leaves, each with its path as it is now."""
    if shape.kind == "leaf":
        value = planted if isinstance(planted, Value) else Value(path=path)
        yield value.model_copy(update={"path": path})
    elif shape.items is not None:
        for number, entry in enumerate(planted):
            yield from flatten(shape.items, entry, join(path, number))
    else:
        for name, child in shape.properties.items():
            yield from flatten(child, planted[name], join(path, name))


def _descend(container: Any, step: str, shape: Shape) -> tuple[Any, Any, Shape]:
    if shape.items is None:
        return container, step, shape.properties[step]
    while len(container) <= int(step):
        container.append(_bare(shape.items))
    return container, int(step), shape.items


def _bare(shape: Shape) -> Any:
    """The object without a value."""
    if shape.kind == "object":
        return {name: _bare(child) for name, child in shape.properties.items()}
    return [] if shape.items is not None else None
