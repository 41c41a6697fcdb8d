"""Packs as folders of plain files: what is read, how mistakes are told, and the one that ships."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from infra.documents.samples import generate
from services.documents import packs, patterns, rules, schemas, terms
from shared.contracts.documents import Pack, Rule, Value
from shared.errors import InvalidField, ValidationFailed
from shared.settings import Settings
from tests.architecture.source import ROOT
from tests.support.configured import configured

ABOUT = 'name = "mine"\ndescription = "Ours"\n'
RULE = '[[rule]]\nname = "sum"\ncheck = "equation"\nexpression = "a = b + c"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "pack.toml").write_text(ABOUT)
    return path


@pytest.fixture
def root(tmp_path: Path, folder: Path) -> Iterator[Path]:
    """The folder's parent, which is where packs are looked for."""
    with configured(Settings(packs_root=tmp_path)):
        yield tmp_path


def told(folder: Path) -> str:
    with pytest.raises(InvalidField) as caught:
        packs.read_folder(folder)
    assert caught.value.param == "spec.pack"
    return caught.value.message


class TestFolder:
    def test_terms_and_rules_are_read(self, folder: Path) -> None:
        content = '\ufeffname,aliases,definition\nassets,"Aktiva | total, assets",\n\nequity,,"What, is\nowned"\n'
        (folder / "terms.csv").write_text(content, encoding="utf-8")
        (folder / "terms.toml").write_text('[[term]]\nname = "currency"\nvalues = {EUR = ["€"]}\n', encoding="utf-8")
        (folder / "rules.toml").write_text(RULE)
        found = packs.read_folder(folder)
        assert (found.name, found.description) == ("mine", "Ours")
        assert [(term.name, term.aliases) for term in found.terms] == [
            ("assets", ["Aktiva", "total, assets"]),
            ("equity", []),
            ("currency", []),
        ]
        assert found.terms[1].definition == "What, is\nowned"
        assert found.terms[2].values == {"EUR": ["€"]}
        assert found.rules == [Rule(name="sum", check="equation", expression="a = b + c")]

    def test_a_pack_may_be_terms_alone_in_any_columns(self, folder: Path) -> None:
        (folder / "terms.csv").write_text("definition;Name\nOwned;assets\n")
        assert [(term.name, term.definition) for term in packs.read_folder(folder).terms] == [("assets", "Owned")]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("pack.toml", "name = ", "mine/pack.toml: Invalid value (at end of document)"),
            ("pack.toml", 'name = "Mine!"', "mine/pack.toml: name: String should match"),
            ("pack.toml", 'title = "x"', "mine/pack.toml: unknown field 'title'"),
            ("pack.toml", "", "mine/pack.toml: name: Field required"),
            ("terms.csv", "term,alias\na,b\n", "mine/terms.csv: line 1: the columns are"),
            ("terms.csv", "name,aliases\na,b\nc,d,e\n", "mine/terms.csv: line 3: 3 cells under 2 columns"),
            ("terms.csv", 'name\n"a\nb\n', "mine/terms.csv: line 3: unexpected end of data"),
            ("terms.csv", "name,aliases\na,b\n,c\n", "mine/terms.csv: line 3: name: "),
            ("terms.csv", "name\na\nb\na\n", "mine/terms.csv: line 4: name: 'a' is given twice"),
            ("terms.csv", "name\na\0b\n", "mine/terms.csv: line 2: "),
            ("terms.toml", "[term]\nname = 'a'\n", "mine/terms.toml: each term is a [[term]], in double brackets"),
            ("terms.toml", "[[terms]]\nname = 'a'\n", "mine/terms.toml: unknown table 'terms'"),
            ("rules.toml", f"{RULE}[[rule]\n", "mine/rules.toml: Expected"),
            ("rules.toml", f"{RULE}{RULE}", "mine/rules.toml: [[rule]] 2 (sum): name: 'sum' is given twice"),
            (
                "rules.toml",
                f"{RULE}[[rule]]\nname = 'x'\ncheck = 'equation'\nexpression = 'a = b ** 2'\n",
                "mine/rules.toml: [[rule]] 2 (x): expression: the expression may hold numbers",
            ),
            (
                "rules.toml",
                "[[rule]]\nname = 'x'\ncheck = 'compare'\nexpression = 'a = b'\n",
                "mine/rules.toml: [[rule]] 1 (x): expression: the expression of an equation has =",
            ),
            (
                "rules.toml",
                "[[rule]]\nname = 'x'\ncheck = 'compare'\nexpression = '1 < 2'\n",
                "mine/rules.toml: [[rule]] 1 (x): expression: the expression names no value",
            ),
            (
                "rules.toml",
                "[[rule]]\nname = 'x'\ncheck = 'pattern'\nfields = ['a']\npattern = '(?=a)'\n",
                "mine/rules.toml: [[rule]] 1 (x): pattern: the pattern cannot be used: invalid perl operator",
            ),
            (
                "rules.toml",
                "[[rule]]\nname = 'x'\ncheck = 'range'\nfields = ['a']\n",
                "mine/rules.toml: [[rule]] 1 (x): range needs minimum or maximum",
            ),
            (
                "rules.toml",
                "[[rule]]\nname = 'x'\ncheck = 'range'\nfields = ['a']\nminimum = inf\n",
                "mine/rules.toml: [[rule]] 1 (x): minimum: Input should be a finite number",
            ),
            ("rules.toml", "rule = ['x']\n", "mine/rules.toml: [[rule]] 1: Input should be"),
        ],
    )
    def test_a_mistake_is_told_with_its_place(self, folder: Path, name: str, content: str, message: str) -> None:
        (folder / name).write_text(content)
        assert told(folder).startswith(message)

    def test_what_is_not_utf8_names_its_line(self, folder: Path) -> None:
        (folder / "terms.csv").write_bytes("name\nassets\nWährung\n".encode("latin-1"))
        assert told(folder) == "mine/terms.csv: line 3: is not UTF-8"

    def test_a_file_is_not_read_beyond_its_limit(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packs, "FILE_BYTES", 100)
        (folder / "terms.csv").write_text("name\n" + "a" * 100)
        assert told(folder) == "mine/terms.csv: is larger than 100 bytes"

    def test_too_many_rules(self, folder: Path) -> None:
        (folder / "rules.toml").write_text("".join(RULE.replace("sum", f"r{number}") for number in range(201)))
        assert told(folder).startswith("mine/rules.toml: List should have at most 200 items")

    def test_a_folder_without_a_pack(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert told(tmp_path / "empty") == "empty/pack.toml: is missing"
        assert told(tmp_path / "nothing").endswith("is not a folder")


class TestResolve:
    def test_a_name_means_a_packaged_pack_or_one_of_the_root(self, root: Path) -> None:
        assert [packs.resolve(name).name for name in ("annual-report", "mine")] == ["annual-report", "mine"]  # type: ignore[union-attr]
        assert sorted(packs.installed()) == ["annual-report", "mine"]

    @pytest.mark.parametrize("name", ["yours", "../mine", "/etc", "", "mine/"])
    def test_an_unknown_name_is_told_the_known_ones(self, root: Path, name: str) -> None:
        with pytest.raises(InvalidField, match="installed are annual-report, mine") as caught:
            packs.resolve(name)
        assert caught.value.param == "spec.pack"

    def test_a_pack_with_a_mistake_is_in_nobody_elses_way(self, root: Path) -> None:
        (root / "mine/rules.toml").write_text("[[rule]]\n")
        assert packs.resolve("annual-report") is not None
        assert sorted(packs.installed()) == ["annual-report"]
        with pytest.raises(InvalidField, match=r"mine/rules\.toml"):
            packs.resolve("mine")

    def test_a_folder_has_its_packs_name(self, root: Path) -> None:
        (root / "mine").rename(root / "other")
        with pytest.raises(InvalidField, match="name is 'mine', the folder's is 'other'"):
            packs.resolve("other")

    def test_a_change_is_seen_at_once(self, root: Path) -> None:
        assert packs.resolve("mine").terms == []  # type: ignore[union-attr]
        (root / "mine/terms.csv").write_text("name\nassets\n")
        assert len(packs.resolve("mine").terms) == 1  # type: ignore[union-attr]

    def test_a_root_that_is_not_there_is_no_root(self, tmp_path: Path) -> None:
        with configured(Settings(packs_root=tmp_path / "gone")):
            assert sorted(packs.installed()) == ["annual-report"]

    def test_an_inline_pack_is_checked_field_by_field(self) -> None:
        given: list[dict[str, Any]] = [
            {"name": "a", "check": "equation", "expression": "x = y"},
            {"name": "a", "check": "equation", "expression": "x = f(y)"},
            {"name": "b", "check": "pattern", "fields": ["x"], "pattern": "("},
        ]
        with pytest.raises(ValidationFailed) as caught:
            packs.resolve(Pack(name="inline", rules=[Rule.model_validate(rule) for rule in given]))
        assert [(error.param, error.code) for error in caught.value.errors] == [
            ("spec.pack.rules.1.name", "duplicate_name"),
            ("spec.pack.rules.1.expression", "invalid_expression"),
            ("spec.pack.rules.2.pattern", "invalid_pattern"),
        ]

    def test_a_packaged_pack_loads_no_arrow(self) -> None:
        script = "from services.documents import packs; packs.resolve('annual-report')"
        script = f"import sys; {script}; print('pyarrow' in sys.modules)"
        run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert run.stdout == "False\n"

    def test_no_pack_is_none(self) -> None:
        assert packs.resolve(None) is None


class TestAnnualReport:
    @pytest.fixture
    def pack(self) -> Pack:
        return packs.read_folder(packs.PACKAGED / "annual-report")

    @pytest.fixture
    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads((packs.PACKAGED / "annual-report/schema.json").read_bytes())
        return found

    def test_its_schema_is_one_that_extract_takes_and_its_terms_and_rules_speak_of(
        self, pack: Pack, schema: dict[str, Any]
    ) -> None:
        fields = {path for path, _ in schemas.check(schema, param="schema").leaves()}
        assert {term.name for term in pack.terms} == fields
        assert {path for rule in pack.rules for path in rule.fields} <= fields

    def test_every_field_is_told_to_the_model(self, pack: Pack, schema: dict[str, Any]) -> None:
        assert len(terms.hint(pack, list(schema["properties"])).splitlines()) == len(pack.terms)

    def test_no_alias_means_two_fields(self, pack: Pack) -> None:
        aliases = [alias for term in pack.terms for alias in {term.name, *term.aliases}]
        assert len(set(aliases)) == len(aliases)

    def test_its_patterns_can_be_used(self, pack: Pack) -> None:
        for rule in pack.rules:
            if rule.pattern:
                patterns.check(rule.pattern)

    def test_it_finds_what_is_wrong_with_reports_and_nothing_else(self, pack: Pack, tmp_path: Path) -> None:
        generate(tmp_path, companies=8)
        truth = orjson.loads((tmp_path / "truth.json").read_bytes())["documents"]
        assert len(truth) == 16
        for report in truth.values():
            values = [Value(path=name, value=fact["value"]) for name, fact in report["values"].items()]
            found = rules.check(pack, terms.Normaliser(pack).of(values))
            marks = {value.check for value in found} - {"verified", "unchecked"}
            assert marks == {f"violates:{name}" for name in report["violations"]}
            assert {value.path for value in found if value.check == "unchecked"} <= {"company"}

    def test_figures_as_they_are_written_become_figures(self, pack: Pack) -> None:
        given = {
            "assets": "€ 12.4 million",
            "liabilities": "7,4 Mio.",
            "equity": "5 000 000",
            "currency": "€",
            "unit": "TEUR",
        }
        found = terms.Normaliser(pack).of([Value(path=name, value=value) for name, value in given.items()])
        assert [value.value for value in found] == [12_400_000, 7_400_000, 5_000_000, "EUR", "thousand"]
        assert {value.check for value in rules.check(pack, found)} == {"verified"}
