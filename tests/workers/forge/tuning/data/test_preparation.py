import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.workers.forge.tuning.data.conftest import Load, Write, chat
from workers.forge.refusing import Refused
from workers.forge.tuning.examples import Chat, Completion, Example, Message
from workers.forge.tuning.filtering import poor, split
from workers.forge.tuning.resembling import resembling

WORDS = [f"word{number}" for number in range(2000)]


def texts(*contents: str) -> list[Example]:
    return [Example(content, "a", line) for line, content in enumerate(contents, 1)]


def prose(count: int, *, seed: int = 0) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


class TestDuplicates:
    def test_case_and_white_space_do_not_tell_lines_apart(self, write: Write, loaded: Load) -> None:
        lines = [{"text": "The  hero"}, {"text": "the hero\n"}, {"text": "a hero"}]
        assert loaded(write(lines), preparation={}).facts.left_out == {"duplicate": 1}
        assert loaded(write(lines)).facts.kept == 3
        assert loaded(write(lines), preparation={"deduplicate": False}).facts.kept == 3

    def test_who_says_it_does(self, write: Write, loaded: Load) -> None:
        weighted = chat("a", "b", "c", "d")
        weighted["messages"][1]["weight"] = 0
        lines: list[Any] = [
            {"text": "ab"},
            {"prompt": "a", "completion": "b"},
            chat("a", "b", "c", "d"),
            weighted,
            chat("a", "b", "c", "d", system=" "),
        ]
        assert loaded(write(lines), preparation={}).facts.kept == 5

    def test_validation_data_is_not_learned(self, write: Write, loaded: Load) -> None:
        held = write([{"text": "THE HERO"}], name="held")
        facts = loaded(write([{"text": "the hero"}, {"text": "a hero"}]), validation=[held], preparation={}).facts
        assert (facts.read, facts.kept, facts.validation, facts.left_out) == (3, 1, 1, {"in_validation": 1})


class TestNearDuplicates:
    @pytest.mark.parametrize(("changed", "alike"), [(2, {1}), (40, set())])
    def test_the_first_of_those_that_are_alike_stays(self, changed: int, alike: set[int]) -> None:
        """Of 200 words, of which `changed` are others, 3 × `changed` runs of three are, on either side."""
        words = prose(200)
        other = list(words)
        for at in random.Random(1).sample(range(200), changed):
            other[at] = "another"
        contents = [" ".join(words), " ".join(other).upper(), *(" ".join(prose(200, seed=at)) for at in range(2, 40))]
        assert resembling(contents, threshold=0.8, seed=0) == alike

    def test_nearly_all_pairs_are_found(self) -> None:
        """0.94 alike, of 0.8 that is asked for."""
        contents = [" ".join(prose(200, seed=at)) for at in range(150)]
        changed = [f"{content} and the end is another one".replace("word7 ", "") for content in contents]
        assert resembling(contents + changed, threshold=0.8, seed=0) == set(range(150, 300))

    def test_texts_without_words_are_alike_to_nothing(self) -> None:
        assert resembling(["?!", "...", "", "one word", "one  word"], threshold=1.0, seed=0) == {4}

    def test_one_long_prompt_does_not_make_chats_alike(self) -> None:
        """They share a band in 3 of 7 cases, and most of their words."""
        prompt = " ".join(prose(100))
        contents = [f"{prompt} {' '.join(prose(40, seed=at))}" for at in range(1, 200)]
        assert resembling(contents, threshold=0.8, seed=0) == set()

    def test_they_are_counted(self, write: Write, loaded: Load) -> None:
        story = " ".join(prose(100))
        lines = [{"text": story}, {"text": f"{story} end"}, {"text": " ".join(prose(100, seed=1))}]
        facts = loaded(write(lines), preparation={"near_duplicates": 0.8}).facts
        assert (facts.kept, facts.left_out) == (2, {"near_duplicate": 1})


class TestQuality:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("Paris is the capital of France.", None),
            ("def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n", None),
            ('{"name": "Ada", "born": 1815, "tags": ["maths", "engines"]}', None),
            ("| name | born |\n|---|---|\n| Ada | 1815 |\n| Alan | 1912 |\n| Grace | 1906 |", None),
            ("巴黎是法国的首都。", None),
            ("पेरिस फ्रांस की राजधानी है।", None),
            ("4", None),
            ("caf\ufffd au lait", "broken_encoding"),
            ("a bell \x07 rings", "broken_encoding"),
            ("$$$ %%% &&& ### *** !!!", "symbols"),
            ("Click here now.\n" * 6 + "The story begins.", "repeated_lines"),
            ("buy it now and " * 30, "repeated_words"),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 4, "repeated_words"),
        ],
    )
    def test_what_is_hardly_text_is_named(self, text: str, reason: str | None) -> None:
        assert poor(text) == reason

    def test_it_is_asked_for(self, write: Write, loaded: Load) -> None:
        lines = [{"text": "$$$ %%% &&& ### *** !!!"}, {"text": "a story"}]
        assert loaded(write(lines), preparation={}).facts.kept == 2
        assert loaded(write(lines), preparation={"quality": True}).facts.left_out == {"symbols": 1}


class TestLengthAndDomain:
    def test_characters_are_counted_without_outer_white_space(self, write: Write, loaded: Load) -> None:
        lines = [{"text": "  ab  "}, {"text": "abc"}, {"text": "abcd"}]
        facts = loaded(write(lines), preparation={"min_characters": 3, "max_characters": 3}).facts
        assert (facts.kept, facts.left_out) == (1, {"too_short": 1, "too_many_characters": 1})

    def test_the_share_that_is_like_the_reference_stays(self, write: Write, loaded: Load, tokenizer) -> None:
        kinds = {"sea": "mast anchor keel rudder tide", "kitchen": "salt onion flour oven stew"}
        draw = random.Random(0)
        lines = [
            {"prompt": kind, "completion": " " + " ".join(draw.choices(words.split(), k=12))}
            for _ in range(20)
            for kind, words in kinds.items()
        ]
        reference = write([{"text": "onion and salt in the oven"}], name="reference")
        data = loaded(
            write(lines),
            preparation={"reference": [{"type": "library"}], "share": 0.5, "deduplicate": False},
            reference=[reference],
        )
        assert data.facts.left_out == {"dissimilar": 20}
        assert all(tokenizer.decode(row.ids_T).startswith("kitchen") for row in data.train)


class TestAnotherProcess:
    PROGRAM = """if True:
        import random
        from shared.contracts.tuning import Preparation
        from workers.forge.tuning.examples import Example
        from workers.forge.tuning.filtering import prepare, split
        class Silent:
            def log(self, message): pass
        stories = [" ".join(random.Random(seed % 30).choices("abcdefgh", k=40)) for seed in range(90)]
        given = [Example(f"{story} {line // 60}", "a", line) for line, story in enumerate(stories)]
        kept = prepare(given, Preparation(near_duplicates=0.9), seed=0, tell=Silent()).kept
        found = [[each.line for each in part] for part in split(kept, 0.3, seed=0)]
    """

    def test_it_leaves_the_same(self) -> None:
        """Python's own hash of a text differs from process to process."""
        here: dict[str, Any] = {}
        exec(self.PROGRAM, here)
        there = subprocess.run(
            [sys.executable, "-c", f"{self.PROGRAM}    print(found)"],
            cwd=Path(__file__).parents[5],
            env={**os.environ, "PYTHONHASHSEED": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(there.stdout) == here["found"]
        assert [len(part) for part in here["found"]] == [21, 9]


class TestSplit:
    def test_duplicates_are_on_one_side(self) -> None:
        examples = texts(*(f"Story {number % 40}" for number in range(100)))
        train, validation = split(examples, 0.2, seed=0)
        assert len(train) + len(validation) == 100
        assert 20 <= len(validation) <= 22
        assert not {example.content for example in train} & {example.content for example in validation}

    def test_the_seed_and_not_the_order_decides(self) -> None:
        examples = texts(*(f"story {number}" for number in range(100)))
        held = [{each.line for each in split(given, 0.1, seed=0)[1]} for given in (examples, examples[::-1])]
        assert held[0] == held[1]
        assert held[0] != {each.line for each in split(examples, 0.1, seed=1)[1]}

    def test_either_side_has_some(self) -> None:
        train, validation = split(texts("a", "b"), 0.01, seed=0)
        assert (len(train), len(validation)) == (1, 1)
        with pytest.raises(Refused, match="2 samples, 1 different"):
            split(texts("a", "A"), 0.5, seed=0)


def test_parts_tell_every_line_from_every_other() -> None:
    message = Message("assistant", "a")
    contents: list[Any] = [
        "a",
        Completion("", "a"),
        Completion("a", "a"),
        Chat((message,)),
        Chat((message, message), asked=1),
        Chat((message, message)),
        Chat((Message("assistant", "a", 0),)),
        Chat((Message("assistant", "a", 1, {"name": "bo"}),)),
        Chat((message,), tools=({"type": "function"},)),
    ]
    counts = Counter(tuple(Example(content, "a", 1).parts) for content in contents)
    assert max(counts.values()) == 1
