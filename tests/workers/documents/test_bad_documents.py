"""Documents that are broken, locked, or built to do harm: each is refused by name, and the others are read."""

import os
import zlib
from pathlib import Path

import psutil
import pytest
from PIL import Image

from infra.documents.reports import reports
from infra.documents.writers import WRITERS
from tests.workers.documents.made import (
    MIB,
    docx,
    pages_pdf,
    raw_pdf,
    scanned_pdf,
    stream,
    text_pdf,
    with_members,
    zeros,
)  # fmt: skip
from tests.workers.documents.reading import codes, read
from workers.documents.types import Refused

MEMORY = 256 * MIB
LINE = zlib.compress(b"BT /F1 12 Tf 10 10 Td (hello) Tj ET\n")
CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"


def entities() -> bytes:
    """A billion laughs, as a Word document's body."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{laughs}]><x>&l9;</x>'.encode()


class TestPdf:
    def test_bombs_stay_inside_their_memory(self, tmp_path):
        """A gigabyte of zeros in one deflated stream, in two, and three million operators in 300 KB."""
        packed, many = zeros(1024 * MIB), zlib.compress(b"BT /F1 9 Tf 9 9 Td (a) Tj ET\n" * 3_000_000, 9)
        bombs = [
            pages_pdf(tmp_path / "zeros.pdf", 1, stream(packed)),
            pages_pdf(tmp_path / "twice.pdf", 3, stream(zlib.compress(packed, 9), "/FlateDecode /FlateDecode")),
            pages_pdf(tmp_path / "text.pdf", 1, stream(many)),
        ]
        good = text_pdf(tmp_path / "good.pdf", ["Good"])
        before = psutil.Process().memory_info().rss
        found = codes(*bombs, good, document_memory_bytes=MEMORY)
        assert found == ["parser_memory", "parser_memory", "parser_memory", "pdf"]
        assert psutil.Process().memory_info().rss - before < 64 * MIB

    def test_a_hundred_thousand_pages_are_counted_not_read(self, tmp_path):
        long = pages_pdf(tmp_path / "long.pdf", 100_000, stream(LINE))
        [refused] = read(long)
        assert isinstance(refused, Refused)
        assert refused.error.code == "too_many_pages"
        assert "100,000 pages; at most 5,000" in refused.error.title

    def test_structure_that_leads_nowhere(self, tmp_path):
        """A page tree that is its own child, one that claims pages it lacks, a cross-reference of two billion."""
        made = [
            raw_pdf(tmp_path / "loop.pdf", {
                1: CATALOG,
                2: b"<< /Type /Pages /Count 1000 /Kids [3 0 R] >>",
                3: b"<< /Type /Pages /Parent 2 0 R /Count 1000 /Kids [2 0 R 3 0 R] >>",
            }),
            raw_pdf(tmp_path / "count.pdf", {1: CATALOG, 2: b"<< /Type /Pages /Count 4000 /Kids [] >>"}),
            raw_pdf(tmp_path / "xref.pdf", {1: CATALOG, 2: b"<< /Type /Pages >>"}, size=2_000_000_000),
        ]  # fmt: skip
        assert codes(*made, document_memory_bytes=MEMORY) == ["damaged_document"] * 3

    def test_encrypted_scanned_random_and_renamed(self, tmp_path):
        Image.new("L", (9, 9)).save(tmp_path / "png.pdf", "PNG")
        (tmp_path / "random.pdf").write_bytes(b"%PDF-1.7\n" + os.urandom(100_000))
        made = [
            text_pdf(tmp_path / "locked.pdf", ["Secret"], password="horse"),
            scanned_pdf(tmp_path / "scan.pdf", 3, with_text=[2]),
            tmp_path / "random.pdf",
            tmp_path / "png.pdf",
        ]
        found = read(*made)
        assert [each.error.code for each in found if isinstance(each, Refused)] == [
            "encrypted_document", "scanned_document", "damaged_document", "unsupported_format",
        ]  # fmt: skip
        assert "2 of 3 pages (1, 3)" in str(found[1])

    def test_pages_without_anything_are_empty(self, tmp_path):
        assert codes(pages_pdf(tmp_path / "a.pdf", 2, stream(zlib.compress(b"")))) == ["empty_document"]


class TestOffice:
    @pytest.fixture
    def word(self, tmp_path):
        return docx(tmp_path / "a.docx", "text")

    @pytest.mark.parametrize(
        ("members", "more", "code"),
        [
            ({"word/media/a.bin": bytes(300 * MIB)}, 0, "document_bomb"),
            ({}, 10_001, "document_bomb"),
            ({"word/document.xml": entities()}, 0, "document_bomb"),
            ({"word/document.xml": entities().decode().replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16")},
             0, "document_bomb"),
            ({"../../etc/cron.d/x": b"x"}, 0, "damaged_document"),
            ({"/etc/passwd": b"x"}, 0, "damaged_document"),
            ({"C:\\x": b"x"}, 0, "damaged_document"),
            ({"word/document.xml": b"<not-word"}, 0, "damaged_document"),
            ({"word/document.xml": None}, 0, "damaged_document"),
            ({"[Content_Types].xml": None}, 0, "unsupported_format"),
        ],
        ids=["ratio", "entries", "entities", "entities in UTF-16", "dots", "absolute", "drive", "not XML", "no body",
             "plain zip"],
    )  # fmt: skip
    def test_archives_that_no_office_program_writes(self, word, members, more: int, code: str):
        assert codes(with_members(word, members, more=more)) == [code]

    def test_cut_short_anywhere(self, word, tmp_path):
        whole = word.read_bytes()
        made = [tmp_path / f"{size}.docx" for size in (5, 100, len(whole) // 2, len(whole) - 1)]
        for path in made:
            path.write_bytes(whole[: int(path.stem)])
        assert codes(*made) == ["damaged_document"] * 4


class TestNoise:
    @pytest.mark.parametrize("name", ["a.docx", "a.pdf", "a.xlsx"])
    def test_bytes_flipped_anywhere(self, tmp_path, name: str):
        """Whatever breaks is refused or read; nothing hangs, and nobody else notices."""
        report = next(reports(1))
        path = Path(tmp_path, name)
        WRITERS[path.suffix[1:]](report, path)
        whole, made = path.read_bytes(), []
        for place in range(0, len(whole), len(whole) // 40):
            made.append(Path(tmp_path, f"{place}{path.suffix}"))
            made[-1].write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        refusals = {"damaged_document", "document_bomb", "encrypted_document", "unsupported_format", "empty_document"}
        found = codes(*made, path)
        assert set(found) <= {path.suffix[1:], "text", *refusals}
        assert found[-1] == path.suffix[1:]


class TestText:
    def test_html_that_is_nested_without_end(self, tmp_path):
        path = Path(tmp_path, "deep.html")
        path.write_bytes(b"<div>" * 100_000 + b"text")
        assert codes(path) == ["document_bomb"]

    def test_more_text_than_is_read(self, tmp_path):
        made = [Path(tmp_path, "a.txt"), Path(tmp_path, "b.txt"), text_pdf(tmp_path / "c.pdf", *[["x" * 90] * 40] * 30)]
        made[0].write_text("é" * 60_000)
        made[1].write_text("é" * 40_000)
        assert codes(*made, document_text_bytes=100_000) == ["too_much_text", "text", "too_much_text"]

    def test_more_pages_than_are_read(self, tmp_path):
        path = Path(tmp_path, "a.txt")
        path.write_text("page\f" * 20)
        assert codes(path, document_pages=10) == ["too_many_pages"]

    def test_nothing_and_noise(self, tmp_path):
        made = [Path(tmp_path, name) for name in ("empty.txt", "blank.html", "comment.html", "noise.txt")]
        for path, content in zip(made, [b"", b"<p> </p>", b"<!-- -->", os.urandom(50_000)], strict=True):
            path.write_bytes(content)
        assert codes(*made) == ["empty_document", "empty_document", "empty_document", "unsupported_format"]
