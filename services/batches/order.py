"""The order in which lines are run.

What shares a prompt's beginning goes together, because an engine keeps that in its KV cache; equal lines are
neighbours; and whatever takes longest goes first, so that no straggler ends a batch.
"""

import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import takewhile
from typing import Any

import orjson

from services.inference.service import CHARACTERS_PER_TOKEN

#: bytes of a prompt after which its beginning is noted: 64 are about a block of an engine's KV cache
CUTS = tuple(64 << n for n in range(15))
OUTPUT_TOKENS = 256  #: of a line that sets no limit; an estimate is enough for an order and a plan
MOST_TOKENS = 2**31
_CRC = 4


class Index:
    """Where the lines of a file are and what they are ordered by; a line is named by its number, from 0.

    In columns, because an object a line takes four times as much: here it is some fifty bytes, whatever the line holds.
    """

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.sizes = array("I")  #: bytes, their newlines included
        self.models = array("B")  #: the place of its model among those that the file names
        self.tokens = array("Q")  #: read and written, guessed from sizes
        self.digests = array("Q")  #: of the bodies: equal lines have the same
        self._beginnings = bytearray()  #: checksums of the prompt up to each of `CUTS`, each made of the one before
        self._ends = array("I")

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, body: Mapping[str, Any], *, offset: int, size: int, model: int) -> None:
        """Note the next line."""
        prompt = _prompt(body)
        digest = blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()
        self.offsets.append(offset)
        self.sizes.append(size)
        self.models.append(model)
        self.tokens.append(len(prompt) // CHARACTERS_PER_TOKEN + _output(body))
        self.digests.append(int.from_bytes(digest))
        self._beginnings += _beginnings(prompt)
        self._ends.append(len(self._beginnings))

    def beginnings(self, number: int) -> bytes:
        """The checksums of a line's prompt."""
        return bytes(self._beginnings[self._ends[number - 1] if number else 0 : self._ends[number]])


def ordered(index: Index, numbers: Iterable[int]) -> Sequence[int]:
    """Lines of one model in the order in which to run them."""
    near = array("I", sorted(numbers, key=index.beginnings))
    group = array("I", bytes(4 * len(index)))
    shared = array("B", (_shared(index, near, at) for at in range(len(near))))
    prefixes = {index.beginnings(number)[:size] for number, size in zip(near, shared, strict=True)}
    places = {prefix: place for place, prefix in enumerate(sorted(prefixes))}
    for number, size in zip(near, shared, strict=True):
        group[number] = places[index.beginnings(number)[:size]]

    def turn(number: int) -> int:
        # One integer, because a tuple a line would be most of what this takes.
        longest_first = MOST_TOKENS - min(MOST_TOKENS, index.tokens[number])
        return ((group[number] << 32 | longest_first) << 64 | index.digests[number]) << 32 | number

    return array("I", sorted(near, key=turn))


def _prompt(body: Mapping[str, Any]) -> bytes:
    """What the model reads, in one spelling."""
    read = [body.get(name) for name in ("tools", "messages", "prompt", "input")]
    return orjson.dumps(read, option=orjson.OPT_SORT_KEYS)


def _output(body: Mapping[str, Any]) -> int:
    if "input" in body:
        return 0
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return limit if isinstance(limit, int) and 0 < limit < MOST_TOKENS else OUTPUT_TOKENS


def _beginnings(prompt: bytes) -> bytes:
    sums, crc, at = [], 0, 0
    for cut in takewhile(lambda cut: cut <= len(prompt), CUTS):
        crc = zlib.crc32(prompt[at:cut], crc)
        sums.append(crc.to_bytes(_CRC))
        at = cut
    return b"".join(sums)


def _shared(index: Index, near: Sequence[int], at: int) -> int:
    """How many bytes of checksums a line has in common with one of its neighbours."""
    own = index.beginnings(near[at])
    neighbours = [index.beginnings(near[n]) for n in (at - 1, at + 1) if 0 <= n < len(near)]
    return max((_common(own, other) for other in neighbours), default=0)


def _common(one: bytes, other: bytes) -> int:
    whole = min(len(one), len(other)) // _CRC
    return _CRC * sum(1 for _ in takewhile(lambda n: one[: _CRC * n] == other[: _CRC * n], range(1, whole + 1)))
