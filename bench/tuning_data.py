"""Lines to tune on: pieces of the standard library's own source, the same at every call."""

import inspect
import json
import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

SOURCES = ("argparse", "inspect", "subprocess", "typing")
LONG, SHORT = "long.jsonl", "short.jsonl"
LONG_CHARACTERS, LONG_LINES = 16_000, 256  # 2048 tokens and more of yard-tiny's, which a forge cuts
SHORTEST, LONGEST, SHORT_LINES = 400, 6400, 2048  # characters: some 100 to 1700 tokens


def pieces(characters: int) -> list[str]:
    """The source, cut; what is left over is left out."""
    source = _source()
    return [source[begin : begin + characters] for begin in range(0, len(source) - characters, characters)]


def write_lines(folder: Path) -> None:
    """Write `LONG` and `SHORT`; the lengths of the latter are spread evenly on a logarithmic scale."""
    _write(folder / LONG, _drawn([LONG_CHARACTERS] * LONG_LINES))
    lengths = random.Random(0)
    drawn = [int(SHORTEST * (LONGEST / SHORTEST) ** lengths.random()) for _ in range(SHORT_LINES)]
    _write(folder / SHORT, _drawn(drawn))


def lines(texts: list[str]) -> list[str]:
    """Of JSON."""
    return [json.dumps({"text": text}) for text in texts]


def _drawn(lengths: list[int]) -> Iterator[str]:
    source, places = _source(), random.Random(1)
    for length in lengths:
        begin = places.randrange(len(source) - length)
        yield source[begin : begin + length]


def _write(path: Path, texts: Iterator[str]) -> None:
    path.write_text("\n".join(lines(list(texts))) + "\n")


def _source() -> str:
    return "".join(inspect.getsource(import_module(name)) for name in SOURCES)
