"""The `document_set` kind: its other operations, what a second attempt does, and the real engine."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest

from services.catalog import service as catalog
from shared.contracts.documents import SET_FILES, Flag
from shared.contracts.jobs import State
from tests.support import wait_until
from tests.workers.conftest import World
from tests.workers.document_desk import COMPANY, EACH_PAGE, Desk, answer, cell, extract, open_desk, pages
from tests.workers.test_inference import TINY
from workers.documents.chunks import Chunker
from workers.operations import documents_shared

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Desk:
    return open_desk(world, tmp_path)


class TestOtherOperations:
    def test_classify(self, desk: Desk) -> None:
        labels = ["letter", {"name": "invoice", "description": "asks for money"}]
        said = json.dumps({"label": "invoice", "page": 9, "quote": "Pay 5 EUR"})
        several = json.dumps(
            {"labels": [{"label": name, "page": 1, "quote": "Pay 5"} for name in ("invoice", "letter")]}
        )
        one = desk.submit({"a.txt": b"Dear Bob,\nPay 5 EUR."}, {"type": "classify", "labels": labels})
        many = desk.submit(
            {"a.txt": b"Dear Bob,\nPay 5 EUR."}, {"type": "classify", "labels": labels, "multi_label": True}
        )
        desk.start({"match": '"labels"', "answer": several}, {"answer": said})
        (single,), (multi,) = desk.results(one), desk.results(many)
        assert (single.result, multi.result) == ("invoice", ["letter", "invoice"])
        assert [(value.page, value.flags) for value in (*single.values, *multi.values)] == [(1, ())] * 3

    def test_summaries_are_combined_in_a_tree(self, desk: Desk) -> None:
        text = pages(*(f"Fact {number} is known" for number in range(1, 6)))

        def sentence(words: str, number: int) -> str:
            return json.dumps({"sentences": [{"text": words, "pages": [number], "quote": f"Fact {number} is"}]})

        operation = {"type": "summarize", "words": 40}
        set_id = desk.submit({"a.txt": text}, operation, chunking=EACH_PAGE)
        runner = desk.start(
            {"match": "(?s)Below are.*Higher.*Low 5", "answer": sentence("Top.", 1)},
            {"match": "(?s)Below are.*High 1.*High 3", "answer": sentence("Higher.", 3)},
            {"match": "(?s)Below are.*Low 1.*Low 2", "answer": sentence("High 1.", 2)},
            {"match": "(?s)Below are", "answer": sentence("High 3.", 4)},
            *({"match": f"Fact {number}", "answer": sentence(f"Low {number}.", number)} for number in range(1, 6)),
        )
        (result,) = desk.results(set_id)
        asked = [body["messages"][0]["content"] for body in desk.asked(runner)]
        assert len([prompt for prompt in asked if prompt.startswith("Below are")]) == 4  # of 5, 3 and 2 summaries
        assert result.result == "Top. (p. 1)"
        assert [(value.path, value.quote, value.flags) for value in result.values] == [("sentences.0", "Fact 1 is", ())]

    def test_custom_prompts_give_text_or_json(self, desk: Desk) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        text = pages("One here", "Two here")
        plain = desk.submit(
            {"a.txt": text}, {"type": "custom", "template": "{filename} p{pages}: {text}"}, chunking=EACH_PAGE
        )
        checked = desk.submit({"b.txt": b"Only one"}, {"type": "custom", "template": "Count: {text}", "schema": schema})
        desk.start(
            {"about": "Count", "answers": ['{"n": "1"}', '{"n": 1}']},
            {"match": r"a\.txt p1: One", "answer": "first\nline"},
            {"match": r"a\.txt p2: Two", "answer": "second"},
        )
        (texts,), (counted,) = desk.results(plain), desk.results(checked)
        assert texts.result == ["first\nline", "second"]
        assert [(value.path, value.page) for value in texts.values] == [("chunks.0", 1), ("chunks.1", 2)]
        assert (counted.result, counted.repaired, counted.flags) == ({"n": 1}, 1, ())


class TestAttempts:
    def test_the_same_set_again_is_answered_by_the_cache(self, desk: Desk) -> None:
        rule = {"answer": answer(company=cell("Acme", "Acme"))}
        first = desk.submit({"a.txt": b"Acme 1", "b.txt": b"Acme 2"}, extract(COMPANY))
        runner = desk.start(rule)
        before = [result.model_dump(exclude={"file_id"}) for result in desk.results(first)]
        second = desk.submit({"a.txt": b"Acme 1", "b.txt": b"Acme 2"}, extract(COMPANY))
        assert [result.model_dump(exclude={"file_id"}) for result in desk.results(second)] == before
        assert len(desk.asked(runner)) == 2

    def test_jobs_that_begin_together_load_the_tokenizer_once(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded: list[Path | None] = []

        def chunker(path: Path | None) -> Chunker:
            loaded.append(path)
            return Chunker(path)

        monkeypatch.setattr(documents_shared, "_chunkers", OrderedDict())
        monkeypatch.setattr(documents_shared, "Chunker", chunker)
        named = {f"{number}.txt": f"Acme {number}".encode() for number in range(4 * SET_FILES)}
        set_id = desk.submit(named, extract(COMPANY))
        desk.start({"answer": answer(company=cell("Acme", "Acme"))})
        assert len(desk.results(set_id)) == len(named)
        assert len(loaded) == 1

    def test_cancel_stops_in_the_middle(self, desk: Desk) -> None:
        named = {f"{number}.txt": f"Acme {number}".encode() for number in range(8)}
        set_id = desk.submit(named, extract(COMPANY))
        said = answer(company=cell("Acme", "Acme"))
        runner = desk.start({"match": "Acme [0-3]", "answer": said}, {"answer": "word " * 200}, word_s=0.05)
        wait_until(lambda: len(desk.recorded(set_id)) == 4, timeout=40, what="four documents")
        desk.world.cancel(set_id)
        wait_until(lambda: desk.children(set_id) == [State.CANCELLED], timeout=15, what="the child is cancelled")
        (engine,) = runner.host.engines
        assert (engine.lane.in_flight, engine.lane.jobs) == (0, 0)
        assert len(desk.recorded(set_id)) == 4
        assert list(runner.host.folders.jobs.iterdir()) == []

    def test_another_attempt_reads_only_what_is_left(self, desk: Desk) -> None:
        named = {f"{number}.txt": f"Acme {number}".encode() for number in range(8)}
        set_id = desk.submit(named, extract(COMPANY))
        said = answer(company=cell("Acme", "Acme"))
        first = desk.start({"match": "Acme [0-3]", "answer": said}, {"answer": "word " * 200}, word_s=0.05)
        wait_until(lambda: len(desk.recorded(set_id)) == 4, timeout=40, what="four documents")
        first.drain()
        assert first.join(20)
        before = [(item.line_no, item.output) for item in desk.recorded(set_id)]
        runner = desk.start({"answer": said})
        after = desk.finished(set_id)
        assert [(item.line_no, item.output) for item in after[:4]] == before
        assert [item.attempt for item in after] == [1] * 4 + [2] * 4
        assert len(desk.asked(runner)) == 4


class TestRealEngine:
    def test_yard_tiny_goes_through_all_of_it(self, desk: Desk) -> None:
        catalog.register_folder(desk.world.database, desk.store, desk.world.tenant, name="yard-tiny", folder=TINY)
        named = {"a.txt": b"By Acme, 31 December 2024.", "b.md": b"# Nothing\n\nmore than this"}
        schema = {
            "type": "object",
            "properties": {
                "company": {"type": "string"},
                "due": {"type": "string", "format": "date"},
                "kind": {"enum": ["letter", "invoice"]},
            },
        }
        extraction = desk.submit(named, extract(schema), model="yard-tiny", max_tokens=64)
        labels = {"type": "classify", "labels": ["letter", "invoice"]}
        labelled = desk.submit(named, labels, model="yard-tiny", max_tokens=200)
        desk.world.runner()
        for result in desk.results(extraction):
            assert set(result.result) == {"company", "due", "kind"}
            assert result.usage.completion_tokens > 0
        for result in desk.results(labelled):  # the grammar allows nothing but a label
            assert result.result in {"letter", "invoice", None}
            assert Flag.NOT_JSON not in result.flags
