"""What operations make of answers, without an engine."""

import json
from typing import Any

import orjson

from services.documents.evidence import Source
from services.documents.operations import task_of
from services.documents.summaries import Summary, groups
from services.documents.tasks import Merged, Part, Reading, understand
from shared.contracts.documents import DocumentSetSpec, Flag, Value

PAGES = {
    1: "Acme GmbH, founded 1990. Revenue 1,200 EUR.",
    2: "Acme had 40 employees. Invoice no. 7.",
    3: "Turnover of 1,300 EUR. ACME  GmbH again.",
}
SOURCE = Source(PAGES)
PARTS = [Part(number=page, pieces=((page, text),)) for page, text in PAGES.items()]
SCHEMA = {
    "type": "object",
    "properties": {
        "company": {"type": "string"},
        "revenue": {"type": "number"},
        "people": {"type": "integer"},
        "names": {"type": "array", "items": {"type": "string"}},
    },
}


def task(**operation: Any) -> Any:
    pack = operation.pop("pack", None)
    spec = {"model": "m", "files": ["file-1"], "operation": operation, "pack": pack}
    return task_of(DocumentSetSpec.model_validate(spec), context=8192)


def cell(value: Any, quote: str | None, page: int | None = None) -> dict[str, Any]:
    return {"value": value, "page": page, "quote": quote}


def read(of: Any, said: Any, *, part: int = 1, cut_off: bool = False) -> Reading:
    text = said if isinstance(said, str) else json.dumps(said)
    return understand(of, text, cut_off=cut_off, part=PARTS[part - 1], source=SOURCE)


def merged(of: Any, *said: Any) -> Merged:
    found: Merged = of.merge([(PARTS[at], read(of, each, part=at + 1)) for at, each in enumerate(said)])
    return found


def flags(found: Reading | Merged) -> dict[str, tuple[str, ...]]:
    return {value.path: value.flags for value in found.values if value.flags}


class TestExtractRead:
    def test_a_value_with_a_good_quote_has_its_real_page(self) -> None:
        found = read(task(type="extract", schema=SCHEMA), {"people": cell(40, "40 employees", page=1)})
        people = {value.path: value for value in found.values}["people"]
        assert (people.value, people.page, people.flags) == (40, 2, ())
        assert found.problems == ()

    def test_a_quote_over_a_mark_of_a_page_is_read_without_it(self) -> None:
        said = {"company": cell("Acme", "200 EUR.\n[page 2]\nAcme had")}
        found = read(task(type="extract", schema=SCHEMA), said)
        company = {value.path: value for value in found.values}["company"]
        assert (company.page, company.quote, company.flags) == (1, "200 EUR. Acme had", ())

    def test_a_date_needs_a_quote_that_shows_it(self) -> None:
        schema = {"type": "object", "properties": {"founded": {"type": "string", "format": "date"}}}
        found = read(task(type="extract", schema=schema), {"founded": cell("1990-01-01", "founded 1990")})
        assert flags(found) == {"founded": (Flag.UNSUPPORTED,)}

    def test_what_is_wrong_is_flagged_and_told(self) -> None:
        said = {
            "company": cell("Acme", None),
            "revenue": cell(1250, "Revenue 1,200", page=1),
            "people": cell("many", "40 employees"),
            "names": [cell("Bob", "Bob Smith", page=1)],
        }
        found = read(task(type="extract", schema=SCHEMA), said)
        assert flags(found) == {
            "company": (Flag.NO_QUOTE,),
            "revenue": (Flag.UNSUPPORTED,),
            "people": (Flag.INVALID,),
            "names.0": (Flag.QUOTE_NOT_FOUND,),
        }
        assert len(found.problems) == 4
        assert found.problems[1] == 'revenue: the quote "Revenue 1,200" does not show 1250'

    def test_a_whole_number_beyond_64_bits_stays_one_that_can_be_stored(self) -> None:
        found = read(task(type="extract", schema=SCHEMA), {"people": cell(10**20, "100000000000000000000")})
        people = {value.path: value for value in found.values}["people"]
        assert (people.value, type(people.value)) == (1e20, float)
        assert orjson.loads(orjson.dumps(people.model_dump(mode="json")))["value"] == 1e20

    def test_nothing_is_wrong_with_what_is_missing(self) -> None:
        found = read(task(type="extract", schema=SCHEMA), {"company": cell(None, "x"), "people": None})
        assert not found.problems
        assert all(value.value is None and value.quote is None for value in found.values)

    def test_an_answer_that_is_no_json_says_so(self) -> None:
        extract = task(type="extract", schema=SCHEMA)
        assert read(extract, "I cannot").flags == (Flag.NOT_JSON,)
        assert read(extract, '{"company": ', cut_off=True).flags == (Flag.CUT_OFF,)
        assert read(extract, "[]").flags == (Flag.INVALID,)


class TestExtractMerge:
    def test_the_first_good_value_in_page_order_wins(self) -> None:
        found = merged(
            task(type="extract", schema=SCHEMA),
            {"company": cell("Bad", "nowhere")},
            {"company": cell("Acme", "Acme had")},
            {},
        )
        assert found.result == {"company": "Acme", "revenue": None, "people": None, "names": []}
        assert flags(found) == {}

    def test_another_good_value_elsewhere_is_a_conflict(self) -> None:
        found = merged(
            task(type="extract", schema=SCHEMA),
            {"revenue": cell(1200, "Revenue 1,200"), "company": cell("Acme GmbH", "Acme GmbH")},
            {},
            {"revenue": cell(1300, "Turnover of 1,300"), "company": cell("ACME  GmbH", "ACME GmbH again")},
        )
        assert found.result["revenue"] == 1200
        assert flags(found) == {"revenue": (Flag.CONFLICT,)}

    def test_a_flagged_value_is_kept_when_there_is_no_other(self) -> None:
        found = merged(task(type="extract", schema=SCHEMA), {"company": cell("Bad", "nowhere")}, {}, {})
        assert found.result["company"] == "Bad"
        assert flags(found) == {"company": (Flag.QUOTE_NOT_FOUND,)}

    def test_lists_are_joined_and_equal_entries_are_one(self) -> None:
        found = merged(
            task(type="extract", schema=SCHEMA),
            {"names": [cell("Acme GmbH", "nowhere"), cell("Bob", "nowhere")]},
            {"names": [cell(None, None)]},
            {"names": [cell("ACME GmbH", "ACME GmbH again"), cell("Turnover", "Turnover")]},
        )
        assert found.result["names"] == ["ACME GmbH", "Bob", "Turnover"]
        assert flags(found) == {"names.1": (Flag.QUOTE_NOT_FOUND,)}

    def test_the_packs_spellings_and_rules_are_used(self) -> None:
        pack = {
            "name": "firms",
            "terms": [{"name": "company", "values": {"Acme": ["Acme GmbH", "ACME  GmbH again"]}}],
            "rules": [{"name": "small", "check": "range", "fields": ["people"], "maximum": 10}],
        }
        found = merged(
            task(type="extract", schema=SCHEMA, pack=pack),
            {"company": cell("Acme GmbH", "Acme GmbH")},
            {"people": cell(40, "40 employees")},
            {"company": cell("ACME GmbH again", "ACME GmbH again")},
        )
        values = {value.path: value for value in found.values}
        assert (values["company"].value, values["company"].original, values["company"].flags) == (
            "Acme",
            "Acme GmbH",
            (),
        )
        assert values["people"].check == "violates:small"


class TestClassify:
    LABELS = ("report", "invoice", "letter")

    def label(self, label: str | None, quote: str | None) -> dict[str, Any]:
        return {"label": label, "page": 1, "quote": quote}

    def test_the_label_of_most_parts_wins(self) -> None:
        found = merged(
            task(type="classify", labels=list(self.LABELS)),
            self.label("invoice", "Acme GmbH"),
            self.label("report", "40 employees"),
            self.label("report", "Turnover"),
        )
        assert found.result == "report"
        assert [(value.path, value.page, value.flags) for value in found.values] == [("label", 2, ())]

    def test_of_equal_numbers_the_first_label_wins_and_the_conflict_is_told(self) -> None:
        found = merged(
            task(type="classify", labels=list(self.LABELS)),
            self.label("letter", "Acme GmbH"),
            self.label("invoice", "Invoice no. 7"),
            self.label("report", "nowhere"),
        )
        assert found.result == "invoice"
        assert found.values[0].flags == (Flag.CONFLICT,)

    def test_several_labels_are_united_in_their_order(self) -> None:
        found = merged(
            task(type="classify", labels=list(self.LABELS), multi_label=True),
            {"labels": [self.label("letter", "nowhere")]},
            {"labels": [self.label("letter", "40 employees"), self.label("report", "Invoice no. 7")]},
            {"labels": []},
        )
        assert found.result == ["report", "letter"]
        assert [(value.path, value.page, value.flags) for value in found.values] == [
            ("labels.0", 2, ()),
            ("labels.1", 2, ()),
        ]

    def test_an_unknown_label_is_a_problem_and_none_in_the_end(self) -> None:
        classify = task(type="classify", labels=list(self.LABELS))
        found = read(classify, self.label("novel", "Acme"))
        assert found.problems == ('label: "novel" is none of the labels',)
        assert (
            merged(classify, self.label("novel", "Acme"), self.label(None, None), self.label(None, None)).result is None
        )


class TestSummarize:
    def test_sentences_are_joined_with_their_pages(self) -> None:
        said = {
            "sentences": [
                {"text": "Acme earned more.", "pages": [3, 1, 99], "quote": "Turnover of 1,300"},
                {"text": "It has staff.", "pages": [], "quote": "40 employees"},
                {"text": "It is nice.", "pages": [1], "quote": "nice"},
            ]
        }
        summarize = task(type="summarize")
        found = summarize.merge([(PARTS[0], read(summarize, said))])
        assert found.result == "Acme earned more. (p. 1, 3) It has staff. (p. 2) It is nice. (p. 1)"
        assert flags(found) == {"sentences.2": (Flag.QUOTE_NOT_FOUND,)}

    def test_summaries_are_grouped_until_one_is_left(self) -> None:
        level = [Reading((Value(path="sentences.0", value="x" * 10),), said=((1,),)) for _ in range(7)]
        sizes = []
        while len(level) > 1:
            grouped = groups(level, fits=lambda some: len(some) <= 3)
            sizes.append([len(group) for group in grouped])
            level = [group[0] for group in grouped]
        assert sizes == [[3, 3, 1], [3]]
        assert [len(group) for group in groups([Reading()] * 5, fits=lambda _: False)] == [2, 2, 1]

    def test_what_is_combined_keeps_pages_and_quotes(self) -> None:
        summarize = task(type="summarize", words=50)
        assert isinstance(summarize, Summary)
        first = read(summarize, {"sentences": [{"text": "One.", "pages": [1], "quote": "Acme"}]})
        assert '{"text": "One.", "pages": [1], "quote": "Acme"}' in summarize.combine([first, first])


class TestCustom:
    def test_one_part_is_its_answer_and_several_are_a_list(self) -> None:
        custom = task(type="custom", template="{text}")
        assert custom.merge([(PARTS[0], read(custom, "hello"))]).result == "hello"
        found = merged(custom, "a", "b", "c")
        assert found.result == ["a", "b", "c"]
        assert [(value.path, value.page) for value in found.values] == [
            ("chunks.0", 1),
            ("chunks.1", 2),
            ("chunks.2", 3),
        ]

    def test_an_answer_by_a_schema_is_checked(self) -> None:
        schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
        custom = task(type="custom", template="{text}", schema=schema)
        assert read(custom, {"a": 1}).problems == ()
        found = read(custom, {"a": "1", "b": 2})
        assert found.flags == (Flag.INVALID,)
        assert found.problems == ("the answer: b is not in the schema", "a: '1' is not of type 'integer'")
        assert read(custom, {}).problems == ("the answer: a is missing",)

    def test_a_text_that_was_cut_off_is_flagged(self) -> None:
        custom = task(type="custom", template="{text}")
        assert read(custom, "hel", cut_off=True).flags == (Flag.CUT_OFF,)
