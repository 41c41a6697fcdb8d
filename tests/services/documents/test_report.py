"""Reports of a set: what programs read and what people see, whatever documents say."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from lxml import html

from services.documents import report
from services.documents.records import Record
from shared.contracts.documents import Flag
from tests.services.documents import built
from tests.services.documents.built import value

PACK = {
    "name": "mine",
    "rules": [{"name": "balance", "check": "equation", "expression": "assets = debts", "message": "<Sides> differ"}],
}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>&\"'"

GOOD = built.result(1, {}, value("assets", 5, page=2, quote="assets 5", check="verified"), repaired=1, ocr_pages=2)
BROKEN = built.result(
    2,
    {},
    value("assets", 5, check="violates:balance"),
    value("debts", 4, original="(4)", check="violates:balance", flags=(Flag.QUOTE_NOT_FOUND,)),
    value("company", "x"),
    flags=(Flag.CONFLICT,),
    usage={"prompt_tokens": 7, "completion_tokens": 3},
)


def made(folder: Path, *found: Record, **fields: Any) -> tuple[dict[str, Any], html.HtmlElement, str]:
    """report.json, the page and its text."""
    built.write(folder, found, built.spec(**fields))
    page = (folder / "report.html").read_text(encoding="utf-8")
    return orjson.loads((folder / "report.json").read_bytes()), html.document_fromstring(page), page


class TestJson:
    def test_every_document_is_described(self, tmp_path: Path) -> None:
        told, _, _ = made(tmp_path, GOOD, BROKEN, built.error(3), pack=PACK)
        assert (told["set_id"], told["model"], told["operation"], told["pack"]) == (
            "docset_1",
            "tiny",
            "extract",
            "mine",
        )
        assert told["rules"] == {"balance": "<Sides> differ"}
        good, broken, failed = told["documents"]
        assert (good["status"], good["repaired"], good["ocr_pages"], good["violations"]) == ("ok", 1, 2, [])
        assert broken["violations"] == [{"rule": "balance", "path": path} for path in ("assets", "debts")]
        assert broken["values"] == {"verified": 0, "violating": 2, "unchecked": 1}
        assert (broken["flags"], broken["status"]) == (["conflict"], "flagged")
        assert broken["flagged_values"] == [{"path": "debts", "flags": ["quote_not_found"]}]
        assert (failed["status"], failed["error"]["code"]) == ("error", "encrypted")

    def test_totals_add_up(self, tmp_path: Path) -> None:
        told, _, _ = made(tmp_path, GOOD, BROKEN, built.error(3))
        assert told["totals"] == {
            "documents": 3, "ok": 1, "flagged": 1, "errors": 1, "pages": 6, "ocr_pages": 2, "repaired": 1,
            "prompt_tokens": 7, "completion_tokens": 3, "cost": 0.0,
            "values": {"verified": 1, "violating": 2, "unchecked": 1},
        }  # fmt: skip

    def test_a_set_of_none(self, tmp_path: Path) -> None:
        told, page, _ = made(tmp_path)
        assert (told["documents"], told["totals"]["documents"]) == ([], 0)
        assert page.xpath("//table[@id='documents']/tbody/tr") == []


class TestPage:
    def test_rows_lead_to_sections_and_back(self, tmp_path: Path) -> None:
        _, page, _ = made(tmp_path, GOOD, BROKEN, built.error(3), pack=PACK)
        links = page.xpath("//table[@id='documents']//a/@href")
        assert links == ["#d1", "#d2", "#d3"]
        assert page.xpath("//section/@id") == [link[1:] for link in links]
        assert set(page.xpath("//section//a/@href")) == {"#documents"}
        assert page.xpath("//section[@id='d2']/p[@class='violates']")[0].text_content() == "balance: <Sides> differ"
        assert "was (4)" in page.xpath("//section[@id='d2']")[0].text_content()
        assert page.xpath("//section[@id='d1']//q")[0].text == "assets 5"
        assert "it needs a password" in page.xpath("//section[@id='d3']")[0].text_content()

    def test_it_needs_nothing_from_elsewhere(self, tmp_path: Path) -> None:
        _, page, text = made(tmp_path, GOOD)
        assert page.xpath("//script | //img | //link | //iframe | //@src | //@onclick") == []
        assert not re.search(r"https?:|@import|url\(", text)
        assert "default-src 'none'" in page.xpath("//meta[@http-equiv]/@content")[0]
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text

    def test_what_documents_say_is_text(self, tmp_path: Path) -> None:
        bad = built.result(
            1, HOSTILE, value(HOSTILE, HOSTILE, quote=HOSTILE, original=HOSTILE, check=f"violates:{HOSTILE}"),
            filename=HOSTILE, file_id=HOSTILE,
        )  # fmt: skip
        failed = built.error(2, code=HOSTILE, detail=HOSTILE)
        for operation in ({"type": "summarize"}, None):
            _, page, text = made(tmp_path, bad, failed, operation=operation)
            assert page.xpath("//script | //img | //@onerror") == []
            assert HOSTILE not in text
            assert page.xpath("//h2")[0].text == HOSTILE
            assert page.xpath("//section[@id='d1']//q")[0].text == HOSTILE

    def test_texts_are_shown_as_they_are(self, tmp_path: Path) -> None:
        _, page, _ = made(tmp_path, built.result(1, "One.\nTwo."), operation={"type": "summarize"})
        assert page.xpath("//p[@class='text']")[0].text == "One.\nTwo."

    def test_of_a_large_set_the_first_that_are_not_ok_have_sections(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report, "SECTIONS", 2)
        _, page, text = made(tmp_path, GOOD, built.error(2), GOOD, built.error(4), built.error(5))
        assert page.xpath("//section/@id") == ["d2", "d4"]
        assert page.xpath("//table[@id='documents']//a/@href") == ["#d2", "#d4"]
        assert len(page.xpath("//table[@id='documents']/tbody/tr")) == 5
        assert "the first 2 documents that are not ok" in text

    def test_long_texts_and_lists_are_cut_and_say_so(self, tmp_path: Path) -> None:
        many = [value(f"lines.{n}.amount", "x" * 5000 if n == 0 else n) for n in range(report.ROWS + 3)]
        _, page, text = made(tmp_path, built.result(1, {}, *many))
        assert len(page.xpath("//section//tbody/tr")) == report.ROWS
        assert page.xpath("//section/p[@class='note']")[-1].text == "and 3 more"
        assert f"{'x' * report.TEXT} …" in text
        assert "x" * (report.TEXT + 1) not in text
