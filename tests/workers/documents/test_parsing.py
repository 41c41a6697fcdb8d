"""What the text of each format is."""

import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from docx import Document
from docx.enum.section import WD_SECTION
from docx.enum.text import WD_BREAK
from docx.oxml import OxmlElement
from openpyxl import Workbook

from tests.workers.documents.made import docx, scanned_pdf, text_pdf, with_members
from tests.workers.documents.reading import pages
from workers.documents.cleaning import clean, of_pdf
from workers.documents.types import Refused


@pytest.fixture
def put(tmp_path):
    def write(name: str, content: bytes | str) -> Path:
        path = Path(tmp_path, name)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path: Path, *, filename: str = "") -> str:
    with pytest.raises(Refused) as refused:
        pages(path, filename=filename)
    return refused.value.error.code


class TestPdf:
    def test_lines_stay_lines_and_pages_stay_pages(self, tmp_path):
        path = text_pdf(tmp_path / "a.pdf", ["Total assets 1,234", "Équité 5"], ["Second page"])
        assert pages(path) == ["Total assets 1,234\nÉquité 5", "Second page"]

    def test_words_that_a_line_end_broke_are_put_together(self, tmp_path):
        path = text_pdf(
            tmp_path / "a.pdf",
            ["All is known, and an exam-", "ple of a well-", "known Anglo-", "Saxon of 2019-", "2020."],
        )
        assert pages(path) == ["All is known, and an example of a well-known Anglo-Saxon of 2019-\n2020."]

    def test_pictures_among_pages_of_text_are_passed_over(self, tmp_path):
        path = scanned_pdf(tmp_path / "a.pdf", 5, with_text=[2, 3, 4, 5])
        assert pages(path) == ["", *(f"Page {number} has text" for number in (2, 3, 4, 5))]

    def test_header_may_come_late(self, tmp_path, put):
        content = text_pdf(tmp_path / "a.pdf", ["Text"]).read_bytes()
        assert pages(put("b.pdf", b"\xef\xbb\xbf\n" + content)) == ["Text"]


class TestDocx:
    def test_paragraphs_and_tables_come_in_order(self, tmp_path):
        document = Document()
        document.add_heading("Report", level=1)
        table = document.add_table(rows=2, cols=2)
        for cell, text in zip(
            (c for row in table.rows for c in row.cells), ["", "2024", "Revenue", "1,000"], strict=True
        ):
            cell.text = text
        document.add_paragraph("After\tthe table")
        document.save(str(tmp_path / "a.docx"))
        assert pages(tmp_path / "a.docx") == ["Report\n\n\t2024\nRevenue\t1,000\n\nAfter\tthe table"]

    def test_tables_in_cells_are_part_of_the_cell(self, tmp_path):
        document = Document()
        outer = document.add_table(rows=1, cols=2)
        outer.cell(0, 0).text = "left"
        inner = outer.cell(0, 1).add_table(rows=1, cols=2)
        inner.cell(0, 0).text, inner.cell(0, 1).text = "a", "b"
        document.save(str(tmp_path / "a.docx"))
        assert pages(tmp_path / "a.docx") == ["left\ta b"]

    def test_pages_end_at_breaks_of_any_kind_and_once(self, tmp_path):
        document = Document()
        document.add_paragraph("one")
        document.add_paragraph().add_run().add_break(WD_BREAK.PAGE)
        document.add_paragraph().add_run()._r.append(OxmlElement("w:lastRenderedPageBreak"))
        document.add_paragraph("two")
        run = document.add_paragraph("still two ").add_run()
        run._r.append(OxmlElement("w:lastRenderedPageBreak"))
        document.paragraphs[-1].add_run("three")
        document.add_paragraph("four").paragraph_format.page_break_before = True
        document.add_section(WD_SECTION.NEW_PAGE)
        document.add_paragraph("five").add_run().add_break(WD_BREAK.LINE)
        document.save(str(tmp_path / "a.docx"))
        assert pages(tmp_path / "a.docx") == ["one", "two\n\nstill two", "three", "four", "five"]

    def test_headers_deleted_and_hidden_text_are_left_out(self, tmp_path):
        document = Document()
        document.sections[0].header.paragraphs[0].text = "HEADER"
        paragraph = document.add_paragraph("seen")
        paragraph.add_run("HIDDEN").font.hidden = True
        deleted = OxmlElement("w:del")
        deleted.append(paragraph.add_run("DELETED")._r)
        paragraph._p.append(deleted)
        inserted = OxmlElement("w:ins")
        inserted.append(paragraph.add_run(" inserted")._r)
        paragraph._p.append(inserted)
        document.save(str(tmp_path / "a.docx"))
        assert pages(tmp_path / "a.docx") == ["seen inserted"]

    def test_footnotes_follow_their_page(self, tmp_path):
        path = docx(tmp_path / "a.docx", "Profit MARK", "Next")
        name = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
        kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
        note = '<w:footnote w:id="1"><w:p><w:r><w:t>before tax</w:t></w:r></w:p></w:footnote>'
        notes = f'<w:footnotes xmlns:w="{name}">{note}</w:footnotes>'
        parts = {
            "word/document.xml": ("MARK</w:t>", '</w:t><w:footnoteReference w:id="1"/>'),
            "word/_rels/document.xml.rels": (
                "</Relationships>",
                f'<Relationship Id="rId99" Type="{kind}" Target="footnotes.xml"/></Relationships>',
            ),
        }

        with zipfile.ZipFile(path) as archive:
            changed = {name: archive.read(name).decode().replace(*change) for name, change in parts.items()}
        with_members(path, {**{k: v.encode() for k, v in changed.items()}, "word/footnotes.xml": notes.encode()})
        assert pages(path) == ["Profit\n\nNext\n\nbefore tax"]


class TestXlsx:
    def test_a_sheet_is_a_page(self, tmp_path):
        moment = datetime(2024, 1, 2, 3, 4, tzinfo=UTC).replace(tzinfo=None)
        book = Workbook()
        book.remove(book.worksheets[0])
        sheet = book.create_sheet("Balance")
        sheet.append(["Assets", 1234, 0.5, True, date(2024, 12, 31), moment])
        sheet.append([])
        sheet.append([None, "two\nlines", None])
        hidden = book.create_sheet("Hidden")
        hidden.sheet_state, hidden["C2"] = "hidden", "far"
        book.save(tmp_path / "a.xlsx")
        assert pages(tmp_path / "a.xlsx") == [
            "Balance\nAssets\t1234\t0.5\tTRUE\t2024-12-31\t2024-01-02 03:04:00\n\ttwo lines",
            "Hidden\n\t\tfar",
        ]

    def test_the_last_cell_of_a_sheet_costs_no_more_than_the_first(self, tmp_path):
        book = Workbook()
        sheet = book.create_sheet("Wide")
        sheet["A1"], sheet["XFD1048576"] = "first", "last"
        book.save(tmp_path / "a.xlsx")
        [_, page] = pages(tmp_path / "a.xlsx")
        assert page.split() == ["Wide", "first", "last"]


class TestHtml:
    def test_blocks_are_lines_and_cells_are_parted_by_tabs(self, put):
        path = put(
            "a.html",
            "<title>T</title><h1>Report</h1><p>One\n  <b>bold</b> line<br>two"
            "<ul><li>x<li>y</ul><table><tr><td>a<td>b<tr><td>c<td>d</table>",
        )
        assert pages(path) == ["Report\n\nOne bold line\ntwo\n\nx\ny\n\na\tb\nc\td"]

    def test_what_nobody_sees_is_left_out(self, put):
        path = put(
            "a.html",
            "<style>S</style><script>document.write('S')</script><template><p>S</p></template><!-- S -->"
            "<p hidden>S</p>a<div style='color: red; DISPLAY:none'>S</div>b<span style='visibility: hidden'>S</span>c"
            "<noscript>S</noscript>",
        )
        assert "".join(pages(path)[0].split()) == "abc"

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            ("<p>Équité €</p>".encode(), "UTF-8"),
            ("<p>Équité €</p>".encode("utf-8-sig"), "byte order mark"),
            ("<p>Équité €</p>".encode("utf-16"), "UTF-16"),
            ("<p>Équité €</p>".encode("cp1252"), "nothing declared"),
            (b"<meta charset=iso-8859-1>" + "<p>Équité €</p>".encode("cp1252"), "what browsers make of latin-1"),
            (b'<meta charset="iso-8859-15">' + "<p>Équité €</p>".encode("iso-8859-15"), "declared"),
            (b"<meta charset=zlib>" + "<p>Équité €</p>".encode(), "no encoding at all"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_encoding(self, put, content: bytes, what: str):
        assert pages(put("a.html", content)) == ["Équité €"]

    def test_preformatted_text_keeps_its_blanks_and_form_feeds_part_pages(self, put):
        assert pages(put("a.html", "<pre>a   b\nc</pre>d\x0ce")) == ["a   b\nc\n\nd", "e"]

    def test_any_text_that_begins_as_html_is_html_unless_its_name_says_text(self, put):
        content = "<!DOCTYPE html><p>x"
        assert pages(put("page", content)) == ["x"]
        assert pages(put("page.txt", content)) == [content]


class TestText:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    def test_encoding(self, put, encoding: str):
        assert pages(put("a.txt", "Équité 5 €\r\nnext".encode(encoding))) == ["Équité 5 €\nnext"]

    def test_form_feeds_part_pages(self, put):
        assert pages(put("a.md", "# One\n\x0c# Two")) == ["# One\n", "# Two"]

    def test_control_characters_are_dropped(self, put):
        assert pages(put("a.txt", "a\x00b\x1b[0mc\ttab" + " " * 400)) == ["ab[0mc\ttab" + " " * 400]


class TestSniffing:
    def test_content_decides(self, tmp_path):
        path = text_pdf(tmp_path / "a.docx", ["It is a PDF"])
        assert pages(path) == ["It is a PDF"]

    @pytest.mark.parametrize(
        "content",
        [
            b"\x89PNG\r\n\x1a\n\x00\x00",
            b"{\\rtf1 text}",
            b"\x1f\x8b\x08\x00",
            bytes(range(256)) * 9,
            b"\xff\xd8\xff\xe0\x00",
        ],
        ids=["png", "rtf", "gzip", "binary", "jpeg"],
    )
    def test_other_formats_are_refused_whatever_their_name(self, put, content: bytes):
        assert {refusal(put(f"a.{ending}", content)) for ending in ("pdf", "txt", "html", "docx")} == {
            "unsupported_format"
        }

    def test_old_office_is_told_from_a_password(self, put):
        magic = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
        assert refusal(put("a.doc", magic)) == "unsupported_format"
        assert refusal(put("a.docx", magic + "EncryptedPackage".encode("utf-16-le"))) == "encrypted_document"

    def test_office_documents_of_other_kinds_are_refused(self, tmp_path):
        path = docx(tmp_path / "a.docx", "text")
        with_members(path, {"[Content_Types].xml": b"<Types xmlns='x'/>"})
        assert refusal(path) == "unsupported_format"

    @pytest.mark.parametrize("content", [b"", b" \n\n", b"\x00\x00"])
    def test_nothing_is_empty(self, put, content: bytes):
        assert refusal(put("a.txt", content)) == "empty_document"


class TestCleaning:
    def test_composed_form_and_unix_lines(self):
        assert clean("e\u0301\r\na\u2028b\x85c\u00adde\ufefff\ud800") == "é\na\nb\ncdef"

    @pytest.mark.parametrize(
        ("raw", "text"),
        [
            ("exam\x02ple", "example"),
            ("well\x02known is known", "well-known is known"),
            ("co\x02operate to cooperate; operate", "cooperate to cooperate; operate"),
            ("Anglo\x02Saxon", "Anglo-Saxon"),
            ("of\ufb01ce \ufb02ow", "office flow"),
        ],
    )
    def test_pdf_words(self, raw: str, text: str):
        assert of_pdf(raw) == text
