"""Numbers and dates as documents write them: what is read, and what is left alone because it is not clear."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.documents import dates, quantities


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "number", "unit"),
        [
            ("1234", "1234", ""),
            ("1,234", "1234", ""),
            ("(1,234)", "-1234", ""),
            ("-1,234.50", "-1234.50", ""),
            ("−12", "-12", ""),
            ("12-", "-12", ""),
            ("1.234.567,89 EUR", "1234567.89", "EUR"),
            ("1 234 567,8", "1234567.8", ""),
            ("1 234", "1234", ""),
            ("1'234.5 CHF", "1234.5", "CHF"),
            ("€ 12.4 million", "12400000", "€"),
            ("€-5", "-5", "€"),
            ("($12.4m)", "-12400000", "$"),
            ("12,5 Mio.", "12500000", ""),
            ("1.234 Mio. €", "1234000000", "€"),
            ("1,234 Mio.", "1234000", ""),
            ("1.234 million", "1234000", ""),
            ("1,234 million", "1234000000", ""),
            ("3,2 milyar TL", "3200000000", "TL"),
            ("5 Mrd. EUR", "5000000000", "EUR"),
            ("45 %", "45", "%"),
            ("0,123", "0.123", ""),
            ("0.123", "0.123", ""),
            ("12.50", "12.50", ""),
            ("USD 7", "7", "USD"),
            ("٣", "3", ""),
        ],
    )
    def test_all_of_a_text_is_one_number(self, text: str, number: str, unit: str) -> None:
        assert quantities.parse(text) == quantities.Quantity(Decimal(number), unit)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "n/a",
            "1.234",  # 1.234 in London, 1234 in Berlin
            "1,23,456",
            "1,2345,678",
            "1.2.3",
            "3 4",
            "12 of 15",
            "2023-2024",
            "2025-12-31",
            "31.12.2025",
            "(5",
            "-(5)",
            "(-5)",
            "12 employees",
            "€ 5 EUR",
            "5 EUR 6",
            "01,234",
            "1" * 65,
            "½",
        ],
    )
    def test_what_is_not_clearly_one_number_is_none(self, text: str) -> None:
        assert quantities.parse(text) is None

    def test_units_of_a_rule_may_stand_at_it(self) -> None:
        assert quantities.parse("12 kg") is None
        assert quantities.parse("12 KG", units=["kg"]) == quantities.Quantity(Decimal(12), "KG")
        assert quantities.parse("12 m", units=["m"]) == quantities.Quantity(Decimal(12), "m")

    @given(st.text("0123456789.,'’ ()-−+€$%kmMio ", max_size=70))
    def test_any_text_is_read_or_left(self, text: str) -> None:
        found = quantities.parse(text)
        assert found is None or found.number.is_finite()

    @given(st.integers(-(10**12), 10**12), st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", ".")]))
    def test_grouped_numbers_come_back(self, cents: int, marks: tuple[str, str]) -> None:
        thousands, decimal = marks
        text = f"{cents / 100:,.2f}".replace(",", "\0").replace(".", decimal).replace("\0", thousands)
        found = quantities.parse(text)
        assert found is not None
        assert found.number == Decimal(cents) / 100


class TestDates:
    @pytest.mark.parametrize(
        "text",
        [
            "2025-12-31",
            "2025/12/31",
            "2025-12-31T10:00:00Z",
            "31 December 2025",
            "31st of December 2025",
            "December 31, 2025",
            "Dec. 31st, 2025",
            "31. Dezember 2025",
            "31 décembre 2025",
            "31 Aralık 2025",
            "31 ARALIK 2025",
            "31.12.2025",
            "12/31/2025",
            "31/12/2025",
            "31-Dec-2025",
        ],
    )
    def test_written_forms(self, text: str) -> None:
        assert dates.parse(text) == date(2025, 12, 31)

    @pytest.mark.parametrize(
        ("text", "day"),
        [
            ("03.04.2025", date(2025, 4, 3)),
            ("05/05/2025", date(2025, 5, 5)),
            ("1er août 2024", date(2024, 8, 1)),
            ("1 März 2024", date(2024, 3, 1)),
            ("1 Ağustos 2024", date(2024, 8, 1)),
        ],
    )
    def test_clear_ones(self, text: str, day: date) -> None:
        assert dates.parse(text) == day

    @pytest.mark.parametrize(
        "text",
        ["03/04/2025", "31.12.25", "December 2025", "2025", "31 February 2025", "2025-13-01", "today", "", "9" * 80],
    )
    def test_what_is_not_one_day_is_none(self, text: str) -> None:
        assert dates.parse(text) is None

    @given(st.text(max_size=80))
    def test_any_text_is_read_or_left(self, text: str) -> None:
        dates.parse(text)

    @given(st.dates())
    def test_iso_comes_back(self, day: date) -> None:
        assert dates.parse(day.isoformat()) == day
