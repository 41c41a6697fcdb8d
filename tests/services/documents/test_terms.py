"""The term dictionary: what the model is told, and what becomes of what it answers."""

from typing import Any

import pytest

from services.documents import terms
from shared.contracts.documents import Pack, Value

PACK = Pack.model_validate(
    {
        "name": "test",
        "terms": [
            {"name": "auditor", "definition": "Who audited"},
            {"name": "currency", "aliases": ["Währung"], "values": {"EUR": ["€", "Euro"], "USD": ["$"]}},
            {"name": "total_assets", "aliases": ["Bilanzsumme", "balance sheet total"]},
        ],
        "rules": [
            {"name": "sum", "check": "equation", "expression": "total_assets = `lines.0.net debt` + equity"},
            {"name": "mass", "check": "unit", "fields": ["mass"], "unit": ["kg", "Kilogramm"]},
            {"name": "share", "check": "range", "fields": ["lines.*.share"], "maximum": 100},
            {"name": "code", "check": "pattern", "fields": ["code"], "pattern": ".*"},
        ],
    }
)


def normal(path: str, value: Any) -> tuple[Any, Any]:
    (found,) = terms.Normaliser(PACK).of([Value(path=path, value=value)])
    return found.value, found.original


class TestHint:
    def test_asked_fields_come_first_in_their_order(self) -> None:
        lines = terms.hint(PACK, ["balance.totalAssets", "Währung"]).splitlines()
        assert lines == [
            "- total assets (in documents also: Bilanzsumme, balance sheet total)",
            "- currency (in documents also: Währung); written as EUR, USD",
            "- auditor: Who audited",
        ]

    def test_what_does_not_fit_is_left_out_whole(self) -> None:
        assert terms.hint(PACK, ["auditor"], budget=30) == "- auditor: Who audited"
        assert terms.hint(PACK, ["currency"], budget=5) == ""

    def test_asked_fields_share_a_short_budget_by_leaving_out_aliases_evenly(self) -> None:
        aliases = [f"{language}-{number}-name" for language in ("en", "de", "fr") for number in range(4)]
        given = Pack.model_validate(
            {"name": "short", "terms": [{"name": name, "aliases": aliases} for name in ("one", "two", "three")]}
        )
        lines = terms.hint(given, ["one", "two", "three"], budget=250).splitlines()
        assert [line[:5] for line in lines] == ["- one", "- two", "- thr"]
        assert all(f"{language}-" in line for language in ("en", "de", "fr") for line in lines)

    def test_it_is_never_longer_than_its_budget(self) -> None:
        many = Pack.model_validate(
            {"name": "many", "terms": [{"name": f"t{n}", "definition": "x" * 90} for n in range(500)]}
        )
        assert 3000 < len(terms.hint(many, [])) <= terms.HINT

    def test_without_terms_there_is_none(self) -> None:
        assert terms.hint(None, ["a"]) == terms.hint(Pack(name="empty"), ["a"]) == ""


class TestNormalise:
    @pytest.mark.parametrize(
        ("path", "value", "expected"),
        [
            ("currency", "€", "EUR"),
            ("currency", " euro ", "EUR"),
            ("currency", "eur", "EUR"),
            ("lines.3.Währung", "$", "USD"),
            ("total_assets", "€ 12.4 million", 12_400_000),
            ("total_assets", "(1,234)", -1234),
            ("lines.0.net debt", "12,5 Mio.", 12_500_000),
            ("equity", "0.5", 0.5),
            ("mass", "12 Kilogramm", 12),
            ("mass", "kilogramm", "kg"),
            ("lines.7.share", "45 %", 45),
        ],
    )
    def test_what_was_there_is_kept(self, path: str, value: str, expected: Any) -> None:
        assert normal(path, value) == (expected, value)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("currency", "EUR"),  # is normal
            ("currency", "Kč"),  # is not known
            ("auditor", "€"),  # is another field's spelling
            ("auditor", "12"),  # no rule wants a number
            ("code", "0012"),
            ("total_assets", "1.234"),  # can be read as two numbers
            ("total_assets", "about 12"),
            ("total_assets", 5),
            ("total_assets", None),
            ("lines.0.1.share", "45 %"),
        ],
    )
    def test_the_rest_stays_as_it_is(self, path: str, value: Any) -> None:
        assert normal(path, value) == (value, None)

    def test_twice_is_once(self) -> None:
        once = terms.Normaliser(PACK).of([Value(path="mass", value="12 kg"), Value(path="mass", value="Kilogramm")])
        assert terms.Normaliser(PACK).of(once) == once

    def test_without_a_pack_nothing_changes(self) -> None:
        value = Value(path="currency", value="€")
        assert terms.Normaliser(None).of([value]) == (value,)
