"""Post-processing rules of a domain pack: typed checks that mark values `verified`, `violates:<rule>` or `unchecked`.

| check | what must hold | tests |
|---|---|---|
| `equation` | both sides agree within `tolerance` × the larger | numbers, and texts that are numbers |
| `compare` | the relation | numbers or dates; `!=` also texts |
| `unit` | the unit at a number, or the text itself, is one of `unit` | texts |
| `date_range` | `earliest` ≤ day ≤ `latest` | texts that name one day (`services.documents.dates`) |
| `range` | `minimum` ≤ number ≤ `maximum` | numbers, and texts that are numbers |
| `pattern` | all of the text matches | texts and whole numbers |

A rule marks the values that `fields` name; without `fields`, `equation` and `compare` mark their operands. A rule
that cannot be tested (a value is missing, or is not what the check tests) marks nothing. A value that breaks a rule
shows the first that it breaks; one that no rule tested is `unchecked`.
"""

import operator
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from services.documents import dates, expressions, patterns, quantities
from services.documents.expressions import NoValue
from services.documents.spelling import matcher, same
from shared.contracts.documents import Check, Pack, Rule, Value, violates

Found = Mapping[str, Value]  #: values by path, the first of each


def check(pack: Pack | None, values: Sequence[Value]) -> tuple[Value, ...]:
    """The same values with their marks. `pack` is one that `packs.resolve` has let through."""
    rules = pack.rules if pack else ()
    found = {key(value.path): value for value in reversed(values)}
    marks: dict[str, str] = {}
    for rule in rules:
        for path, good in _tested(rule, found).items():
            if good:
                marks.setdefault(path, Check.VERIFIED)
            elif not marks.get(path, "").startswith(violates("")):
                marks[path] = violates(rule.name)
    return tuple(
        value.model_copy(update={"check": str(marks.get(key(value.path), Check.UNCHECKED))}) for value in values
    )


def key(path: str) -> str:
    """How paths are compared: Python's parser writes the names of an expression so."""
    return unicodedata.normalize("NFKC", path)


def number_of(value: Any, *, units: Sequence[str] = ()) -> Decimal | None:
    """The number that a value is, or that all of its text says."""
    match value:
        case bool() | None:
            return None
        case int() | float():
            number = Decimal(str(value))
            return number if number.is_finite() else None
        case str():
            quantity = quantities.parse(value, units=units)
            return quantity.number if quantity else None
    return None


def day_of(value: Any) -> date | None:
    """The day that a text names."""
    return dates.parse(value) if isinstance(value, str) else None


def _tested(rule: Rule, found: Found) -> dict[str, bool]:
    """Which values a rule could test, and whether they hold."""
    if rule.check in ("equation", "compare"):
        return _of_expression(rule, found)
    single = _SINGLE[rule.check]
    tested = {path: single(rule, found[path]) for path in filter(matcher(map(key, rule.fields)), found)}
    return {path: good for path, good in tested.items() if good is not None}


def _of_expression(rule: Rule, found: Found) -> dict[str, bool]:
    assert rule.expression is not None, rule.name
    said = expressions.parse(rule.expression)
    good = _equation(said, rule, found) if rule.check == "equation" else _compare(said, found)
    if good is None:
        return {}
    return dict.fromkeys(filter(matcher(map(key, rule.fields or said.paths)), found), good)


def _numbers(found: Found) -> Callable[[str], Decimal | None]:
    def look_up(path: str) -> Decimal | None:
        value = found.get(key(path))
        return None if value is None else number_of(value.value)

    return look_up


def _equation(said: expressions.Expression, rule: Rule, found: Found) -> bool | None:
    try:
        left, right = said.left.value(_numbers(found)), said.right.value(_numbers(found))
    except NoValue:
        return None
    return abs(left - right) <= Decimal(str(rule.tolerance)) * max(abs(left), abs(right))


def _compare(said: expressions.Expression, found: Found) -> bool | None:
    try:
        return _holds(said.left.value(_numbers(found)), said.relation, said.right.value(_numbers(found)))
    except NoValue:
        pass
    first, second = (found.get(key(side.path)) if side.path else None for side in (said.left, said.right))
    if first is None or second is None:
        return None
    days = day_of(first.value), day_of(second.value)
    if days[0] is not None and days[1] is not None:
        return _holds(days[0], said.relation, days[1])
    if said.relation == "!=" and isinstance(first.value, str) and isinstance(second.value, str):
        return same(first.value) != same(second.value)
    return None


def _holds(left: Any, relation: str, right: Any) -> bool:
    return bool(_RELATIONS[relation](left, right))


def _unit(rule: Rule, value: Value) -> bool | None:
    text = value.value if value.original is None else value.original
    if not isinstance(text, str) or not text.strip():
        return None
    allowed = {same(each) for each in rule.unit or ()}
    if same(text) in allowed:
        return True
    quantity = quantities.parse(text, units=rule.unit or ())
    if quantity is not None:
        return same(quantity.unit) in allowed if quantity.unit else None
    return False if not any(letter.isdigit() for letter in text) else None


def _range(rule: Rule, value: Value) -> bool | None:
    number = number_of(value.value)
    if number is None:
        return None
    least = rule.minimum is None or number >= Decimal(str(rule.minimum))
    return least and (rule.maximum is None or number <= Decimal(str(rule.maximum)))


def _date_range(rule: Rule, value: Value) -> bool | None:
    day = day_of(value.value)
    if day is None:
        return None
    late = rule.earliest is None or day >= date.fromisoformat(rule.earliest)
    return late and (rule.latest is None or day <= date.fromisoformat(rule.latest))


def _pattern(rule: Rule, value: Value) -> bool | None:
    text = str(value.value) if isinstance(value.value, int) and not isinstance(value.value, bool) else value.value
    if not isinstance(text, str) or len(text) > patterns.TEXT:
        return None
    assert rule.pattern is not None, rule.name
    return patterns.matches(rule.pattern, text)


_RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "!=": operator.ne,
}
_SINGLE: Mapping[str, Callable[[Rule, Value], bool | None]] = {
    "unit": _unit,
    "range": _range,
    "date_range": _date_range,
    "pattern": _pattern,
}
