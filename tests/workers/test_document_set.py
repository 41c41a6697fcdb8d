"""The `document_set` kind: what becomes of documents, their values and what is wrong with them."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image
from reportlab.pdfgen.canvas import Canvas

from infra.documents.samples import TRUTH, generate
from shared.contracts.documents import Flag
from tests.workers.conftest import World
from tests.workers.document_desk import COMPANY, EACH_PAGE, Desk, answer, cell, extract, open_desk, pages

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

FACTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "company": {"type": "string", "description": "registered name"},
        "period_end": {"type": "string", "format": "date"},
        "assets": {"type": "number"},
        "liabilities": {"type": "number"},
        "equity": {"type": "number"},
    },
}
PEOPLE = {
    "type": "object",
    "properties": {"people": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}}},
}


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Desk:
    return open_desk(world, tmp_path)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of four companies, and what is true of them."""
    folder = tmp_path_factory.mktemp("samples")
    generate(folder)
    return folder


class TestExtract:
    def test_reports_of_every_format_become_verified_values(self, desk: Desk, samples: Path) -> None:
        truth = orjson.loads((samples / TRUTH).read_bytes())["documents"]
        rules = []
        for about in truth.values():
            cells = {name: about["values"][name] | {"page": 1} for name in FACTS["properties"]}
            years = f"{about['values']['period_end']['quote']}"
            rules.append({"match": f"(?s){re.escape(about['company'])}.*{re.escape(years)}", "answer": answer(**cells)})
        named = {name: (samples / name).read_bytes() for name in truth}
        set_id = desk.submit(named, extract(FACTS), pack="annual-report")
        desk.start(*rules)
        for result, (name, about) in zip(desk.results(set_id), truth.items(), strict=True):
            assert (result.filename, result.format[:4], result.chunks) == (
                name,
                {"md": "mark"}.get(about["format"], about["format"]),
                1,
            )
            found = {value.path: value for value in result.values}
            assert result.result == {field: about["values"][field]["value"] for field in FACTS["properties"]}
            for field in FACTS["properties"]:
                assert (found[field].page, found[field].flags) == (about["values"][field]["page"], ()), field
            broken = any("balance" in rule or "equation" in rule for rule in about["violations"])
            assert found["assets"].check.startswith("violates:") is broken
            assert result.usage.prompt_tokens > 0


class TestRepair:
    def test_what_is_wrong_is_repaired_or_flagged(self, desk: Desk) -> None:
        good, lie = answer(company=cell("Acme", "by Acme")), answer(company=cell("Acme", "from Acme"))
        named = {f"{number}.txt": f"Letter {number} by Acme".encode() for number in range(5)}
        set_id = desk.submit(named, extract(COMPANY))
        runner = desk.start(
            {"about": "Letter 0", "answers": [lie, good]},
            {"about": "Letter 1", "answers": [lie, lie, good]},
            {"about": "Letter 2", "answers": ['{"company": oops', good]},
            {"about": "Letter 3", "answer": "I do not know"},
            {"about": "Letter 4", "answer": '{"company": {"value": "Ac', "finish_reason": "length"},
        )
        results = desk.results(set_id)
        assert [result.result["company"] for result in results] == ["Acme", "Acme", "Acme", None, None]
        assert [result.values[0].flags for result in results] == [(), (Flag.QUOTE_NOT_FOUND,), (), (), ()]
        assert [result.flags for result in results] == [(), (), (), (Flag.NOT_JSON,), (Flag.CUT_OFF,)]
        assert [result.repaired for result in results] == [1] * 5
        assert len(desk.asked(runner)) == 10
        told = [body["messages"] for body in desk.asked(runner) if len(body["messages"]) == 3]
        repair = next(turns for turns in told if "Letter 0" in turns[0]["content"])
        assert repair[1] == {"role": "assistant", "content": lie}
        assert 'company: the quote "from Acme" does not occur in the text' in repair[2]["content"]

    def test_answers_are_guided_unless_told_otherwise(self, desk: Desk) -> None:
        rule = {"answer": answer(company=cell("Acme", "Acme"))}
        first = desk.submit({"a.txt": b"Acme one"}, extract(COMPANY))
        second = desk.submit({"b.txt": b"Acme two"}, extract(COMPANY), guided=False, temperature=0.7)
        runner = desk.start(rule)
        assert [result.result for set_id in (first, second) for result in desk.results(set_id)] == [
            {"company": "Acme"}
        ] * 2
        by_text = {re.findall("one|two", body["messages"][0]["content"])[-1]: body for body in desk.asked(runner)}
        form = by_text["one"]["response_format"]["json_schema"]["schema"]
        assert form["properties"] == {"company": {"$ref": "#/$defs/cell0"}}
        assert set(form["$defs"]["cell0"]["properties"]) == {"value", "page", "quote"}
        assert "response_format" not in by_text["two"]
        assert by_text["two"]["seed"] >= 0


class TestMerge:
    def test_parts_of_a_document_are_put_together(self, desk: Desk) -> None:
        text = pages("Ann leads 12 people", "Bob leads nobody", "Cyd and Ann lead 15 people")
        nothing = {"people": cell(None, None, None)}
        set_id = desk.submit({"a.txt": text}, extract(PEOPLE), chunking=EACH_PAGE)
        desk.start(
            {
                "match": "Cyd",
                "answer": answer(people=cell(15, "15 people"), names=[cell("Cyd", "Cyd"), cell("Ann", "Ann")]),
            },
            {"match": "Bob", "answer": answer(**nothing, names=[cell("Bob", "Bob leads")])},
            {"match": "Ann", "answer": answer(people=cell(12, "12 people"), names=[cell("Ann", "Ann leads", page=3)])},
        )
        (result,) = desk.results(set_id)
        assert (result.pages, result.chunks) == (3, 3)
        assert result.result == {"people": 12, "names": ["Ann", "Bob", "Cyd"]}
        assert [(value.path, value.page, value.flags) for value in result.values] == [
            ("people", 1, (Flag.CONFLICT,)),
            ("names.0", 1, ()),
            ("names.1", 2, ()),
            ("names.2", 3, ()),
        ]

    def test_a_part_that_the_engine_refuses_leaves_the_others_unharmed(self, desk: Desk) -> None:
        named = {"a.txt": pages("Ann leads 12 people", "Forbidden"), "b.txt": b"Forbidden from the start"}
        set_id = desk.submit(named, extract(PEOPLE), chunking=EACH_PAGE)
        desk.start(
            {"match": "Forbidden", "status": 400, "answer": "maximum context length is 1"},
            {"answer": answer(people=cell(12, "12 people"), names=[])},
        )
        first, second = desk.finished(set_id)
        assert first.output is not None
        assert (first.output["result"], first.output["flags"]) == ({"people": 12, "names": []}, ["refused"])
        assert second.error is not None
        assert second.error["code"] == "context_length_exceeded"


class TestRefusals:
    def test_documents_that_cannot_be_read_fail_alone(self, desk: Desk) -> None:
        locked, picture = BytesIO(), BytesIO()
        canvas = Canvas(locked, encrypt="secret")
        canvas.drawString(72, 720, "Nobody reads this")
        canvas.save()
        Image.new("RGB", (600, 800), "white").save(picture, "PDF")
        named = {
            "locked.pdf": locked.getvalue(),
            "good.txt": b"By Acme",
            "scan.pdf": picture.getvalue(),
            "torn.docx": b"PK\x03\x04 torn",
        }
        set_id = desk.submit(named, extract(COMPANY))
        desk.start({"answer": answer(company=cell("Acme", "By Acme"))})
        items = desk.finished(set_id)
        assert [item.error and item.error["code"] for item in items] == [
            "encrypted_document",
            None,
            "scanned_document",
            "damaged_document",
        ]
        assert items[1].output is not None
        assert items[1].output["result"] == {"company": "Acme"}
        child = desk.world.get(items[0].job_id)
        assert (child.progress_done, child.progress_failed) == (4, 3)

    def test_a_set_without_a_readable_document_needs_no_engine(self, desk: Desk) -> None:
        set_id = desk.submit({"a.pdf": b"%PDF-1.7 nothing", "b.txt": b" \n "}, extract(COMPANY))
        runner = desk.start()
        assert [item.status for item in desk.finished(set_id)] == ["error", "error"]
        assert list(runner.host.engines) == []

    def test_content_that_the_store_has_lost_fails_alone(self, desk: Desk) -> None:
        set_id = desk.submit({"a.txt": b"By Acme", "b.txt": b"gone"}, extract(COMPANY))
        (_, gone) = desk.items(set_id)
        desk.store.delete(desk.world.tenant, gone.input["sha256"])
        desk.start({"answer": answer(company=cell("Acme", "By Acme"))})
        items = desk.finished(set_id)
        assert [item.status for item in items] == ["done", "error"]
        assert items[1].error is not None
        assert items[1].error["code"] == "blob_missing"
