"""A pack's term dictionary: told to the model before it answers, and used on what it answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from services.documents import quantities
from services.documents.expressions import parse
from services.documents.rules import key
from services.documents.spelling import field_of, matcher, same, words
from shared.contracts.documents import Pack, Rule, Term, Value

HINT = 4000  #: characters of a prompt: about 1,000 tokens
WANTS_NUMBERS = ("equation", "range", "unit")


def hint(pack: Pack | None, fields: Sequence[str], *, budget: int = HINT) -> str:
    """The dictionary as lines of a prompt, up to `budget` characters; empty without terms.

    `fields` are paths (`balance.total_assets`). Their terms come first and share the budget: where it is short, each
    is told with fewer aliases, taken evenly from its list, so that no language is left out. Other terms follow as
    they fit, whole.
    """
    asked, others = _ordered(pack.terms if pack else (), fields)
    chosen: list[str] = []
    for left, term in zip(range(len(asked), 0, -1), asked, strict=True):
        line = _fitting(term, budget // left - 1)
        if len(line) < budget:
            chosen.append(line)
            budget -= len(line) + 1
    for line in map(_line, others):
        if len(line) < budget:
            chosen.append(line)
            budget -= len(line) + 1
    return "\n".join(chosen)


class Normaliser:
    """Brings values to their normal forms; `original` keeps what was there.

    Two things are done, and only these: a text that is one of the spellings that the field's term lists under
    `values` becomes the normal form; a text in a field that an `equation`, `range` or `unit` rule of the pack tests
    becomes its number when all of it is one (`services.documents.quantities`), or the first spelling of its unit
    when all of it is a unit.
    """

    def __init__(self, pack: Pack | None) -> None:
        self._spellings = _spellings(pack.terms if pack else ())
        self._rules = [(rule, _tested(rule)) for rule in (pack.rules if pack else ()) if rule.check in WANTS_NUMBERS]

    def of(self, values: Sequence[Value]) -> tuple[Value, ...]:
        """The values, each in its normal form."""
        return tuple(_normal(self._spellings, self._testing(value), value) for value in values)

    def _testing(self, value: Value) -> list[Rule]:
        path = key(value.path)
        return [rule for rule, tests in self._rules if tests(path)]


def _normal(spellings: Mapping[str, Mapping[str, str]], rules: Sequence[Rule], value: Value) -> Value:
    if not isinstance(value.value, str) or value.original is not None:
        return value
    text = value.value
    form: Any = spellings.get(field_of(value.path), {}).get(same(text))
    if form is None:
        form = _of_rules(rules, text)
    if form is None or form == text:
        return value
    return value.model_copy(update={"value": form, "original": text})


def _of_rules(rules: Sequence[Rule], text: str) -> Any:
    """What the rules that test a value make of its text: a unit in its first spelling, or a number."""
    for rule in rules:
        if rule.unit and same(text) in {same(unit) for unit in rule.unit}:
            return rule.unit[0]
    units = [unit for rule in rules for unit in rule.unit or ()]
    quantity = quantities.parse(text, units=units) if rules else None
    return None if quantity is None else _plain(quantity.number)


def _plain(number: Decimal) -> int | float:
    """As JSON writes it: a whole number where it is one that a double holds exactly."""
    whole = number == number.to_integral_value() and abs(number) < 2**53
    return int(number) if whole else float(number)


def _tested(rule: Rule) -> Callable[[str], bool]:
    """Tells the values that a rule tests as numbers or units."""
    return matcher(map(key, [*rule.fields, *(parse(rule.expression).paths if rule.expression else ())]))


def _spellings(terms: Iterable[Term]) -> dict[str, dict[str, str]]:
    """field → spelling → normal form, for every name that a term has. The first term of a name wins."""
    found: dict[str, dict[str, str]] = {}
    for term in terms:
        forms = {same(each): form for form, others in term.values.items() for each in (*others, form)}
        for name in (term.name, *term.aliases):
            if forms:
                found.setdefault(words(name), forms)
    return found


def _ordered(terms: Sequence[Term], fields: Sequence[str]) -> tuple[list[Term], list[Term]]:
    """Terms that name an asked field, in the fields' order, and the others in the pack's."""
    asked = {words(step): number for number, path in reversed(list(enumerate(fields))) for step in path.split(".")}

    def place(term: Term) -> int:
        return min(asked.get(words(name), len(fields)) for name in (term.name, *term.aliases))

    placed = [(place(term), term) for term in terms]
    named = sorted((each for each in placed if each[0] < len(fields)), key=lambda each: each[0])
    return [term for _, term in named], [term for at, term in placed if at == len(fields)]


def _fitting(term: Term, room: int) -> str:
    """The longest line of at most `room` characters; the shortest that says anything when there is none."""
    for step in range(1, len(term.aliases) + 1):
        line = _line(term, term.aliases[::step])
        if len(line) <= room:
            return line
    return _line(term, ())


def _line(term: Term, aliases: Sequence[str] | None = None) -> str:
    aliases = term.aliases if aliases is None else aliases
    parts = [f"- {words(term.name)}"]
    if aliases:
        parts.append(f" (in documents also: {', '.join(aliases)})")
    if term.definition:
        parts.append(f": {term.definition}")
    if term.values:
        parts.append("; written as " + ", ".join(term.values))
    return "".join(parts)
