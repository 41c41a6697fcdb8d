"""The arithmetic of rules: `assets = liabilities + equity`, `end_date >= start_date`.

    rule  ::= side ("=" | "<" | "<=" | ">" | ">=" | "!=") side
    side  ::= numbers and paths of values with + - * / and parentheses
    path  ::= total_assets | balance.total_assets | `lines.0.net amount`

A path that is not made of plain words is written in backquotes. Python's own parser reads a side, and every node
that is not in the grammar is refused. Own code instead of a library: those that evaluate expressions (asteval,
simpleeval, numexpr) know calls, attributes, powers or strings that have to be switched off one by one, and count in
binary floats; this knows four operators and counts in decimals, so 0.1 + 0.2 = 0.3 holds.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext

LONGEST = 1000  #: characters
NODES = 200  #: of a side: numbers, paths, operators
DEEPEST = 32  #: operators and parentheses inside one another

#: 50 digits are more than any figure of a document has; what is larger than 10^6144 (IEEE's decimal128) is an error.
CONTEXT = Context(prec=50, Emax=6144, Emin=-6143, traps=[DivisionByZero, InvalidOperation, Overflow])

_SPLIT = re.compile(r"<=|>=|!=|==|=|<|>")
_QUOTED = re.compile(r"`([^`]*)`")
_HIDDEN = "quoted__"  #: the name that a path in backquotes has while Python parses

_BINARY: Mapping[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Decimal], Decimal]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class BadExpression(ValueError):
    """The text is not an expression of this grammar; the message says what is wrong."""


class NoValue(Exception):
    """A path has no number, or a step has no result: the rule cannot be tested."""


@dataclass(frozen=True)
class Side:
    """One side: its tree, and the paths in it, each once, in the order in which they are read."""

    tree: ast.expr
    quoted: tuple[str, ...]
    paths: tuple[str, ...]

    @property
    def path(self) -> str | None:
        """The path that is all of this side."""
        return _path(self.tree, self.quoted)

    def value(self, look_up: Callable[[str], Decimal | None]) -> Decimal:
        """What it comes to.

        Raises:
            NoValue: `look_up` knows no number for a path, or a step has no result.
        """
        with localcontext(CONTEXT):
            try:
                return _value(self.tree, self.quoted, look_up)
            except (DivisionByZero, InvalidOperation, Overflow) as error:
                raise NoValue from error


@dataclass(frozen=True)
class Expression:
    """Two sides and what is said of them."""

    left: Side
    relation: str  #: = < <= > >= !=
    right: Side

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of both sides, each once."""
        return tuple(dict.fromkeys(self.left.paths + self.right.paths))


def parse(text: str) -> Expression:
    """Read a rule's expression.

    Raises:
        BadExpression: it is too long or too deep, or not of the grammar.
    """
    if len(text) > LONGEST:
        raise BadExpression(f"is longer than {LONGEST} characters")
    quoted = tuple(_QUOTED.findall(text))
    if "`" in _QUOTED.sub("", text) or not all(path.strip() for path in quoted) or _HIDDEN in text:
        raise BadExpression("has a backquote without its pair, or nothing between two")
    numbers = iter(range(len(quoted)))
    bare = _QUOTED.sub(lambda _: f" {_HIDDEN}{next(numbers)} ", text)
    relations = _SPLIT.findall(bare)
    if len(relations) != 1 or relations[0] == "==":
        raise BadExpression("needs exactly one of = < <= > >= !=")
    left, right = _SPLIT.split(bare)
    return Expression(_side(left, quoted), relations[0], _side(right, quoted))


def _side(text: str, quoted: tuple[str, ...]) -> Side:
    if not text.strip():
        raise BadExpression("has nothing on one side")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadExpression(f"cannot be read: {text.strip()!r}") from error
    found: dict[str, None] = {}
    waiting, nodes = [(tree, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        nodes += 1
        if nodes > NODES or depth > DEEPEST:
            raise BadExpression(f"has more than {NODES} parts, or parts inside one another {DEEPEST} deep")
        if (path := _path(node, quoted)) is not None:
            found[path] = None
        else:
            waiting += [(part, depth + 1) for part in reversed(_parts(node))]
    return Side(tree, quoted, tuple(found))


def _parts(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return [left, right]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return [operand]
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            if Decimal(str(value)).is_finite():
                return []
    raise BadExpression("may hold numbers, paths, + - * / and parentheses only")


def _path(node: ast.expr, quoted: tuple[str, ...]) -> str | None:
    match node:
        case ast.Name(id=name):
            number = name.removeprefix(_HIDDEN)
            return name if number == name else quoted[int(number)].strip()
        case ast.Attribute(value=inner, attr=name):
            before = _path(inner, quoted)
            return None if before is None else f"{before}.{name}"
    return None


def _value(node: ast.expr, quoted: tuple[str, ...], look_up: Callable[[str], Decimal | None]) -> Decimal:
    if (path := _path(node, quoted)) is not None:
        value = look_up(path)
        if value is None:
            raise NoValue(path)
        return value
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, quoted, look_up), _value(right, quoted, look_up))
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, quoted, look_up))
        case ast.Constant(value=int() | float() as number):
            return Decimal(str(number))
    raise AssertionError(node)  # `_side` has let nothing else through
