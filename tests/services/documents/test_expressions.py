"""The arithmetic of rules: what it reads, what it refuses, and that it agrees with exact fractions."""

import contextlib
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.documents import expressions
from services.documents.expressions import BadExpression, NoValue

VALUES = {"a": Decimal(6), "b.c": Decimal("0.5"), "lines.0.net amount": Decimal(2), "zero": Decimal(0)}


def left(text: str) -> Decimal:
    return expressions.parse(f"{text} = 0").left.value(VALUES.get)


class TestReading:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a", "6"),
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("a - b.c - 1", "4.5"),
            ("-a + +1", "-5"),
            ("a / 4", "1.5"),
            ("0.1 + 0.2", "0.3"),
            ("1e3 * b.c", "500"),
            ("`lines.0.net amount` * 3", "6"),
            ("`a` + a", "12"),
        ],
    )
    def test_sides_are_arithmetic_over_paths(self, text: str, value: str) -> None:
        assert left(text) == Decimal(value)

    @pytest.mark.parametrize("relation", ["=", "<", "<=", ">", ">=", "!="])
    def test_relations(self, relation: str) -> None:
        said = expressions.parse(f"a{relation}b.c + `d e`")
        assert (said.relation, said.paths) == (relation, ("a", "b.c", "d e"))

    def test_a_side_that_is_one_path_is_known_as_it(self) -> None:
        said = expressions.parse("end_date >= `the start`")
        assert (said.left.path, said.right.path) == ("end_date", "the start")
        assert expressions.parse("a = b + 1").right.path is None

    def test_a_relation_inside_backquotes_is_part_of_a_name(self) -> None:
        assert expressions.parse("`a = b` = c").paths == ("a = b", "c")


class TestRefusing:
    @pytest.mark.parametrize(
        "text",
        [
            "a",
            "a = ",
            "= a",
            "a == b",
            "a = b = c",
            "a <> b",
            "a = f(b)",
            "a = b ** 9",
            "a = b // 2",
            "a = b % 2",
            "a = b[0]",
            "a = 'text'",
            "a = True",
            "a = 1j",
            "a = 1e999",
            "a = [b]",
            "a = b if c else d",
            "a = b and c",
            "a = not b",
            "a = (lambda: 1)",
            "a = (b := 1)",
            "a = b; c",
            "a = `b",
            "a = ``",
            "a = f(b).c",
            "a = 'x'.join",
            "a = b\nimport os",
            "a = __import__('os')",
            "a = quoted__0",
            "a = " + "(" * 300 + "b" + ")" * 300,
            "a = " + "-" * 600 + "b",
            "a = " + "+".join("b" * 300),
            "a = " + "b" * 1000,
        ],
    )
    def test_what_is_not_in_the_grammar(self, text: str) -> None:
        with pytest.raises(BadExpression):
            expressions.parse(text)

    @given(st.text(max_size=200) | st.text("ab.c`()+-*/=<>! 0123456789e_", max_size=60))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            said = expressions.parse(text)
        except BadExpression:
            return
        with contextlib.suppress(NoValue):
            assert said.left.value(VALUES.get).is_finite()


class TestValue:
    @pytest.mark.parametrize(
        "text", ["unknown + 1", "a / zero", "zero / zero", "1 / (a - 6)", "*".join(["1e300"] * 30)]
    )
    def test_what_has_no_result_has_no_value(self, text: str) -> None:
        with pytest.raises(NoValue):
            left(text)

    @given(
        st.recursive(
            st.integers(-999, 999).map(str),
            lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})"),
            max_leaves=12,
        )
    )
    def test_it_agrees_with_exact_arithmetic(self, text: str) -> None:
        exact = eval(text, {"__builtins__": {}})
        assert Fraction(left(text)) == exact
