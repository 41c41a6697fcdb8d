"""Cutting a document into chunks by the model's tokens, at paragraphs before sentences before words."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from workers.documents.measures import Characters, Measure, Tokens
from workers.documents.types import Chunk, Page, Span

LEAST: Final = 16  #: tokens of a chunk: one character of a rare script may take six
BETWEEN: Final = "\n\n"  #: what parts two pages inside a chunk; it belongs to neither
_GUESS: Final = 6  # characters a token: what is looked at first; then half as much again as the last chunk took
_MOST: Final = 64  # characters a token in any chunk: some vocabularies make one token of a megabyte without spaces
_SLACK: Final = 2  # tokens: white space at the end of a chunk is often one of its own
#: where to cut, best first: behind an empty line, a sentence that ends a line, a sentence, a line, a word
_SENTENCE: Final = r"[.!?…]['\"”’»)\]]*"
_CUTS: Final = tuple(
    re.compile(pattern)
    for pattern in (r"\n[ \t]*\n\s*", rf"{_SENTENCE}[ \t]*\n", rf"{_SENTENCE}\s+|[。！？]['”’」』]*", r"\n", r"\s+")
)


class Chunker:
    """Cuts by the tokens of a model's `tokenizer.json`; None: four characters are taken for a token.

    Special tokens and a chat template's own are not counted: leave room for them.
    """

    def __init__(self, tokenizer_json: Path | None) -> None:
        self._measure: Measure = Tokens(tokenizer_json) if tokenizer_json else Characters()

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return self._measure.count(text)

    def cut(self, pages: Sequence[Page], *, tokens: int, overlap: int) -> list[Chunk]:
        """Chunks of at most `tokens` tokens (16 or more); neighbours share about `overlap`, at most half of `tokens`.

        Every character of every page is in a chunk, and the time is linear in the text.

        Raises:
            ValueError: fewer than 16 tokens, or a negative overlap.
        """
        if tokens < LEAST or overlap < 0:
            raise ValueError(f"a chunk has at least {LEAST} tokens, and an overlap is not negative")
        text = _Joined.of(pages)
        cutter = _Cutter(self._measure, text.text, tokens, min(overlap, tokens // 2))
        return [
            Chunk(number, text.text[start:end], text.spans(start, end), count)
            for number, (start, end, count) in enumerate(cutter.ranges(), start=1)
        ]


@dataclass(frozen=True)
class _Joined:
    """The pages as one text, and where each begins in it; pages without text are left out."""

    text: str
    pages: tuple[Page, ...]
    begins: tuple[int, ...]

    @classmethod
    def of(cls, pages: Sequence[Page]) -> "_Joined":
        filled = tuple(page for page in pages if page.text)
        ends = accumulate((len(page.text) + len(BETWEEN) for page in filled), initial=0)
        return cls(BETWEEN.join(page.text for page in filled), filled, tuple(ends)[: len(filled)])

    def spans(self, start: int, end: int) -> tuple[Span, ...]:
        """The parts of pages between two offsets, relative to the first."""
        found = list[Span]()
        for index in range(max(0, bisect_right(self.begins, start) - 1), len(self.pages)):
            begin = self.begins[index]
            if begin >= end:
                break
            low, high = max(start, begin), min(end, begin + len(self.pages[index].text))
            if low < high:
                found.append(Span(self.pages[index].number, low - start, high - start, low - begin))
        return tuple(found)


class _Cutter:
    """One walk over a text. Each step measures about one chunk's worth of it, so that the whole is linear."""

    def __init__(self, measure: Measure, text: str, tokens: int, overlap: int) -> None:
        self._measure, self._text = measure, text
        self._tokens, self._overlap = tokens, overlap
        self._guess = _GUESS * tokens

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Start, end and tokens of each chunk."""
        start, length = 0, len(self._text)
        while start < length:
            window, starts = self._window(start)
            size, count = len(window), len(starts)
            if count > self._tokens or start + size < length:
                size, count = self._size(window, starts)
                self._guess = min(max(self._tokens, size * 3 // 2), _MOST * self._tokens)
            yield start, start + size, count
            if start + size >= length:
                return
            start += self._step(window, starts, size)

    def _window(self, start: int) -> tuple[str, Sequence[int]]:
        """Text that has more tokens than a chunk may have (or all that is left), and where its tokens begin."""
        size = self._guess
        while True:
            window = self._text[start : start + size]
            starts = self._measure.starts(window)
            if len(starts) > self._tokens or len(window) < size or size >= _MOST * self._tokens:
                return window, starts
            size = self._guess = min(2 * size, _MOST * self._tokens)

    def _size(self, window: str, starts: Sequence[int]) -> tuple[int, int]:
        """How much of a window a chunk takes, and its tokens: a text may have more alone than inside another."""
        given_up = _SLACK
        while True:
            high = max(1, _at(starts, max(0, self._tokens - given_up), len(window)))
            # The last quarter may be given up for a better place; with the largest overlap a quarter is still new.
            size = _boundary(window, min(high, _at(starts, self._tokens * 3 // 4 - given_up, high)), high)
            count = self._measure.count(window[:size])
            if count <= self._tokens or size == 1:
                return size, count
            given_up *= 2

    def _step(self, window: str, starts: Sequence[int], size: int) -> int:
        """How far behind this chunk's begin the next one begins: `overlap` tokens before its end, at a good place."""
        if not self._overlap:
            return size
        low = max(1, size // 4, _at(starts, bisect_left(starts, size) - self._overlap, size))
        back = window[low:size]
        for pattern in _CUTS[2:]:
            if (match := pattern.search(back, 0, len(back) // 2)) and match.end() < len(back):
                return low + match.end()
        return min(low, size)


def _boundary(window: str, low: int, high: int) -> int:
    """The best place to cut between two offsets: the last one of the best kind, else `high`."""
    for pattern in _CUTS:
        end = 0
        for match in pattern.finditer(window, low, high):
            end = match.end()
        if end > low:
            return end
    return high


def _at(starts: Sequence[int], index: int, default: int) -> int:
    """Where a token begins; `default` behind the last one, the first one for any before it."""
    return starts[max(0, index)] if index < len(starts) else default
