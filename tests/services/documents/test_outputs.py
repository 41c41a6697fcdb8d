"""Tables of results: CSV and Parquet with the same columns, of values that people and models made up."""

import csv
import io
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.documents import records, table_files
from shared.contracts.documents import Flag
from tests.architecture.source import ROOT
from tests.services.documents import built
from tests.services.documents.built import value

NAMED = built.result(
    1,
    {"company": "Halden"},
    value("company", "Halden AB", page=1, quote="Halden AB: annual report", check="verified"),
    value("assets", 12.5, page=3, quote="Total assets 12.5", check="violates:balance"),
    value("staff", 7, page=2),
    value("audited", True),
    value("closed", "31 December 2025"),
    value("address.city", "Oslo"),
    value("lines.0.amount", 1, page=2, quote="one", check="verified"),
    value("lines.1.amount", 2, page=3, quote="two"),
)
WRONG = built.result(
    2,
    {"company": None, "lines": []},
    value("company", None, flags=(Flag.NO_QUOTE,)),
    value("assets", "many", flags=(Flag.INVALID,)),
    value("staff", 2.5),
    value("audited", "yes"),
    value("closed", "soon"),
    flags=(Flag.CUT_OFF,),
)
FAILED = built.error(3)


def comma_separated(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def typed(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


class TestColumns:
    def test_a_row_of_each_document_in_order(self, tmp_path: Path) -> None:
        built.write(tmp_path, [NAMED, WRONG, FAILED])
        first, second, third = comma_separated(tmp_path / "results.csv")
        assert list(first)[:8] == [
            "file_id", "filename", "status", "pages", "company", "company.page", "company.quote", "company.check",
        ]  # fmt: skip
        assert list(first)[-3:] == ["flags", "unfit", "error"]
        assert [row["status"] for row in (first, second, third)] == ["flagged", "flagged", "error"]
        assert (first["company"], first["company.page"], first["company.check"]) == ("Halden AB", "1", "verified")
        assert (first["assets"], first["assets.quote"]) == ("12.5", "Total assets 12.5")
        assert first["assets.check"] == "violates:balance"
        assert (first["audited"], first["closed"], first["address.city"]) == ("true", "2025-12-31", "Oslo")
        assert (second["company"], second["flags"]) == ("", "cut_off no_quote invalid")
        assert third["error"] == "encrypted: it needs a password"
        assert {third[name] for name in third} - {third["error"], "file-3", "report 3.pdf", "error"} == {""}

    def test_what_does_not_fit_its_column_stands_beside(self, tmp_path: Path) -> None:
        built.write(tmp_path, [WRONG])
        (row,) = typed(tmp_path / "results.parquet")
        assert [row[name] for name in ("assets", "staff", "audited", "closed")] == [None] * 4
        assert orjson.loads(row["unfit"]) == {"assets": "many", "staff": 2.5, "audited": "yes", "closed": "soon"}

    def test_a_list_is_one_field_with_the_worst_of_its_checks(self, tmp_path: Path) -> None:
        entries = [value(f"lines.{n}.amount", n, page=n + 5, quote=f"q{n}", check="verified") for n in range(3)]
        whole = {"lines": [{"amount": n} for n in range(3)]}
        bad = entries[1].model_copy(update={"check": "violates:sum"})
        vague = entries[1].model_copy(update={"check": "unchecked"})
        found = [[*entries], [entries[0], vague], [vague, bad], []]
        built.write(tmp_path, [built.result(n, whole, *values) for n, values in enumerate(found)])
        rows = typed(tmp_path / "results.parquet")
        assert [row["lines.check"] for row in rows] == ["verified", "unchecked", "violates:sum", None]
        assert orjson.loads(rows[0]["lines"]) == whole["lines"]
        assert (rows[0]["lines.page"], rows[0]["lines.quote"]) == (5, "q0")

    def test_types_are_the_schemas(self, tmp_path: Path) -> None:
        built.write(tmp_path, [NAMED])
        schema = pq.read_schema(tmp_path / "results.parquet")
        names = ("company", "assets", "staff", "audited", "closed", "lines", "pages", "assets.page")
        assert [str(schema.field(name).type) for name in names] == [
            "string", "double", "int64", "bool", "date32[day]", "string", "int64", "int64",
        ]  # fmt: skip
        assert typed(tmp_path / "results.parquet")[0]["closed"] == date(2025, 12, 31)

    @pytest.mark.parametrize(
        ("leaf", "type_"),
        [
            ({"enum": ["a", "b", None]}, "string"),
            ({"enum": [1, 2]}, "int64"),
            ({"enum": [1, 2.5]}, "double"),
            ({"enum": [1, "a"]}, "string"),
            ({"const": True}, "bool"),
            ({"type": "string", "enum": ["a"]}, "string"),
            ({"type": "null"}, "string"),
        ],
    )
    def test_choices_have_the_type_of_all_of_them(self, tmp_path: Path, leaf: dict[str, Any], type_: str) -> None:
        operation = {"type": "extract", "schema": {"type": "object", "properties": {"a": leaf}}}
        built.write(tmp_path, [], built.spec(operation))
        assert str(pq.read_schema(tmp_path / "results.parquet").field("a").type) == type_

    def test_fields_that_are_called_as_a_column_give_way(self, tmp_path: Path) -> None:
        properties = {name: {"type": "string"} for name in ("status", "error", "Pages", "flags")}
        operation = {"type": "extract", "schema": {"type": "object", "properties": properties}}
        built.write(tmp_path, [built.result(1, {"status": "mine", "Pages": "iv"})], built.spec(operation))
        (row,) = comma_separated(tmp_path / "results.csv")
        assert (row["status"], row["result.status"], row["result.Pages"]) == ("ok", "mine", "iv")
        assert pq.read_schema(tmp_path / "results.parquet").names == list(row)

    def test_labels(self, tmp_path: Path) -> None:
        labels = {"type": "classify", "labels": ["a", "b"]}
        evidence = value("label", "b", page=2, quote="B!")
        built.write(tmp_path, [built.result(1, "b", evidence), FAILED], built.spec(labels))
        first, second = comma_separated(tmp_path / "results.csv")
        assert (first["label"], first["label.page"], first["label.quote"], second["label"]) == ("b", "2", "B!", "")

    def test_several_labels_are_a_list(self, tmp_path: Path) -> None:
        labels = {"type": "classify", "labels": ["a", "b"], "multi_label": True}
        found = [built.result(1, ["a", "b"], value("labels.0", "a", page=4)), built.result(2, [])]
        built.write(tmp_path, found, built.spec(labels))
        rows = typed(tmp_path / "results.parquet")
        assert [(row["labels"], row["labels.page"]) for row in rows] == [('["a","b"]', 4), ("[]", None)]

    @pytest.mark.parametrize(
        ("operation", "given", "text"),
        [
            ({"type": "summarize"}, 'All, in\r\nall: "good".', 'All, in\r\nall: "good".'),
            ({"type": "custom", "template": "{text}"}, ["one", "two"], '["one","two"]'),
            ({"type": "custom", "template": "{text}"}, None, None),
        ],
    )
    def test_texts(self, tmp_path: Path, operation: dict[str, Any], given: Any, text: str | None) -> None:
        built.write(tmp_path, [built.result(1, given)], built.spec(operation))
        assert comma_separated(tmp_path / "results.csv")[0]["text"] == (text or "")
        assert typed(tmp_path / "results.parquet")[0]["text"] == text


class TestFiles:
    def test_both_tables_say_the_same(self, tmp_path: Path) -> None:
        built.write(tmp_path, [NAMED, WRONG, FAILED])
        for text, row in zip(
            comma_separated(tmp_path / "results.csv"), typed(tmp_path / "results.parquet"), strict=True
        ):
            assert list(text) == list(row)
            assert list(text.values()) == [_spelled(cell) for cell in row.values()]

    def test_the_same_records_make_the_same_bytes(self, tmp_path: Path) -> None:
        made = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            written = built.write(tmp_path / name, [NAMED, WRONG, FAILED])
            made.append([(each.name, each.path.read_bytes()) for each in written])
        assert made[0] == made[1]
        assert [name for name, _ in made[0]] == ["results.csv", "results.parquet", "report.json", "report.html"]

    def test_csv_is_rfc_4180_without_a_mark(self, tmp_path: Path) -> None:
        built.write(tmp_path, [built.result(1, {"company": 'A "B",\nC'})])
        data = (tmp_path / "results.csv").read_bytes()
        assert data.startswith(b"file_id,filename,")
        assert b',"A ""B"",\nC",' in data
        assert data.endswith(b"\r\n")

    def test_many_rows_are_several_row_groups_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table_files, "CELLS", 350)
        built.write(tmp_path, [built.result(n, {}, value("staff", n)) for n in range(100)])
        file = pq.ParquetFile(tmp_path / "results.parquet")
        assert file.metadata.num_row_groups == 10
        assert file.read(["staff"])["staff"].to_pylist() == list(range(100))

    def test_large_texts_close_a_row_group_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table_files, "BYTES", 1000)
        built.write(tmp_path, [built.result(n, {"company": "x" * 600}) for n in range(6)])
        assert pq.ParquetFile(tmp_path / "results.parquet").metadata.num_row_groups == 3

    def test_a_set_without_documents_has_headers(self, tmp_path: Path) -> None:
        built.write(tmp_path, [])
        assert comma_separated(tmp_path / "results.csv") == typed(tmp_path / "results.parquet") == []

    def test_records_come_back_from_their_file(self, tmp_path: Path) -> None:
        records.write([NAMED, WRONG, FAILED], tmp_path / "results.jsonl")
        assert list(records.read(tmp_path / "results.jsonl")) == [NAMED, WRONG, FAILED]
        last = orjson.loads((tmp_path / "results.jsonl").read_bytes().splitlines()[2])
        assert list(last) == ["file_id", "filename", "error"]
        assert last["error"]["code"] == "encrypted"


class TestInjection:
    @given(st.text(max_size=40) | st.text("=+-@\t\r\n\"',;0.eE＝ \x0b", max_size=10))
    def test_no_cell_begins_as_a_formula_unless_it_is_a_number(self, text: str) -> None:
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator="\r\n").writerow([table_files.safe(text), "end"])
        (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""), strict=True)
        assert row[1] == "end"
        assert row[0].removeprefix("'") == text.removeprefix("'")
        if row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")):
            float(row[0])

    @pytest.mark.parametrize("text", ["-12.5", "+7", "-.5", "-1e-9", "12", "a=b", "", "'=x", "(5)"])
    def test_numbers_and_harmless_texts_stay(self, text: str) -> None:
        assert table_files.safe(text) == text

    @pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "-2+3+cmd|' /C calc'!A0", "+49 30 1234", "\t=1", "－1"])
    def test_formulas_are_texts(self, text: str) -> None:
        assert table_files.safe(text) == f"'{text}"

    def test_every_text_of_a_document_is_one(self, tmp_path: Path) -> None:
        bad = "=HYPERLINK(1)"
        operation = {"type": "extract", "schema": {"type": "object", "properties": {bad: {"type": "string"}}}}
        record = built.result(1, {}, value(bad, bad, quote=bad), filename=bad)
        built.write(tmp_path, [record, built.error(2, detail=bad, code=bad)], built.spec(operation))
        with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row if "HYPERLINK" in cell]
        assert len(cells) == 8
        assert all(cell.startswith("'=") for cell in cells)


MEASURE = """
import resource, sys
from pathlib import Path
from tests.services.documents import built
count, folder = int(sys.argv[1]), Path(sys.argv[2])
values = [built.value(f"lines.{n}.amount", n, page=n, quote=f"amount {n} " * 5) for n in range(20)]
built.write(folder, (built.result(n, {"lines": [{"amount": k} for k in range(20)]}, *values) for n in range(count)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    peaks = []
    for count in (1000, 10_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, str(count), str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout))
    assert (tmp_path / "10000/results.jsonl").stat().st_size > 20 * 1024**2
    assert peaks[1] - peaks[0] < 40, peaks


def _spelled(cell: Any) -> str:
    if cell is None:
        return ""
    return str(cell).lower() if isinstance(cell, bool) else str(cell)
