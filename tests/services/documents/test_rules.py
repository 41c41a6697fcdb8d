"""What rules find: each check on values that obey, break and cannot be tested."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from services.documents import patterns, rules, terms
from services.documents.patterns import BadPattern
from shared.contracts.documents import Flag, Pack, Rule, Value


def pack(*given: Mapping[str, Any]) -> Pack:
    return Pack(name="test", rules=[Rule.model_validate({"name": f"r{n}", **each}) for n, each in enumerate(given)])


def checks(given: Pack, **values: Any) -> dict[str, str]:
    """path → mark; `__` in a name is a dot."""
    found = rules.check(given, [Value(path=name.replace("__", "."), value=value) for name, value in values.items()])
    return {value.path: value.check for value in found}


class TestEquation:
    balance = pack({"check": "equation", "expression": "assets = liabilities + equity", "tolerance": 0.01})

    @pytest.mark.parametrize(
        ("assets", "mark"),
        [(100, "verified"), (101, "verified"), (102, "violates:r0"), (98.9, "violates:r0"), ("(100)", "violates:r0")],
    )
    def test_every_operand_is_marked(self, assets: Any, mark: str) -> None:
        found = checks(self.balance, assets=assets, liabilities=60, equity=40, other=1)
        assert found == {"assets": mark, "liabilities": mark, "equity": mark, "other": "unchecked"}

    def test_texts_that_are_numbers_are_counted(self) -> None:
        found = checks(self.balance, assets="€ 0.1 million", liabilities="60,000", equity="40 000")
        assert set(found.values()) == {"verified"}

    @pytest.mark.parametrize("missing", [None, "n/a", True, ["1"]])
    def test_without_an_operand_nothing_is_checked(self, missing: Any) -> None:
        found = checks(self.balance, assets=100, liabilities=60, equity=missing)
        assert set(found.values()) == {"unchecked"}
        assert set(checks(self.balance, assets=100, liabilities=60).values()) == {"unchecked"}

    def test_without_tolerance_decimals_are_exact(self) -> None:
        exact = pack({"check": "equation", "expression": "total = a + b"})
        assert checks(exact, total=0.3, a=0.1, b=0.2)["total"] == "verified"
        assert checks(exact, total=0.30001, a=0.1, b=0.2)["total"] == "violates:r0"

    def test_only_named_fields_are_marked(self) -> None:
        named = pack({"check": "equation", "expression": "total = a + b", "fields": ["total"]})
        assert checks(named, total=3, a=1, b=1) == {"total": "violates:r0", "a": "unchecked", "b": "unchecked"}

    def test_dividing_by_zero_checks_nothing(self) -> None:
        share = pack({"check": "equation", "expression": "share = part / whole"})
        assert set(checks(share, share=1, part=1, whole=0).values()) == {"unchecked"}


class TestCompare:
    @pytest.mark.parametrize(
        ("expression", "values", "mark"),
        [
            ("a < b", {"a": 1, "b": 2}, "verified"),
            ("a < b", {"a": 2, "b": 2}, "violates:r0"),
            ("a <= 2 * b", {"a": 4, "b": 2}, "verified"),
            ("a > b", {"a": "12.4 million", "b": 5}, "verified"),
            ("a >= b", {"a": "2025-12-31", "b": "1 January 2025"}, "verified"),
            ("a >= b", {"a": "2024-12-31", "b": "1 January 2025"}, "violates:r0"),
            ("a >= b", {"a": "03/04/2025", "b": "1 January 2025"}, "unchecked"),
            ("a >= b", {"a": "2025-12-31", "b": 7}, "unchecked"),
            ("a != b", {"a": "Berlin ", "b": "BERLIN"}, "violates:r0"),
            ("a != b", {"a": "Berlin", "b": "Bonn"}, "verified"),
            ("a < b", {"a": "Berlin", "b": "Bonn"}, "unchecked"),
        ],
    )
    def test_numbers_days_and_texts(self, expression: str, values: dict[str, Any], mark: str) -> None:
        assert checks(pack({"check": "compare", "expression": expression}), **values)["a"] == mark


class TestSingle:
    unit = pack({"check": "unit", "fields": ["mass"], "unit": ["kg", "kilogram"]})
    days = pack({"check": "date_range", "fields": ["day"], "earliest": "2025-01-01", "latest": "2025-12-31"})
    share = pack({"check": "range", "fields": ["share"], "minimum": 0, "maximum": 0.1})
    code = pack({"check": "pattern", "fields": ["code"], "pattern": "[A-Z]{2}[0-9]|a"})

    @pytest.mark.parametrize(
        ("value", "mark"),
        [
            ("12 kg", "verified"),
            ("kilogram", "verified"),
            ("KG", "verified"),
            ("12 EUR", "violates:r0"),
            ("pounds", "violates:r0"),
            ("12", "unchecked"),
            (12, "unchecked"),
            ("12 to 14 kg", "unchecked"),
            (None, "unchecked"),
            ("", "unchecked"),
        ],
    )
    def test_unit(self, value: Any, mark: str) -> None:
        assert checks(self.unit, mass=value)["mass"] == mark

    def test_the_unit_is_looked_for_in_what_was_there(self) -> None:
        (value,) = terms.Normaliser(self.unit).of([Value(path="mass", value="12,5 kilogram")])
        assert (value.value, value.original) == (12.5, "12,5 kilogram")
        assert rules.check(self.unit, [value])[0].check == "verified"

    @pytest.mark.parametrize(
        ("value", "mark"),
        [
            ("2025-01-01", "verified"),
            ("31 December 2025", "verified"),
            ("2026-01-01", "violates:r0"),
            ("03/04/2025", "unchecked"),
            (2025, "unchecked"),
        ],
    )
    def test_date_range(self, value: Any, mark: str) -> None:
        assert checks(self.days, day=value)["day"] == mark

    @pytest.mark.parametrize(
        ("value", "mark"),
        [(0, "verified"), (0.1, "verified"), ("0,05", "verified"), (-1, "violates:r0"), (1, "violates:r0")],
    )
    def test_range(self, value: Any, mark: str) -> None:
        assert checks(self.share, share=value)["share"] == mark

    @pytest.mark.parametrize(
        ("value", "mark"),
        [("DE1", "verified"), ("a", "verified"), ("DE1 ", "violates:r0"), ("aa", "violates:r0"), (1.5, "unchecked")],
    )
    def test_a_pattern_matches_all_of_the_text(self, value: Any, mark: str) -> None:
        assert checks(self.code, code=value)["code"] == mark


class TestSeveral:
    def test_the_first_broken_rule_is_shown_whatever_the_others_found(self) -> None:
        given = pack(
            {"check": "range", "fields": ["a"], "minimum": 0},
            {"check": "range", "fields": ["a"], "maximum": 5},
            {"check": "range", "fields": ["a"], "maximum": 4},
            {"check": "range", "fields": ["a"], "minimum": 1},
        )
        assert checks(given, a=6) == {"a": "violates:r1"}
        assert checks(given, a=2) == {"a": "verified"}

    def test_a_star_stands_for_one_step(self) -> None:
        given = pack({"check": "range", "fields": ["lines.*.amount"], "minimum": 0})
        found = checks(given, lines__0__amount=1, lines__1__amount=-1, lines__1__note="x", amount=-1)
        assert found == {
            "lines.0.amount": "verified",
            "lines.1.amount": "violates:r0",
            "lines.1.note": "unchecked",
            "amount": "unchecked",
        }

    def test_old_marks_are_replaced_and_all_else_is_kept(self) -> None:
        value = Value(path="a", value=1, page=3, quote="one", check="verified", flags=(Flag.NO_QUOTE,))
        (found,) = rules.check(None, [value])
        assert found == value.model_copy(update={"check": "unchecked"})


class TestRule:
    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"check": "equation"}, "needs expression"),
            ({"check": "equation", "expression": "a = b", "minimum": 1}, "has no minimum"),
            ({"check": "compare", "expression": "a < b", "tolerance": 0.1}, "has no tolerance"),
            ({"check": "range", "minimum": 1}, "needs fields"),
            ({"check": "range", "fields": ["a"]}, "needs minimum or maximum"),
            ({"check": "range", "fields": ["a"], "minimum": 2, "maximum": 1}, "above maximum"),
            ({"check": "unit", "fields": ["a"], "unit": []}, "needs unit"),
            ({"check": "date_range", "fields": ["a"], "earliest": "yesterday"}, "is a date"),
            (
                {"check": "date_range", "fields": ["a"], "earliest": "2025-01-02", "latest": "2025-01-01"},
                "after latest",
            ),
            ({"check": "pattern", "fields": ["a"], "pattern": "a", "unit": ["kg"]}, "has no unit"),
        ],
    )
    def test_exactly_the_fields_of_a_check_are_given(self, given: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError, match=told):
            Rule.model_validate({"name": "r", **given})

    def test_a_rule_comes_back_from_json(self) -> None:
        rule = Rule(name="r", check="range", fields=["a"], minimum=0)
        assert Rule.model_validate_json(rule.model_dump_json()) == rule


class TestPatterns:
    @pytest.mark.timeout(10)
    def test_one_that_would_take_years_takes_no_time(self) -> None:
        assert not patterns.matches("(a+)+b", "a" * patterns.TEXT)

    @pytest.mark.parametrize("pattern", ["(", "a)|(b", "(?=a)", r"(a)\1", "a{9999}", "[z-a]"])
    def test_what_cannot_be_used_says_so(self, pattern: str) -> None:
        with pytest.raises(BadPattern):
            patterns.check(pattern)
