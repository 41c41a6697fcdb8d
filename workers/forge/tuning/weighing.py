"""How often an example is seen in an epoch: as often as its source weighs.

A weight of 2 is twice; of 2.5 twice or three times, of 0.5 once or not at all, as the seed and the example's place
decide. What is left out so is left out of every epoch.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from workers.forge.tuning.examples import Example

UNLUCKY = "weight"  #: why an example is left out: its source weighs less than 1


def times(examples: Iterable[Example], *, seed: int) -> Iterator[tuple[Example, int]]:
    """Each example, and how often it is seen."""
    for example in examples:
        whole, part = divmod(example.weight, 1)
        yield example, int(whole) + (part > 0 and _drawn(example, seed) < part)


def _drawn(example: Example, seed: int) -> float:
    """A number from 0 to 1 that belongs to the example's place."""
    digest = blake2b(example.place.encode(), key=str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
