"""Domain packs: folders of plain files that a user can write.

    my-pack/
      pack.toml     name = "my-pack", description = "…"
      terms.csv     name,aliases,definition     aliases are separated by |
      terms.toml    [[term]] name, aliases, definition, values      either file or both
      rules.toml    [[rule]] name, check, …

A name means a packaged folder (`services/documents/installed`) or one in `MODELYARD_PACKS_ROOT`; the folder's name is
the pack's. Every mistake names its file and its line or table.
"""

import csv
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from services.documents import expressions, patterns
from services.documents.expressions import BadExpression
from services.documents.patterns import BadPattern
from shared.contracts.documents import Pack
from shared.errors import FieldError, InvalidField, ValidationFailed
from shared.settings import settings
from shared.telemetry import logger

PACKAGED = Path(__file__).parent / "installed"
FILE_BYTES = 8 * 1024**2  #: of one file of a pack
COLUMNS = ("name", "aliases", "definition")
TABLES = {"terms": "term", "rules": "rule"}  #: field of a pack → name of its tables in a file
PARAM = "spec.pack"

log = logger(__name__)


def resolve(given: str | Pack | None) -> Pack | None:
    """The pack that a request means, fit to be used.

    Raises:
        InvalidField: no pack of that name is installed, or its folder has a mistake (`spec.pack`).
        ValidationFailed: a rule of an inline pack cannot be used (`spec.pack.rules.3.expression`).
    """
    if isinstance(given, Pack):
        if errors := tuple(_errors(given)):
            raise ValidationFailed(errors=errors)
        return given
    return None if given is None else named(given)


def installed() -> dict[str, Pack]:
    """Every pack that a name means, by name; a folder with a mistake is left out, and logged."""
    found = {}
    for name in sorted(_folders()):
        try:
            found[name] = named(name)
        except InvalidField as error:
            log.warning("documents.bad_pack", extra={"pack": name, "reason": error.message})
    return found


def read_folder(path: Path) -> Pack:
    """The pack in a folder.

    Raises:
        InvalidField: a file is missing or has a mistake: which, and where in it (`spec.pack`).
    """
    return _read(path, trusted=False)


def _read(path: Path, *, trusted: bool) -> Pack:
    """The pack in a folder; of a trusted one, patterns are not tried, which would load Arrow."""
    if not path.is_dir():
        raise _bad(path, "is not a folder")
    about = _toml(path / "pack.toml", required=True)
    for extra in sorted(about.keys() - {"name", "description"}):
        raise _bad(path / "pack.toml", f"unknown field {extra!r}: use name and description")
    rows = {"terms": [*_csv(path / "terms.csv"), *_tables(path / "terms.toml", "term")]}
    rows["rules"] = list(_tables(path / "rules.toml", "rule"))
    try:
        pack = Pack.model_validate(about | {field: [row for _, row in found] for field, found in rows.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _at(path, rows, first["loc"], first["msg"].removeprefix("Value error, ")) from error
    for wrong in _errors(pack, trusted=trusted):
        raise _at(path, rows, tuple(wrong.param.removeprefix(f"{PARAM}.").split(".")), wrong.message)
    return pack


def named(name: str) -> Pack:
    """The installed pack of a name.

    Raises:
        InvalidField: there is none, or its folder has a mistake (`spec.pack`).
    """
    folders = _folders()
    if name not in folders:
        known = ", ".join(sorted(folders))
        raise InvalidField(f"there is no pack {name!r}: installed are {known}", param=PARAM)
    pack = _packaged(name) if folders[name].parent == PACKAGED else read_folder(folders[name])
    if pack.name != name:
        raise _bad(folders[name] / "pack.toml", f"name is {pack.name!r}, the folder's is {name!r}")
    return pack


@cache
def _packaged(name: str) -> Pack:
    return _read(PACKAGED / name, trusted=True)


def _folders() -> dict[str, Path]:
    """Folders by name; a packaged one is not replaced by one of the same name."""
    root = settings().packs_root
    roots = [root, PACKAGED] if root is not None and root.is_dir() else [PACKAGED]
    return {path.name: path for each in roots for path in each.iterdir() if (path / "pack.toml").is_file()}


def _errors(pack: Pack, *, trusted: bool = False) -> Iterator[FieldError]:
    """What the contract cannot see: names given twice, expressions and patterns that cannot be used."""
    for field in TABLES:
        seen: set[str] = set()
        for number, entry in enumerate(getattr(pack, field)):
            if entry.name in seen:
                yield FieldError(f"{PARAM}.{field}.{number}.name", "duplicate_name", f"{entry.name!r} is given twice")
            seen.add(entry.name)
    for number, rule in enumerate(pack.rules):
        where = f"{PARAM}.rules.{number}"
        try:
            if rule.expression is not None:
                _relation(rule.check, expressions.parse(rule.expression))
        except BadExpression as error:
            yield FieldError(f"{where}.expression", "invalid_expression", f"the expression {error}")
        try:
            if rule.pattern is not None and not trusted:
                patterns.check(rule.pattern)
        except BadPattern as error:
            yield FieldError(f"{where}.pattern", "invalid_pattern", f"the pattern cannot be used: {error}")


def _relation(check: str, said: expressions.Expression) -> None:
    if (said.relation == "=") != (check == "equation"):
        raise BadExpression("of an equation has =, of a comparison < <= > >= or !=")
    if not said.paths:
        raise BadExpression("names no value")


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Terms of a CSV file, each with where it stands. A `;` for a `,` is what Excel writes in half of Europe."""
    text = _text(path)
    if text is None:
        return
    lines = text.splitlines(keepends=True)
    reader = csv.reader(lines, delimiter=";" if lines and ";" in lines[0] and "," not in lines[0] else ",", strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if "name" not in header or not set(header) <= set(COLUMNS) or len(set(header)) < len(header):
            raise _bad(path, f"line 1: the columns are {', '.join(COLUMNS)}; name is needed")
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise _bad(path, f"line {reader.line_num}: {len(row)} cells under {len(header)} columns")
            yield f"line {reader.line_num}", _term(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise _bad(path, f"line {reader.line_num}: {error}") from error


def _term(cells: dict[str, str]) -> dict[str, Any]:
    aliases = [alias.strip() for alias in cells.get("aliases", "").split("|") if alias.strip()]
    return {"name": cells["name"].strip(), "aliases": aliases, "definition": cells.get("definition", "").strip()}


def _tables(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    found = _toml(path)
    for extra in sorted(found.keys() - {name}):
        raise _bad(path, f"unknown table {extra!r}: each {name} is a [[{name}]]")
    rows = found.get(name, [])
    if not isinstance(rows, list):
        raise _bad(path, f"each {name} is a [[{name}]], in double brackets")
    for number, row in enumerate(rows, 1):
        named = row.get("name") if isinstance(row, dict) else None
        yield f"[[{name}]] {number}" + (f" ({named})" if isinstance(named, str) else ""), row


def _toml(path: Path, *, required: bool = False) -> dict[str, Any]:
    text = _text(path)
    if text is None and required:
        raise _bad(path, "is missing")
    try:
        return tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:  # its message ends with the line and the column
        raise _bad(path, str(error)) from error


def _text(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(FILE_BYTES + 1)
    if len(data) > FILE_BYTES:
        raise _bad(path, f"is larger than {FILE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _bad(path, f"line {line}: is not UTF-8") from error


def _at(path: Path, rows: dict[str, list[tuple[str, Any]]], loc: tuple[int | str, ...], message: str) -> InvalidField:
    """A mistake at a field of the whole pack, named by the file and the line or table that it came from."""
    field, *others = (str(step) for step in loc)
    if field not in TABLES:
        return _bad(path / "pack.toml", f"{field}: {message}")
    if not others:
        return _bad(path / f"{field}.toml", message)
    where, _ = rows[field][int(others[0])]
    file = path / (f"{field}.csv" if where.startswith("line") else f"{field}.toml")
    return _bad(file, ": ".join([where, *([".".join(others[1:])] if others[1:] else []), message]))


def _bad(path: Path, message: str) -> InvalidField:
    return InvalidField(f"{path.parent.name}/{path.name}: {message}", param=PARAM)
