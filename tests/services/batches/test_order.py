"""The order of a batch's lines: shared beginnings together, equal ones side by side, the longest first."""

import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from services.batches.order import Index, ordered

RULES = ["You answer in French. " * 20, "You answer in rhyme. " * 20, "You answer in French. " * 20 + "Be brief. " * 30]


def made(system: str | None, question: str, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return {"model": "tiny", "messages": turns, **more}


def indexed(bodies: Iterable[dict[str, Any]]) -> Index:
    index = Index()
    for body in bodies:
        index.add(body, offset=0, size=1, model=0)
    return index


def numbers(bodies: list[dict[str, Any]]) -> list[int]:
    return list(ordered(indexed(bodies), range(len(bodies))))


class TestOrder:
    def test_lines_of_one_beginning_are_neighbours(self) -> None:
        dice = random.Random(1)
        groups = [dice.randrange(3) for _ in range(300)]
        asked = [f"What is {dice.random()}?" * dice.randint(1, 9) for _ in groups]
        lines = [made(RULES[group], asked[n]) for n, group in enumerate(groups)]
        met = [groups[n] for n in numbers(lines)]
        changes = sum(one != other for one, other in pairwise(met))
        assert changes == 2

    def test_a_longer_beginning_stays_inside_its_shorter_one(self) -> None:
        groups = [n % 3 for n in range(90)]
        met = [groups[n] for n in numbers([made(RULES[group], f"{n}?") for n, group in enumerate(groups)])]
        runs = [group for at, group in enumerate(met) if at == 0 or met[at - 1] != group]
        assert len(runs) == 3
        assert abs(runs.index(0) - runs.index(2)) == 1

    def test_equal_lines_are_neighbours(self) -> None:
        lines = [made(None, f"Question {n % 7}", seed=1) for n in range(70)]
        met = [n % 7 for n in numbers(lines)]
        assert sum(one != other for one, other in pairwise(met)) == 6

    def test_the_same_body_in_another_spelling_is_equal(self) -> None:
        found = indexed([{"model": "m", "prompt": "a", "seed": 1}, {"seed": 1, "prompt": "a", "model": "m"}])
        assert found.digests[0] == found.digests[1]

    def test_without_anything_shared_the_longest_goes_first(self) -> None:
        dice = random.Random(2)
        lines = [made(None, "".join(dice.choices("abcdefgh ", k=dice.randint(100, 3000)))) for _ in range(100)]
        found = indexed(lines)
        tokens = [found.tokens[number] for number in ordered(found, range(100))]
        assert tokens == sorted(tokens, reverse=True)

    def test_what_is_to_be_written_counts_too(self) -> None:
        lines = [
            made(None, "short"),
            made(None, "short", max_tokens=4000),
            made(None, "x" * 4000, max_tokens=1),
        ]
        assert numbers(lines) == [1, 2, 0]

    def test_it_hangs_on_nothing_else(self) -> None:
        lines = [made(RULES[n % 3], f"{n % 20}?") for n in range(60)]
        shuffled = random.Random(3).sample(range(60), 60)
        assert list(ordered(indexed(lines), shuffled)) == numbers(lines)
