"""Reading a yard's logs while they are written."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shared.embedded.errors import NotRunning
from shared.embedded.layout import Layout, tail

POLL_S = 0.2


def paths(place: Layout, role: str | None) -> list[Path]:
    """The logs of one role (and its further processes), or of all. Raises NotRunning when there is none."""
    found = sorted((place.data / "logs").glob("*.log"))
    if role is not None:
        found = [path for path in found if path.stem == role or path.stem.rpartition("-")[0] == role]
    if not found:
        raise NotRunning(f"There is no log of {role or 'a yard'} in {place.data}.")
    return found


def last(files: list[Path], *, lines: int) -> Iterator[tuple[str, str]]:
    """(role, line) of the last `lines` lines of each log."""
    for path in files:
        for line in tail(path, lines=lines):
            yield path.stem, line


def follow(files: list[Path]) -> Iterator[tuple[str, str]]:
    """(role, line) of every line written from now on, for ever; a log that is set aside has a successor."""
    opened = {path: _open(path, at_end=True) for path in files}
    while True:
        silent = True
        for path, file in opened.items():
            for line in file.readlines():
                silent = False
                yield path.stem, line.rstrip("\n")
            if path.exists() and path.stat().st_ino != Path(f"/dev/fd/{file.fileno()}").stat().st_ino:
                file.close()
                opened[path] = _open(path, at_end=False)
        if silent:
            time.sleep(POLL_S)


def _open(path: Path, *, at_end: bool) -> TextIO:
    file = path.open(errors="replace")
    if at_end:
        file.seek(0, 2)
    return file
