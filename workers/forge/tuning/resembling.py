"""Texts that are nearly the same as an earlier one: the Jaccard similarity of their runs of three words.

MinHash (Broder 1997; datasketch) makes `PERMUTATIONS` numbers of a text, any of which two texts share with the
probability of their similarity. They are cut into bands; texts that share a band are compared by all of their runs.
Bands are as many and as wide as datasketch's `MinHashLSH` makes them when missing a pair counts nine times as much as
comparing one in vain: at 0.8, of pairs exactly as similar one in seven is missed, of pairs of 0.9 one in a thousand.

Of those that share a band a text is compared with the first and with the one before it. That makes the work linear,
where an index (`MinHashLSH` itself) compares all chats that begin with one long system prompt with one another, and it
takes 0.5 KiB a text instead of 4. Hashes are CRC-32s of words, not `hash()`: every process finds the same.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from workers.forge.data.choosing import WORD

# N texts, P permutations, S different runs of words of a text

PERMUTATIONS = 128
RUN = 3  # words
_AT_ONCE = 4096  # runs; 2 MiB of permuted hashes
_WIDEST = 0.95  # for a higher threshold there would be no two bands
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)  # odd (xxHash's primes)
_WORDS = re.compile(WORD)


def resembling(texts: Sequence[str], *, threshold: float, seed: int) -> set[int]:
    """Indices of texts whose similarity with an earlier one, left out or not, is `threshold` or more."""
    from datasketch import MinHash, MinHashLSH  # noqa: PLC0415 - scipy comes with it: a second, for few runs

    blank = MinHash(PERMUTATIONS, seed=seed, hashfunc=int)
    runs = [_runs(text) for text in texts]
    hashes_NP = np.stack([_signature(blank, runs_S) for runs_S in runs])
    index = MinHashLSH(min(threshold, _WIDEST), PERMUTATIONS, weights=(0.1, 0.9))
    alike: set[int] = set()
    for earlier, later in sorted(set(_pairs(hashes_NP, bands=index.b, width=index.r))):
        if later not in alike and _similarity(runs[earlier], runs[later]) >= threshold:
            alike.add(later)
    return alike


def _runs(text: str) -> NDArray[np.uint32]:
    """Hashes of a text's runs of words, sorted, each once; of fewer words than a run one hash, of none none."""
    words = np.array([crc32(word.encode()) for word in _WORDS.findall(text.casefold())], np.uint64)
    if not len(words):
        return np.empty(0, np.uint32)
    mixed = np.zeros(max(1, len(words) - RUN + 1), np.uint64)
    for at, factor in enumerate(_FACTORS[: len(words)]):
        mixed += words[at : at + len(mixed)] * factor
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def _signature(blank: Any, runs_S: NDArray[np.uint32]) -> NDArray[np.uint32]:
    own = blank.copy()
    for start in range(0, len(runs_S), _AT_ONCE):
        own.update_batch(runs_S[start : start + _AT_ONCE].tolist())
    hashes_P: NDArray[np.uint32] = own.hashvalues
    return hashes_P


def _pairs(hashes_NP: NDArray[np.uint32], *, bands: int, width: int) -> Iterator[tuple[int, int]]:
    """Indices of texts that share a band, the earlier first. Texts without words share nothing."""
    spoken = np.flatnonzero((hashes_NP != np.iinfo(np.uint32).max).any(axis=1))
    for band in range(bands):
        part = np.ascontiguousarray(hashes_NP[spoken, band * width : (band + 1) * width])
        keys = part.view(np.dtype((np.void, part.shape[1] * part.itemsize))).ravel()
        _, bucket = np.unique(keys, return_inverse=True)
        order = np.argsort(bucket, kind="stable")
        starts = np.flatnonzero(np.diff(bucket[order], prepend=-1))
        firsts = np.repeat(starts, np.diff(starts, append=len(order)))
        followers = np.flatnonzero(firsts != np.arange(len(order)))
        for before in (firsts[followers], followers - 1):
            yield from zip(spoken[order[before]].tolist(), spoken[order[followers]].tolist(), strict=True)


def _similarity(a_S: NDArray[np.uint32], b_S: NDArray[np.uint32]) -> float:
    shared = len(np.intersect1d(a_S, b_S, assume_unique=True))
    return shared / (len(a_S) + len(b_S) - shared)
