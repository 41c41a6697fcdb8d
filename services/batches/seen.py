"""Which texts have come before, at sixteen bytes a text: a set of 50,000 digests would take ten times as much."""

from array import array
from hashlib import blake2b

_PLACES = 2**17  #: a good twice as many as a batch has lines, so that a free one is near


class Seen:
    """A set of at most 65,536 texts, by 64 bits of their digests: two in a billion files meet a chance collision."""

    def __init__(self) -> None:
        self._places = array("Q", bytes(8 * _PLACES))

    def add(self, text: str) -> bool:
        """Note a text; False when it has come before."""
        digest = int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) or 1  # 0 is a free place
        at = digest % _PLACES
        while held := self._places[at]:
            if held == digest:
                return False
            at = (at + 1) % _PLACES
        self._places[at] = digest
        return True
