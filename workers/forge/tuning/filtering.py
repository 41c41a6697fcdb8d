"""What is done to examples before they are learned: some are left out, and some are kept for validation.

In this order, each example counted under the first reason against it:

1. `duplicate`: an earlier one differs in case and white space alone; `in_validation`: one of the validation data does.
2. `too_short`, `too_many_characters`: by what is said, outer white space apart.
3. Quality, where asked for, by heuristics of Gopher (arXiv 2112.11446, table A1) with room for code and tables:
   `broken_encoding`: more than one in a thousand characters is a replacement or a control character;
   `symbols`: fewer than 40% of the characters are letters or digits, white space apart;
   `repeated_lines`: more than 30% of the characters are in lines that were there before, of four lines and more;
   `repeated_words`: more than half of the runs of four words were there before, of fifty words and more; or one
   character in a row is more than a fifth of 100 characters and more.
4. `near_duplicate`: its words are alike to those of an earlier example (`resembling`).
5. `dissimilar`: outside the `share` that is most similar to the reference, by TF-IDF (`choosing.most_similar`).

The same data and seed leave the same examples in the same order.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from shared.contracts.tuning import Preparation
from workers.forge.data.choosing import WORD, fingerprint, most_similar
from workers.forge.data.reading import Text
from workers.forge.data.tokenizing import Log
from workers.forge.refusing import Refused
from workers.forge.tuning.examples import Example
from workers.forge.tuning.resembling import resembling

DUPLICATE, IN_VALIDATION, NEAR_DUPLICATE = "duplicate", "in_validation", "near_duplicate"
TOO_SHORT, TOO_MANY_CHARACTERS = "too_short", "too_many_characters"
BROKEN_ENCODING, SYMBOLS, REPEATED_LINES, REPEATED_WORDS = (
    "broken_encoding",
    "symbols",
    "repeated_lines",
    "repeated_words",
)
DISSIMILAR = "dissimilar"

_BROKEN = re.compile("[\ufffd\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")  # not tab, LF, FF, CR
_MARK = re.compile(r"[^\W_]")  # a letter or a digit
_RUN = re.compile(r"(.)\1{19,}", re.DOTALL)  # what a fifth of 100 characters is at least
_WORDS = re.compile(WORD)


@dataclass(frozen=True)
class Prepared:
    """Examples that stay, in their order, and how many were left out by reason."""

    kept: list[Example]
    left_out: Counter[str] = field(default_factory=Counter)


def prepare(
    examples: Sequence[Example],
    preparation: Preparation,
    *,
    reference: Sequence[Text] = (),
    validation: Sequence[Example] = (),
    seed: int,
    tell: Log,
) -> Prepared:
    """Leave out what the preparation says; of no validation example is there a duplicate among those that stay.

    Raises:
        Refused: `invalid_data`, when the examples have no words to compare with the reference by.
    """
    left_out: Counter[str] = Counter()
    kept: list[Example] = []
    seen = dict.fromkeys((_fingerprint(example) for example in validation), IN_VALIDATION)
    for example in examples:
        if (reason := _against(example, preparation, seen)) is None:
            kept.append(example)
        else:
            left_out[reason] += 1
    if preparation.near_duplicates is not None and kept:
        tell.log(f"{len(kept):,} samples are compared with one another")
        alike = resembling([example.words for example in kept], threshold=preparation.near_duplicates, seed=seed)
        left_out[NEAR_DUPLICATE] += len(alike)
        kept = [example for index, example in enumerate(kept) if index not in alike]
    if preparation.reference and kept:
        tell.log(f"{len(kept):,} samples are compared with the reference")
        best = _similar(kept, reference, preparation.share)
        left_out[DISSIMILAR] += len(kept) - len(best)
        kept = [example for index, example in enumerate(kept) if index in best]
    return Prepared(kept, +left_out)


def split(examples: Sequence[Example], share: float, *, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to learn, and about `share` of them for validation, at least one of each; both in their order.

    An example's place is decided by what it says, so that duplicates are on one side, and by the seed.

    Raises:
        Refused: `not_enough_data`, when there are not two examples that differ.
    """
    of = [_fingerprint(example) for example in examples]
    counts = Counter(of)
    if len(counts) < 2:
        title = "There is not enough data to keep some for validation"
        raise Refused("not_enough_data", title, f"{len(examples):,} samples, {len(counts)} different")
    drawn = sorted(counts, key=lambda each: blake2b(each, key=str(seed).encode(), digest_size=16).digest())
    wanted = max(1, round(share * len(examples)))
    chosen: set[bytes] = set()
    taken = 0
    for each in drawn[:-1]:  # one is left to learn
        if taken >= wanted:
            break
        chosen.add(each)
        taken += counts[each]
    train = [example for example, each in zip(examples, of, strict=True) if each not in chosen]
    return train, [example for example, each in zip(examples, of, strict=True) if each in chosen]


def poor(text: str) -> str | None:
    """Why a text is hardly one, by the heuristics above; None when it is."""
    if len(_BROKEN.findall(text)) * 1000 > len(text):
        return BROKEN_ENCODING
    solid = len("".join(text.split()))
    if len(_MARK.findall(text)) < 0.4 * solid:
        return SYMBOLS
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) >= 4 and _repeated(lines, [len(line) for line in lines]) > 0.3:
        return REPEATED_LINES
    words = _WORDS.findall(text.casefold())
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    if len(words) >= 50 and _repeated(runs, [1] * len(runs)) > 0.5:
        return REPEATED_WORDS
    if len(text) >= 100 and max((len(run[0]) for run in _RUN.finditer(text)), default=0) > 0.2 * len(text):
        return REPEATED_WORDS
    return None


def _against(example: Example, preparation: Preparation, seen: dict[bytes, str]) -> str | None:
    if preparation.deduplicate:
        mine = _fingerprint(example)
        if mine in seen:
            return seen[mine]
        seen[mine] = DUPLICATE
    words = example.words.strip()
    if len(words) < preparation.min_characters:
        return TOO_SHORT
    if preparation.max_characters is not None and len(words) > preparation.max_characters:
        return TOO_MANY_CHARACTERS
    return poor(words) if preparation.quality else None


def _fingerprint(example: Example) -> bytes:
    return fingerprint(*example.parts)


def _repeated(things: Sequence[object], sizes: Sequence[int]) -> float:
    """Share, by size, of things that were there before."""
    seen: set[object] = set()
    repeated = 0
    for thing, size in zip(things, sizes, strict=True):
        repeated += size if thing in seen else 0
        seen.add(thing)
    return repeated / max(1, sum(sizes))


def _similar(examples: Sequence[Example], reference: Sequence[Text], share: float) -> set[int]:
    if not reference:
        raise Refused("not_enough_data", "There are no reference texts", "the preparation's reference has no lines")
    words = [example.words for example in examples]
    return most_similar(words, [text.words for text in reference], share=share, otherwise="leave the reference out")
