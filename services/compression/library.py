"""Library text: the sources of the Python standard library that the platform runs on, where nobody gave data.

It needs no download, every deployment has it, and its sha256 and Python's version say which it was. A twentieth of
its modules is held out: calibration takes texts of the others, evaluation those.
"""

import hashlib
import platform
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import orjson

#: no prose of people: tests, tables, and what somebody has installed beside it
SKIPPED: Final = frozenset(
    {"test", "tests", "idlelib", "site-packages", "lib2to3", "__pycache__", "turtledemo", "encodings"}
)
PIECE: Final = 6000  #: characters of a text: one long module must not be all that a sample sees
STARTS: Final = ("class ", "def ", "async def ", "@")


@dataclass(frozen=True)
class Text:
    """A part of the library text as it was written; `sha256` is that of its JSON lines."""

    name: str  #: as a report calls it
    python: str  #: version
    sha256: str
    bytes: int
    lines: int


def is_held_out(module: str) -> bool:
    """Whether a module belongs to the held-out twentieth."""
    return zlib.crc32(module.encode()) % 20 == 0


def sources() -> dict[str, str]:
    """Module name → source text of the pure-Python standard library, without its tests, in the order of paths."""
    return {name: path.read_text(encoding="utf-8", errors="replace") for name, path in _modules()}


def calibration_lines() -> Iterator[dict[str, str]]:
    """Texts of the modules that are not held out: `{"text"}`."""
    return _lines(held_out=False)


def held_out_lines() -> Iterator[dict[str, str]]:
    """Texts of the held-out modules: `{"text"}`."""
    return _lines(held_out=True)


def write(path: Path, *, held_out: bool) -> Text:
    """Write a part as JSON lines."""
    with path.open("wb") as file:
        return _measured(file.write, held_out=held_out)


@cache
def described(*, held_out: bool) -> Text:
    """What a part is. Reads it all (10 MB, about half a second), once a process."""
    return _measured(lambda _: None, held_out=held_out)


def named(*, held_out: bool) -> str:
    """What a report calls a part."""
    return f"library text of Python {platform.python_version()}" + (", held-out modules" if held_out else "")


def _measured(keep: Callable[[bytes], object], *, held_out: bool) -> Text:
    digest, size, count = hashlib.sha256(), 0, 0
    for line in _json_lines(held_out=held_out):
        keep(line)
        digest.update(line)
        size, count = size + len(line), count + 1
    return Text(named(held_out=held_out), platform.python_version(), digest.hexdigest(), size, count)


def _json_lines(*, held_out: bool) -> Iterator[bytes]:
    for line in _lines(held_out=held_out):
        yield orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _lines(*, held_out: bool) -> Iterator[dict[str, str]]:
    for name, path in _modules():
        if is_held_out(name) == held_out and not name.startswith("_sysconfigdata"):  # a table of compiler options
            yield from ({"text": text} for text in _pieces(path.read_text(encoding="utf-8", errors="replace")))


def _modules() -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not SKIPPED.intersection(parts) and not any("config-" in part for part in parts):
            yield ".".join(parts).removesuffix(".__init__"), path


def _pieces(source: str) -> Iterator[str]:
    """A source cut where a class or a function begins, if one does between half a piece and a whole one."""
    held: list[str] = []
    size = 0
    for line in source.splitlines(keepends=True):
        if size >= PIECE or (size >= PIECE // 2 and line.startswith(STARTS)):
            yield "".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
    if "".join(held).strip():
        yield "".join(held)
