import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.compression import Sampling
from workers.forge.data.choosing import COMPARED, Chosen, choose, shares
from workers.forge.data.reading import Text, Turn
from workers.forge.refusing import Refused

ROOT = Path(__file__).parents[4]
KINDS = {
    "cooking": ["salt", "pepper", "onion", "butter", "flour", "oven", "recipe", "boil", "roast", "stew"],
    "sailing": ["mast", "anchor", "harbour", "keel", "rudder", "wind", "tide", "sail", "rope", "deck"],
    "music": ["violin", "chord", "melody", "rhythm", "octave", "tempo", "opera", "choir", "tune", "scale"],
}


def texts(*contents: str, source: str = "a") -> list[Text]:
    return [Text(content, source, line) for line, content in enumerate(contents, 1)]


def about(kind: str, count: int, *, seed: int = 0) -> list[str]:
    draw = random.Random(f"{kind}{seed}")
    return [f"{kind} {number}: " + " ".join(draw.choices(KINDS[kind], k=30)) for number in range(count)]


def chosen(*sources: Sequence[Text], reference: Sequence[Text] = (), **sampling: Any) -> Chosen:
    if reference:
        sampling |= {"strategy": "domain", "reference": [{"type": "library"}]}
    return choose(sources, reference, Sampling.model_validate({"min_characters": 1} | sampling))


def contents(chosen: Chosen) -> list[list[str]]:
    return [[text.words for text in source] for source in chosen.sources]


class TestShares:
    @given(total=st.integers(0, 5000), weights=st.lists(st.floats(0.001, 1000), min_size=1, max_size=64))
    def test_they_add_up_and_none_is_off_by_one(self, total, weights) -> None:
        counts = shares(total, weights)
        assert sum(counts) == total
        whole = sum(map(Fraction, weights))
        assert all(
            abs(count - total * Fraction(weight) / whole) < 1 + Fraction(1, 10**6)
            for count, weight in zip(counts, weights, strict=True)
        )

    def test_largest_remainders_get_what_is_left(self) -> None:
        assert shares(10, [1, 1, 1]) == [4, 3, 3]
        assert shares(128, [3, 1]) == [96, 32]
        assert shares(7, [0.5, 0.3, 0.2]) == [4, 2, 1]


class TestCleaning:
    def test_case_and_white_space_make_no_difference(self) -> None:
        found = chosen(
            texts("Once  upon\na time", "once upon a time", "ONCE\tupon a time "), texts("Once upon a time.")
        )
        assert contents(found) == [["Once  upon\na time"], ["Once upon a time."]]
        assert found.left_out == {"duplicate": 2}

    def test_duplicates_are_found_across_sources(self) -> None:
        found = chosen(texts("one", "two"), texts("Two", "three", source="b"), strategy="longest")
        assert contents(found) == [["one", "two"], ["three"]]

    def test_chats_are_texts_too(self) -> None:
        chats = [Text((Turn("user", "Why?"), Turn("assistant", answer)), "a", 1) for answer in ("So.", "so. ", "No.")]
        found = chosen(chats, strategy="longest")
        assert (len(found.sources[0]), found.left_out) == (2, {"duplicate": 1})

    def test_duplicates_stay_where_that_is_asked_for(self) -> None:
        assert contents(chosen(texts("same", "same"), deduplicate=False)) == [["same", "same"]]

    def test_short_texts_are_left_out(self) -> None:
        found = chosen(texts("12345", "1234", "  1234\n", ""), min_characters=5)
        assert (contents(found), found.left_out) == ([["12345"]], {"too_short": 3})


class TestOrder:
    def test_random_is_a_shuffle_that_the_seed_decides(self) -> None:
        given_texts = texts(*map(str, range(100)))
        first, again, other = (contents(chosen(given_texts, seed=seed))[0] for seed in (1, 1, 2))
        assert first == again
        assert first != other
        assert first != [text.words for text in given_texts]
        assert sorted(first) == sorted(other) == sorted(text.words for text in given_texts)

    def test_longest_comes_first(self) -> None:
        found = chosen(texts("aa", "a", "aaaa", "aaa"), texts("b", "bb"), strategy="longest")
        assert contents(found) == [["aaaa", "aaa", "aa", "a"], ["bb", "b"]]

    def test_diverse_takes_of_every_kind_before_it_repeats_one(self) -> None:
        """60 texts about cooking hide 3 about sailing and 3 about music."""
        several = about("cooking", 60) + about("sailing", 3) + about("music", 3)
        found = contents(chosen(texts(*several), strategy="diverse", samples=6))[0]
        assert sorted(found) == sorted(several)
        assert {text.split()[0] for text in found[:6]} == set(KINDS)

    def test_diverse_looks_at_all_sources_together(self) -> None:
        found = contents(chosen(texts(*about("cooking", 9)), texts(*about("music", 9)), strategy="diverse"))
        assert [len(source) for source in found] == [9, 9]

    @pytest.mark.parametrize("strategy", ["diverse", "random", "longest"])
    def test_no_texts_are_none(self, strategy) -> None:
        assert contents(chosen([], [], strategy=strategy)) == [[], []]


class TestDomain:
    def test_top_share_is_like_the_reference(self) -> None:
        sources = [texts(*about("cooking", 20), *about("sailing", 10)), texts(*about("music", 20))]
        found = chosen(*sources, reference=texts(*about("sailing", 5, seed=1)), share=0.2)
        assert sorted(contents(found)[0]) == sorted(about("sailing", 10))
        assert contents(found)[1] == []
        assert found.left_out == {"dissimilar": 40}

    def test_its_order_is_a_shuffle(self) -> None:
        several = texts(*about("sailing", 30))
        reference = texts(*about("sailing", 5, seed=1))
        first, again, other = (chosen(several, reference=reference, share=1, seed=seed) for seed in (1, 1, 2))
        assert contents(first) == contents(again)
        assert contents(first) != contents(other)

    def test_share_is_rounded_up(self) -> None:
        found = chosen(texts(*about("music", 3)), reference=texts("music"), share=0.01)
        assert found.left_out == {"dissimilar": 2}

    def test_chinese_is_compared_by_character(self) -> None:
        found = chosen(texts("今天天气很好", "股票市场下跌"), reference=texts("明天天气不好"), share=0.5)
        assert contents(found) == [["今天天气很好"]]

    def test_empty_reference_is_refused(self) -> None:
        sampling = Sampling.model_validate({"strategy": "domain", "reference": [{"type": "library"}]})
        with pytest.raises(Refused) as refused:
            choose([texts("something to compare")], [], sampling)
        assert refused.value.code == "not_enough_data"

    def test_texts_without_a_word_are_refused(self) -> None:
        with pytest.raises(Refused) as refused:
            chosen(texts("... --- ...", "!?"), strategy="diverse")
        assert refused.value.code == "invalid_data"


class TestLimit:
    def test_more_texts_than_are_compared_are_counted(self) -> None:
        many, few = texts(*(f"salt {number}" for number in range(COMPARED))), texts("anchor", "keel")
        found = chosen(many, few, reference=texts("anchor"), share=1)
        assert [len(source) for source in found.sources] == [COMPARED // 2, 2]
        assert found.left_out == {"not_compared": COMPARED // 2}


SCRIPT = """
import json, sys
from shared.contracts.compression import Sampling
from workers.forge.data.choosing import choose
from workers.forge.data.reading import Text
given = json.loads(sys.stdin.read())
sources = [[Text(words, "a", 1) for words in source] for source in given["sources"]]
for strategy in ("random", "diverse", "domain"):
    reference = {"reference": [{"type": "library"}]} if strategy == "domain" else {}
    sampling = Sampling.model_validate({"strategy": strategy, "seed": 5, **reference})
    found = choose(sources, [Text("tide and tempo", "r", 1)] if reference else [], sampling)
    print(json.dumps([[text.content for text in source] for source in found.sources]))
"""


class TestOtherProcess:
    def test_order_depends_on_neither_hash_seed_nor_threads(self) -> None:
        sources = [about("cooking", 40) + about("music", 40), about("sailing", 40)]

        told = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            input=json.dumps({"sources": sources}),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        ours = [
            chosen(*(texts(*source) for source in sources), seed=5, min_characters=16, **options)
            for options in ({}, {"strategy": "diverse"}, {"reference": texts("tide and tempo")})
        ]
        assert [json.loads(line) for line in told.splitlines()] == [contents(each) for each in ours]
