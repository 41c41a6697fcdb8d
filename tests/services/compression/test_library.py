"""The library text: the same on every call, and no module in both parts."""

import hashlib
import json
import platform
from pathlib import Path

import pytest

from services.compression import library


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Path, library.Text]]:
    folder = tmp_path_factory.mktemp("library")
    return {
        held_out: (path := folder / str(held_out), library.write(path, held_out=held_out)) for held_out in (False, True)
    }


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class TestLines:
    def test_are_what_is_described(self, parts: dict[bool, tuple[Path, library.Text]]) -> None:
        for path, text in parts.values():
            written = path.read_bytes()
            assert (hashlib.sha256(written).hexdigest(), len(written)) == (text.sha256, text.bytes)
            assert written.count(b"\n") == text.lines
            assert text.python == platform.python_version()
            assert text.python in text.name

    def test_are_the_same_again(self, parts: dict[bool, tuple[Path, library.Text]]) -> None:
        path, _ = parts[True]
        assert _rows(path) == list(library.held_out_lines())

    def test_are_pieces_of_texts(self, parts: dict[bool, tuple[Path, library.Text]]) -> None:
        for path, text in parts.values():
            rows = _rows(path)
            assert all(row.keys() == {"text"} and row["text"].strip() for row in rows)
            assert sorted(len(row["text"]) for row in rows)[len(rows) // 2] <= library.PIECE
            assert text.lines > 20

    def test_are_enough_for_the_usual_jobs(self, parts: dict[bool, tuple[Path, library.Text]]) -> None:
        characters = 4  # of a token, where the vocabulary is large
        assert parts[False][1].bytes > 128 * 2048 * characters
        assert parts[True][1].bytes > 64 * 512 * characters

    def test_no_module_is_in_both(self) -> None:
        modules = library.sources()
        held_out = {name for name in modules if library.is_held_out(name)}
        assert {"fractions", "mimetypes"} <= held_out
        assert len(modules) / 30 < len(held_out) < len(modules) / 12

    def test_pieces_make_up_the_source(self) -> None:
        source = library.sources()["fractions"]
        pieces = [row["text"] for row in library.held_out_lines()]
        start = next(number for number, text in enumerate(pieces) if source.startswith(text))
        joined = ""
        while joined != source:
            joined += pieces[start]
            start += 1
            assert source.startswith(joined)
