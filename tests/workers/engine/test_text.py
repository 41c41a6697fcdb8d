"""Text while it grows: whole characters, and never past a stop string."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.text import Detokenizer, StopScanner

T = TypeVar("T", str, bytes)


def decode_bytes(tokens: Sequence[int]) -> str:
    """The hardest tokenizer there is: every byte a token."""
    return bytes(tokens).decode(errors="replace")


def cut(text: T, cuts: list[int]) -> list[T]:
    """`text` in pieces."""
    places = [0, *sorted({place % (len(text) + 1) for place in cuts}), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


class TestDetokenizer:
    @given(text=st.text(), cuts=st.lists(st.integers(min_value=0)))
    def test_pieces_joined_are_the_text(self, text, cuts):
        detokenizer = Detokenizer(decode_bytes)
        pieces = [detokenizer.push(piece) for piece in cut(text.encode(), cuts)]
        assert "".join(pieces) + detokenizer.flush() == text

    @given(raw=st.binary(), cuts=st.lists(st.integers(min_value=0)))
    def test_bytes_that_are_no_characters_are_not_lost_and_not_doubled(self, raw, cuts):
        detokenizer = Detokenizer(decode_bytes)
        pieces = [detokenizer.push(piece) for piece in cut(raw, cuts)]
        assert "".join(pieces) + detokenizer.flush() == decode_bytes(raw)

    def test_half_a_character_waits(self):
        detokenizer = Detokenizer(decode_bytes)
        assert [detokenizer.push([byte]) for byte in "a€".encode()] == ["a", "", "", "€"]


class TestStopScanner:
    @given(
        text=st.text("abc", max_size=30),
        stops=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4),
        cuts=st.lists(st.integers(min_value=0)),
    )
    def test_where_tokens_end_makes_no_difference(self, text, stops, cuts):
        assert self.scan(cut(text, cuts), stops) == self.scan(list(text), stops)

    @pytest.mark.parametrize(
        ("pieces", "stops", "shown"),
        [
            (["one. t", "wo"], ["."], "one"),
            (["a<", "/en", "d>b"], ["</end>"], "a"),
            (["a<", "/en", "t>b"], ["</end>"], "a</ent>b"),
            (["abc"], ["abc", "b"], "a"),  # `b` is complete first
            (["xaab"], ["aab", "ab"], "x"),  # both complete at once: the longer one
        ],
    )
    def test_text_ends_before_the_stop_string_that_is_complete_first(self, pieces, stops, shown):
        assert self.scan(pieces, stops) == shown

    @staticmethod
    def scan(pieces: list[str], stops: list[str]) -> str:
        scanner, shown = StopScanner(stops), ""
        for piece in pieces:
            shown += scanner.push(piece)
            if scanner.stopped:
                return shown
        return shown + scanner.flush()
