"""JSON as we accept it."""

import json

import pytest

from gateway import json_body
from gateway.errors import InvalidJson
from shared.errors import InvalidField


class TestDepth:
    @pytest.mark.parametrize("levels", [1, 31, 32])
    def test_so_deep_is_read(self, levels: int) -> None:
        body = b"[" * levels + b"]" * levels
        assert json_body.parse(body) == json.loads(body)

    @pytest.mark.parametrize("levels", [33, 1000, 200_000])
    def test_deeper_is_not(self, levels: int) -> None:
        with pytest.raises(InvalidJson, match="32 levels"):
            json_body.parse(b"[" * levels + b"]" * levels)


class TestText:
    def test_pairs_of_surrogates_are_text(self) -> None:
        assert json_body.parse(b'["\\ud83d\\ude00"]') == ["\U0001f600"]

    def test_halves_are_not_wherever_they_are(self) -> None:
        with pytest.raises(InvalidField) as caught:
            json_body.parse(b'{"a": [{"b": "x\\ude00"}]}')
        assert caught.value.param == "a.0.b"

    def test_a_key_of_halves_is_named_by_its_place(self) -> None:
        with pytest.raises(InvalidField) as caught:
            json_body.parse(b'{"a": {"\\ud800": 1}}')
        assert caught.value.param == "a"

    @pytest.mark.parametrize("body", [b'\xff""', b'\xef\xbb\xbf""', '""'.encode("utf-16")])
    def test_other_encodings_are_refused(self, body: bytes) -> None:
        with pytest.raises(InvalidJson):
            json_body.parse(body)


class TestNumbers:
    @pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 400 + ".0"])
    def test_only_finite_ones(self, number: str) -> None:
        with pytest.raises(InvalidField) as caught:
            json_body.parse(f'{{"a": {number}}}'.encode())
        assert caught.value.param == "a"

    @pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
    def test_only_what_fits_into_64_bits(self, number: int) -> None:
        with pytest.raises(InvalidField):
            json_body.parse(f"[{number}]".encode())
        assert json_body.parse(f"[{2**64 - 1}, {-(2**63)}]".encode())

    def test_digits_without_end_are_refused(self) -> None:
        with pytest.raises(InvalidJson, match="too long"):
            json_body.parse(b"9" * 5000)


class TestKeys:
    def test_a_key_comes_once(self) -> None:
        with pytest.raises(InvalidJson) as caught:
            json_body.parse(b'{"a": {"b": 1, "c": 2, "b": 3}}')
        assert caught.value.param == "b"
