"""The tree as the architecture tests see it: files, their syntax, the packages they form."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("gateway", "infra", "migrations", "services", "shared", "workers")
BESIDE = ("bench", "tests")


def python_files(*folders: str) -> Iterator[Path]:
    """Every Python file below these folders of the repository, as paths relative to it."""
    for folder in folders:
        yield from sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))


@cache
def syntax(path: Path) -> ast.Module:
    """The syntax tree of a file given relative to the repository."""
    return ast.parse((ROOT / path).read_text(), filename=str(path))


def dotted(node: ast.expr) -> str:
    """The name that an expression spells (``os.environ``); empty when it is anything but a dotted name."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{owner}.{attribute}" if (owner := dotted(value)) else ""
        case _:
            return ""


def names_used(path: Path) -> Iterator[tuple[str, int]]:
    """Every dotted name that a file reads or imports, with its line."""
    for node in ast.walk(syntax(path)):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in names)
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.Attribute() if name := dotted(node):
                yield name, node.lineno


def packages() -> list[str]:
    """Every folder of the product with an ``__init__.py``, dotted."""
    return sorted(".".join(path.parent.parts) for path in python_files(*PRODUCT) if path.name == "__init__.py")
