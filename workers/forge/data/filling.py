"""Rows of samples out of one source's texts, which are tokenized only when a row needs them."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.forge.data.packing import Packer, padded
from workers.forge.data.reading import Text
from workers.forge.data.tokenizing import CHARACTERS_PER_TOKEN, Encoder, Rendered, pieces

_BATCH = 256  # texts for the tokenizer at once


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One sample of T tokens, the first `tokens` of which are no padding."""

    ids_T: NDArray[np.int32]  # noqa: N815 - a tensor's name
    tokens: int


class Filler(Protocol):
    """A source. Texts are known by their index."""

    used: set[int]  #: texts that have a token in a row
    refused: set[int]  #: texts that the chat template refuses

    def fill(self, count: int) -> list[Row]:
        """As many more rows; fewer when the texts come to an end."""
        ...

    def rest(self) -> list[tuple[int, Sequence[int]]]:
        """Texts' tokens that fill no row, once they have come to an end."""
        ...


class PackedFiller:
    """Every row is full: texts follow one another, with what the tokenizer puts between them.

    A long text is taken in pieces of about a row, and every text's first piece before any second one: 128 rows see 128
    long texts, not the first seven of them.
    """

    def __init__(self, texts: Sequence[Text], encoder: Encoder, *, length: int) -> None:
        self._encoder = encoder
        self._length = length
        self._packer = Packer(length)
        self._pieces = self._in_turn(texts)
        self.used = self._packer.used
        self.refused: set[int] = set()

    def fill(self, count: int) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < count:
            row_T = self._packer.row()
            if row_T is not None:
                rows.append(Row(row_T, self._length))
            elif not self._tokenize(min(_BATCH, count - len(rows))):
                break
        return rows

    def rest(self) -> list[tuple[int, Sequence[int]]]:
        return self._packer.rest()

    def _tokenize(self, count: int) -> bool:
        """Whether there was a piece left."""
        batch = list(islice(self._pieces, count))
        ids = self._encoder.encode([piece.text for _, piece in batch])
        for (index, piece), run in zip(batch, ids, strict=True):
            self._packer.add(index, self._encoder.separated(run, piece))
        return bool(batch)

    def _in_turn(self, texts: Sequence[Text]) -> Iterator[tuple[int, Rendered]]:
        later: deque[tuple[int, bool, deque[str]]] = deque()
        for index, text in enumerate(texts):
            rendered = self._encoder.render(text)
            if rendered is None:
                self.refused.add(index)
                continue
            first, *others = pieces(rendered.text, tokens=self._length)
            if others:
                later.append((index, rendered.chat, deque(others)))
            yield index, Rendered(first, rendered.chat)
        while later:
            index, chat, left = later.popleft()
            yield index, Rendered(left.popleft(), chat)
            if left:
                later.append((index, chat, left))


class SingleFiller:
    """A row is the beginning of one text, padded."""

    def __init__(self, texts: Sequence[Text], encoder: Encoder, *, length: int) -> None:
        self._encoder = encoder
        self._length = length
        self._texts = enumerate(texts)
        self.used: set[int] = set()
        self.refused: set[int] = set()

    def fill(self, count: int) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < count and (batch := list(islice(self._texts, min(_BATCH, count - len(rows))))):
            rows += self._rows(batch)
        return rows

    def rest(self) -> list[tuple[int, Sequence[int]]]:
        return []

    def _rows(self, batch: list[tuple[int, Text]]) -> Iterator[Row]:
        rendered = {index: self._encoder.render(text) for index, text in batch}
        self.refused.update(index for index, each in rendered.items() if each is None)
        known = {index: each for index, each in rendered.items() if each is not None}
        for (index, each), ids in zip(known.items(), self._beginnings(list(known.values())), strict=True):
            if ids:
                run = self._encoder.alone(ids, each, length=self._length)
                self.used.add(index)
                yield Row(padded(run, self._length, pad=self._encoder.pad), len(run))

    def _beginnings(self, rendered: Sequence[Rendered]) -> list[list[int]]:
        """Ids of as much of each text as a row can need."""
        enough = 4 * CHARACTERS_PER_TOKEN * self._length
        ids = self._encoder.encode([each.text[:enough] for each in rendered])
        for index, each in enumerate(rendered):
            if len(ids[index]) < self._length and len(each.text) > enough:  # white space, for the most part
                ids[index] = self._encoder.encode([each.text])[0]
        return ids
