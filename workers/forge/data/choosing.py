"""Which texts samples are made of, and in which order: the same seed, the same texts, whatever the process.

- `random` shuffles.
- `longest` goes by characters: tokens would mean to tokenize everything.
- `diverse` puts TF-IDF vectors into clusters (k-means in small batches) and goes round them, each time to the text that
  is nearest to its cluster's centre among those left: the first texts are typical of every kind that there is.
- `domain` keeps the `share` whose TF-IDF vectors have the largest cosine with the reference texts' mean, and shuffles.

Both that compare look at all sources together, at no more than `COMPARED` texts and `COMPARED_CHARACTERS` of each. A
word is a run of letters and digits; each Chinese or Japanese character is one.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import zip_longest
from math import ceil
from typing import Any

import numpy as np

from shared.contracts.compression import Sampling, Strategy
from workers.forge.data.reading import Text
from workers.forge.refusing import Refused

COMPARED = 20_000  #: texts; with as many characters as below some 30 s
COMPARED_CHARACTERS = 8_192
CLUSTERS = 64
_WORDS = 2**14  # of TF-IDF, the most frequent ones: a cluster's centre is a dense vector
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = rf"(?u)[{_CJK}]|[^\W{_CJK}]+"

# Why a text is left out.
TOO_SHORT = "too_short"  #: fewer than `min_characters`
DUPLICATE = "duplicate"
NOT_COMPARED = "not_compared"  #: more texts than `COMPARED`
DISSIMILAR = "dissimilar"  #: outside the `share` of strategy domain


@dataclass(frozen=True)
class Chosen:
    """Texts of each source, best first, and how many were left out by reason."""

    sources: list[list[Text]]
    left_out: Counter[str] = field(default_factory=Counter)


def choose(sources: Sequence[Sequence[Text]], reference: Sequence[Text], sampling: Sampling) -> Chosen:
    """Clean the texts of all sources and bring each source's into the strategy's order.

    Raises:
        Refused: `not_enough_data`, strategy domain without reference texts; `invalid_data`, texts without a word.
    """
    chosen = _cleaned(sources, sampling)
    match sampling.strategy:
        case Strategy.RANDOM:
            return _shuffled(chosen, sampling.seed)
        case Strategy.LONGEST:
            return Chosen([sorted(texts, key=_characters) for texts in chosen.sources], chosen.left_out)
        case Strategy.DIVERSE:
            return _diverse(_comparable(chosen, sampling.seed), sampling)
        case Strategy.DOMAIN:
            return _shuffled(_similar(_comparable(chosen, sampling.seed), reference, sampling.share), sampling.seed)


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divide `total` by weights; what rounding down leaves goes to the largest remainders (Hamilton's method)."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(each) for each in exact]
    largest = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
    for index in largest[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _cleaned(sources: Sequence[Sequence[Text]], sampling: Sampling) -> Chosen:
    seen: set[bytes] = set()
    left_out: Counter[str] = Counter()

    def reason_against(text: Text) -> str | None:
        words = text.words
        if len(words.strip()) < sampling.min_characters:
            return TOO_SHORT
        if not sampling.deduplicate:
            return None
        digest = fingerprint(words)
        if digest in seen:
            return DUPLICATE
        seen.add(digest)
        return None

    kept: list[list[Text]] = []
    for texts in sources:
        kept.append([])
        for text in texts:
            reason = reason_against(text)
            if reason is None:
                kept[-1].append(text)
            else:
                left_out[reason] += 1
    return Chosen(kept, left_out)


def fingerprint(*parts: str) -> bytes:
    """The same of texts that differ in case and white space alone; 16 bytes."""
    plain = "\0".join(" ".join(part.split()).casefold() for part in parts)
    return blake2b(plain.encode(), digest_size=16).digest()


def _characters(text: Text) -> int:
    return -len(text.words)


def _shuffled(chosen: Chosen, seed: int) -> Chosen:
    shuffled = []
    for index, texts in enumerate(chosen.sources):
        # A str is hashed by SHA-512, not by hash()
        shuffled.append(random.Random(f"{seed}/{index}").sample(texts, len(texts)))
    return Chosen(shuffled, chosen.left_out)


def _comparable(chosen: Chosen, seed: int) -> Chosen:
    """No more than `COMPARED` texts, each source having the same room."""
    if sum(map(len, chosen.sources)) <= COMPARED:
        return chosen
    room = COMPARED // len(chosen.sources)
    kept = [texts[:room] for texts in _shuffled(chosen, seed).sources]
    beyond = sum(len(texts) - room for texts in chosen.sources if len(texts) > room)
    return Chosen(kept, chosen.left_out + Counter({NOT_COMPARED: beyond}))


def _diverse(chosen: Chosen, sampling: Sampling) -> Chosen:
    flat = [(index, text) for index, texts in enumerate(chosen.sources) for text in texts]
    if not flat:
        return chosen
    vectors = _vectors([text.words for _, text in flat])
    clusters = _clusters(vectors, count=min(sampling.samples, CLUSTERS, len(flat)), seed=sampling.seed)
    ordered: list[list[Text]] = [[] for _ in chosen.sources]
    for turn in zip_longest(*clusters):
        for member in turn:
            if member is not None:
                source, text = flat[member]
                ordered[source].append(text)
    return Chosen(ordered, chosen.left_out)


def _clusters(vectors: Any, *, count: int, seed: int) -> list[list[int]]:
    """Rows of each cluster, nearest to its centre first; the largest cluster first."""
    from sklearn.cluster import MiniBatchKMeans  # noqa: PLC0415 - a second, for two of four strategies

    # It would stop early by a sum over threads, which is not the same for every number of threads
    means = MiniBatchKMeans(n_clusters=count, random_state=seed, n_init=1, max_iter=10, max_no_improvement=None)
    distances = means.fit_transform(vectors)
    nearest = distances.argmin(axis=1)
    members = [np.flatnonzero(nearest == cluster) for cluster in range(count)]
    ordered = [rows[np.argsort(distances[rows, cluster], kind="stable")] for cluster, rows in enumerate(members)]
    return [rows.tolist() for rows in sorted(ordered, key=len, reverse=True)]


def _similar(chosen: Chosen, reference: Sequence[Text], share: float) -> Chosen:
    if not reference:
        raise Refused("not_enough_data", "There are no reference texts", "strategy domain needs at least one")
    flat = [text for texts in chosen.sources for text in texts]
    if not flat:
        return chosen
    best = most_similar(
        [text.words for text in flat],
        [text.words for text in reference],
        share=share,
        otherwise="strategy random does not",
    )
    kept: list[list[Text]] = []
    first = 0
    for texts in chosen.sources:
        kept.append([text for row, text in enumerate(texts, first) if row in best])
        first += len(texts)
    return Chosen(kept, chosen.left_out + Counter({DISSIMILAR: len(flat) - len(best)}))


def most_similar(texts: Sequence[str], reference: Sequence[str], *, share: float, otherwise: str) -> set[int]:
    """Indices of the `share` of the texts whose TF-IDF vectors have the largest cosine with the reference's mean.

    Of the reference `COMPARED` texts count, of every text `COMPARED_CHARACTERS`. `otherwise` is for the error.

    Raises:
        Refused: `invalid_data`, when the texts have no words.
    """
    vectors = _vectors([*texts, *reference[:COMPARED]], otherwise=otherwise)
    centre = np.asarray(vectors[len(texts) :].mean(axis=0)).ravel()
    similarities = vectors[: len(texts)] @ centre  # rows have length 1: cosines, but for one factor
    return set(np.argsort(-similarities, kind="stable")[: ceil(share * len(texts))].tolist())


def _vectors(texts: Sequence[str], *, otherwise: str = "strategy random does not") -> Any:
    """TF-IDF, one row of length 1 a text (scipy's CSR)."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - a second, for two of four strategies

    vectorizer = TfidfVectorizer(token_pattern=WORD, max_features=_WORDS, sublinear_tf=True, dtype=np.float32)
    try:
        return vectorizer.fit_transform(text[:COMPARED_CHARACTERS] for text in texts)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise Refused("invalid_data", "The texts have no words to compare them by", otherwise) from None
