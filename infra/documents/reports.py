"""What the sample documents say: annual reports of invented companies, and what is true of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random
from typing import Any, Final

FIRST_YEAR: Final = 2024
#: name, country, trade, currency, unit of the tables
COMPANIES: Final = (
    ("Halden Instruments AB", "Sweden", "measuring instruments", "SEK", "thousand"),
    ("Corvane Foods plc", "the United Kingdom", "frozen vegetables", "GBP", "thousand"),
    ("Mirelle Textil GmbH", "Germany", "technical fabrics", "EUR", "thousand"),
    ("Osterby Marine A/S", "Denmark", "ship propellers", "DKK", "million"),
    ("Tallow Ridge Timber Inc.", "Canada", "building timber", "CAD", "thousand"),
    ("Vantelle Optique SA", "France", "camera lenses", "EUR", "million"),
    ("Kestrel Quay Logistics Ltd", "Ireland", "cold storage", "EUR", "thousand"),
    ("Borsa Nova Ceramics SpA", "Italy", "floor tiles", "EUR", "million"),
)
#: pages of a report, and what is wrong with it, in turn
LENGTHS: Final = (5, 3, 12, 4, 8, 2, 6, 10)
FAULTS: Final = ("", "balance", "", "result", "", "published", "balance", "")
SEGMENTS: Final = (
    "Nordic",
    "Central Europe",
    "Western Europe",
    "North America",
    "Asia and Pacific",
    "Service",
    "Retail",
)
REMARKS: Final = (
    "Demand held up in spring and weakened towards the end of the year.",
    "Two framework agreements were renewed on unchanged terms.",
    "Delivery times came down from nine weeks to six.",
    "Freight cost more than planned, energy cost less.",
    "A new warehouse was taken into use in September.",
    "Prices were raised once, by about three per cent.",
    "The order book covers seven months of production.",
    "No customer stands for more than a tenth of sales.",
    "Staff turnover fell for the second year running.",
    "Investment was limited to maintenance and safety.",
)


@dataclass(frozen=True)
class Table:
    """Rows of text; the first is the header."""

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """What stands on one page, or on one sheet."""

    title: str
    blocks: tuple[str | Table, ...]


@dataclass
class Fact:
    """A value that the report states, on which page, in which words (white space aside; a tab parts two cells)."""

    value: Any
    page: int
    quote: str


@dataclass(frozen=True)
class Report:
    """One annual report. `violations`: balance, result (income), published (dates)."""

    company: str
    year: int
    sections: tuple[Section, ...]
    facts: dict[str, Fact]
    violations: tuple[str, ...] = ()


@dataclass
class _Draft:
    company: str
    year: int
    sections: list[Section] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)

    def add(self, title: str, *blocks: str | Table, **facts: tuple[Any, str]) -> None:
        """The next page, with the facts that it states: value and quote."""
        self.sections.append(Section(title, blocks))
        page = len(self.sections)
        self.facts.update({name: Fact(value, page, quote) for name, (value, quote) in facts.items()})


def reports(companies: int) -> Iterator[Report]:
    """Two reports of each company, of neighbouring years; always the same ones."""
    for number in range(companies):
        for back in range(2):
            yield _report(number, back)


def _report(number: int, back: int) -> Report:
    name, country, trade, currency, unit = COMPANIES[number % len(COMPANIES)]
    if number >= len(COMPANIES):
        name = f"{name} ({number // len(COMPANIES) + 1})"
    turn = 2 * number + back
    year, fault, length = FIRST_YEAR - back, FAULTS[turn % len(FAULTS)], LENGTHS[turn % len(LENGTHS)]
    random = Random(f"{name} {year}")
    draft = _Draft(name, year)
    _opening(draft, random, country=country, trade=trade, published_early=fault == "published")
    for page in range(length - 2):
        _segment(draft, random, page)
    _statements(draft, random, currency=currency, unit=unit, fault=fault)
    return Report(name, year, tuple(draft.sections), draft.facts, (fault,) if fault else ())


def _opening(draft: _Draft, random: Random, *, country: str, trade: str, published_early: bool) -> None:
    start, end = date(draft.year, 1, 1), date(draft.year, 12, 31)
    published = end + timedelta(days=random.randint(60, 110)) * (-1 if published_early else 1)
    employees = random.randint(80, 1900)
    period = f"the financial year from {_day(start)} to {_day(end)}"
    draft.add(
        f"{draft.company}: annual report {draft.year}",
        f"{draft.company} makes and sells {trade}. It is based in {country}.",
        f"This report covers {period}. The board approved it for publication on {_day(published)}.",
        f"At the end of the year the group employed {employees:,} people.",
        " ".join(random.sample(REMARKS, 4)),
        company=(draft.company, f"{draft.company}: annual report {draft.year}"),
        period_start=(start.isoformat(), f"from {_day(start)}"),
        period_end=(end.isoformat(), f"to {_day(end)}"),
        published=(published.isoformat(), f"approved it for publication on {_day(published)}"),
        employees=(employees, f"employed {employees:,} people"),
    )


def _segment(draft: _Draft, random: Random, page: int) -> None:
    name = SEGMENTS[page % len(SEGMENTS)] + (" (continued)" if page >= len(SEGMENTS) else "")
    quarters = [
        (f"Q{quarter}", f"{random.randint(900, 9900):,}", f"{random.randint(2, 18)}%") for quarter in range(1, 5)
    ]
    draft.add(
        f"Segment {name}",
        " ".join(random.sample(REMARKS, 5)),
        Table((("Quarter", "Orders received", "Margin"), *quarters)),
        " ".join(random.sample(REMARKS, 6)),
    )


def _statements(draft: _Draft, random: Random, *, currency: str, unit: str, fault: str) -> None:
    equity, liabilities = random.randint(20_000, 60_000), random.randint(15_000, 50_000)
    assets = equity + liabilities + (random.randint(500, 1500) if fault == "balance" else 0)
    expenses, earned = random.randint(40_000, 90_000), random.randint(1500, 9000)
    net_income = earned + (random.randint(200, 900) if fault == "result" else 0)
    now = {
        "assets": assets, "liabilities": liabilities, "equity": equity,
        "revenue": expenses + earned, "expenses": expenses, "net_income": net_income,
    }  # fmt: skip
    before = {name: round(value * random.uniform(0.85, 1.1)) for name, value in now.items()}
    fixed = random.randint(assets // 4, assets // 2)

    def row(label: str, name: str) -> tuple[str, str, str]:
        return label, f"{now[name]:,}", f"{before[name]:,}"

    years = ("", str(draft.year), str(draft.year - 1))
    balance = Table((
        years,
        ("Non-current assets", f"{fixed:,}", f"{round(fixed * 0.97):,}"),
        ("Current assets", f"{assets - fixed:,}", f"{before['assets'] - round(fixed * 0.97):,}"),
        row("Total assets", "assets"), row("Total liabilities", "liabilities"), row("Total equity", "equity"),
    ))  # fmt: skip
    income = Table((
        years, row("Revenue", "revenue"), row("Operating expenses and tax", "expenses"),
        row("Net income", "net_income"),
    ))  # fmt: skip
    amounts = f"All amounts are in {currency} {unit} unless stated otherwise."
    labels = {
        "assets": "Total assets", "liabilities": "Total liabilities", "equity": "Total equity",
        "revenue": "Revenue", "expenses": "Operating expenses and tax", "net_income": "Net income",
    }  # fmt: skip
    draft.add(
        "Financial statements", amounts, "Balance sheet as at 31 December", balance, "Income statement", income,
        "The accounts follow the historical cost convention.",
        currency=(currency, f"amounts are in {currency}"), unit=(unit, f"{currency} {unit}"),
        **{name: (now[name], f"{label}\t{now[name]:,}") for name, label in labels.items()},
    )  # fmt: skip


def _day(day: date) -> str:
    return f"{day.day} {day:%B} {day.year}"
