"""Whether a quote occurs, on which page, and whether it shows its value."""

from typing import Any

import pytest

from services.documents.evidence import Source, fold, shows_day, supports

PAGES = {
    1: "Annual report of Halden Instru-\nments AB.\nThe board’s “outlook” is good — very good.",
    2: "Revenue\n\n1 145   million kronor. Long-\nterm debt rose. Profit was 12 3 of",
    3: "what was planned. 売上高は\n1,145百万円です。",
}


class TestFind:
    @pytest.mark.parametrize(
        ("quote", "page"),
        [
            ("halden instruments ab", 1),
            ('The board\'s "outlook" is good - very good', 1),
            ("Revenue 1 145 million", 2),
            ("Long-term debt", 2),
            ("longterm  debt", 2),
            ("売上高は1,145百万円", 3),
            ("Pro\u00adfit was", 2),
        ],
    )
    def test_spelling_of_the_page_does_not_matter(self, quote: str, page: int) -> None:
        assert Source(PAGES).find(quote) == page

    @pytest.mark.parametrize(
        "quote", ["", "  \n", "…", "Halden Instruments plc", "Profit was 123 of", "Revenue 1145 million"]
    )
    def test_what_is_not_there_is_not_found(self, quote: str) -> None:
        assert Source(PAGES).find(quote) is None

    def test_the_claimed_page_comes_first(self) -> None:
        source = Source({1: "total 5", 2: "total 5", 3: "total 6"})
        assert source.find("total 5", near=[2]) == 2
        assert source.find("total 6", near=[2]) == 3
        assert source.find("total 5", near=[99, 3]) == 1

    def test_a_quote_over_the_end_of_a_page_is_on_the_first(self) -> None:
        assert Source(PAGES).find("Profit was 12 3 of what was planned") == 2

    def test_a_quote_over_the_end_of_a_piece_of_a_long_page_is_found(self) -> None:
        text = "word " * 19_999 + "the needle in it " + "word " * 30_000
        assert Source({1: "nothing", 2: text}).find("word the  needle in it word") == 2
        assert Source({1: text}).find("word " * 500) is None  # nobody quotes so much

    def test_folding_twice_changes_nothing(self) -> None:
        for text in PAGES.values():
            assert fold(fold(text)) == fold(text)


class TestSupports:
    @pytest.mark.parametrize(
        ("value", "quote"),
        [
            (1145, "employed 1,145 people"),
            (1145, "1 145 Beschäftigte"),
            (1145.5, "1.145,50 EUR"),
            (1_200_000, "EUR 1.2 million"),
            (1.2, "EUR 1.2 million"),
            (12, "12 %"),
            (0.12, "12 per cent"),
            (-64, "a loss of (64)"),
            (3, "three directors"),
            (2024, "2023 2024"),
            ("anything", "nothing"),
            (True, "yes"),
        ],
    )
    def test_a_quote_that_shows_it(self, value: Any, quote: str) -> None:
        assert supports(value, quote)

    @pytest.mark.parametrize(
        ("value", "quote"),
        [(1145, "employed many people"), (114, "1,145"), (1146, "1,145"), (1_145_000, "1,145"), (0.12, "12")],
    )
    def test_a_quote_that_does_not(self, value: Any, quote: str) -> None:
        assert not supports(value, quote)

    @pytest.mark.parametrize(
        ("quote", "shown"),
        [
            ("to 31 December 2024", True),
            ("31.12.24", True),
            ("2024年12月31日", True),
            ("20241231", True),
            ("the year ended 31 December", False),
            ("December 2024", False),
            ("to 30 December 2024", False),
        ],
    )
    def test_a_day_needs_its_number_and_its_year(self, quote: str, shown: bool) -> None:
        assert shows_day("2024-12-31", quote) is shown
