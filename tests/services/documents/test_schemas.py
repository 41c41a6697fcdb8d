"""Which schemas are taken, and what answers to them look like."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from services.documents import answers, schemas
from services.documents.answers import NotJson
from services.documents.planting import flatten, plant
from shared.contracts.documents import Value
from shared.errors import ValidationFailed

INVOICE: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["number"],
    "additionalProperties": False,
    "properties": {
        "number": {"type": "string", "description": "as printed", "minLength": 2},
        "issued": {"type": "string", "format": "date"},
        "total": {"type": ["number", "null"], "minimum": 0},
        "currency": {"enum": ["EUR", "USD"]},
        "paid": {"type": "boolean"},
        "seller": {"type": "object", "properties": {"name": {"type": "string"}}},
        "lines": {
            "type": "array",
            "items": {"type": "object", "properties": {"item": {"type": "string"}, "amount": {"type": "number"}}},
        },
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def refused(given: dict[str, Any]) -> tuple[str, str]:
    """(field, code) of what is wrong with it."""
    with pytest.raises(ValidationFailed) as error:
        schemas.check(given, param="spec.operation.schema")
    found = error.value.errors[0]
    return found.param.removeprefix("spec.operation.schema").lstrip("."), found.code


class TestCheck:
    def test_a_schema_of_all_that_is_supported_is_taken(self) -> None:
        shape = schemas.check(INVOICE, param="spec.operation.schema")
        assert [path for path, _ in shape.leaves()] == [
            *(
                "number",
                "issued",
                "total",
                "currency",
                "paid",
                "seller.name",
                "lines.*.item",
                "lines.*.amount",
                "tags.*",
            )
        ]

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            (schema(a={"$ref": "#/$defs/a"}), "properties.a.$ref"),
            (schema(a={"anyOf": [{"type": "string"}]}), "properties.a.anyOf"),
            (schema(a={"type": "object", "allOf": [], "properties": {}}), "properties.a.allOf"),
            (schema(a={"type": "string", "pattern": "(a+)+b"}), "properties.a.pattern"),
            (schema(a={"type": "string", "format": "email"}), "properties.a.format"),
            (schema() | {"$defs": {}}, "$defs"),
        ],
    )
    def test_what_is_not_supported_is_refused_by_its_name(self, given: dict[str, Any], field: str) -> None:
        assert refused(given) == (field, "unsupported_parameter")

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"type": "array", "items": {"type": "string"}}, "type"),
            (schema(), "properties"),
            (schema(a={}), "properties.a.type"),
            (schema(a={"type": ["string", "number"]}), "properties.a.type"),
            (schema(a={"type": "array"}), "properties.a.items"),
            (schema(**{"a.b": {"type": "string"}}), "properties.a.b"),
            (schema(**{"1": {"type": "string"}}), "properties.1"),
            (
                schema(a=schema(b={"type": "string"}) | {"additionalProperties": True}),
                "properties.a.additionalProperties",
            ),
            (schema(a={"enum": [["x"]]}), "properties.a.enum"),
            (schema(a={"type": "null"}) | {"propertyOrdering": ["b"]}, "propertyOrdering"),
            (schema(a={"type": "number", "minimum": "1"}), "properties.a.minimum"),
            (schema(a={"type": "string", "description": "\x00"}), ""),
            (schema(a={"type": "string", "description": "\ud800"}), ""),
            (schema(a={"type": "string", "description": "x" * 40_000}), ""),
            (schema(**{f"p{number}": {"type": "null"} for number in range(501)}), ""),
        ],
    )
    def test_what_cannot_be_answered_is_refused(self, given: dict[str, Any], field: str) -> None:
        assert refused(given) == (field, "invalid_schema")

    def test_a_schema_without_end_is_refused(self) -> None:
        deep: dict[str, Any] = {"type": "string"}
        for _ in range(5000):
            deep = {"type": "array", "items": deep}
        assert refused(schema(a=deep))[1] == "invalid_schema"


class TestEvidenced:
    def test_every_leaf_has_its_page_and_its_quote(self) -> None:
        form = schemas.evidenced(schemas.shape(INVOICE))
        validator = Draft202012Validator(form)
        cell = {"value": None, "page": None, "quote": None}
        whole = dict.fromkeys(("number", "issued", "total", "currency", "paid"), cell)
        validator.validate(whole | {"seller": {"name": cell}, "lines": [{"item": cell, "amount": cell}], "tags": []})
        with pytest.raises(ValidationError):
            validator.validate(whole | {"seller": {"name": "Acme"}, "lines": [], "tags": []})

    def test_as_many_leaves_as_are_allowed_fit_an_engine(self) -> None:
        most = {f"figure_{number}": {"type": "number"} for number in range(schemas.LEAVES)}
        assert len(schemas.check(schema(**most), param="schema").properties) == schemas.LEAVES

    def test_bounds_are_left_to_the_check_of_the_value(self) -> None:
        shape = schemas.shape(INVOICE)
        assert "minimum" not in str(schemas.evidenced(shape))
        assert shape.properties["total"].problem(-1) == "-1 is less than the minimum of 0"
        assert shape.properties["issued"].problem("31.12.2024") == "'31.12.2024' is not a 'date'"
        assert shape.properties["currency"].problem("EUR") is None


class TestPlant:
    def test_values_make_the_object_and_the_object_makes_the_values(self) -> None:
        shape = schemas.shape(INVOICE)
        said = {"number": "R-1", "lines.0.item": "Bolt", "lines.1.amount": 2.5, "seller.name": "Acme", "tags.0": "new"}
        values = [Value(path=path, value=value) for path, value in said.items()]
        assert plant(shape, values) == {
            "number": "R-1",
            "issued": None,
            "total": None,
            "currency": None,
            "paid": None,
            "seller": {"name": "Acme"},
            "lines": [{"item": "Bolt", "amount": None}, {"item": None, "amount": 2.5}],
            "tags": ["new"],
        }
        back = flatten(shape, plant(shape, values, leaf=lambda value: value))
        assert {value.path: value.value for value in back if value.value is not None} == said


class TestAnswers:
    def test_an_object_among_other_words_is_found(self) -> None:
        assert answers.parse('Here you are:\n```json\n{"a": [1, 2.5]}\n```') == {"a": [1, 2.5]}

    @pytest.mark.parametrize("text", ["", "no", '{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', "[" * 70 + "]" * 70])
    def test_what_could_not_be_kept_is_not_json(self, text: str) -> None:
        with pytest.raises(NotJson):
            answers.parse(text)

    def test_a_number_beyond_64_bits_is_kept_as_a_float(self) -> None:
        assert answers.parse('{"a": 123456789012345678901234567890}') == {"a": 1.2345678901234568e29}
        with pytest.raises(NotJson):
            answers.parse('{"a": ' + "9" * 5000 + "}")
