import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, PreTrainedTokenizerFast

from shared.contracts.evaluation import ChoiceTask, GenerationTask, Task, TextTask
from shared.contracts.forge import LogMessage, Message
from shared.contracts.forge_orders import Data, EvaluateOrder, Subject, TaskOrder
from tests.workers.forge.evaluation.models import CONTEXT, SHAPE, lines
from workers.forge.evaluation.preparing import prepare
from workers.forge.evaluation.subjects import Reader, Role
from workers.forge.evaluation.works import ChoiceWork, Work
from workers.forge.refusing import Refused
from workers.forge.telling import Tell

LONG = "word " * (2 * CONTEXT)


def other_tokens(folder: Path) -> Path:
    """A model's folder with a tokenizer of three words; its weights are never read."""
    LlamaConfig(vocab_size=3).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="c"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="c").save_pretrained(folder)
    (folder / "model.safetensors").touch()
    return folder


def prepared(task: Task, data: Data, *folders: Path, said: list[Message] | None = None, seed: int = 0) -> Work:
    roles: tuple[Role, ...] = ("candidate", "baseline")
    subjects = {role: Subject(folder=folder, name=role) for role, folder in zip(roles, folders, strict=False)}
    order = EvaluateOrder(
        candidate=subjects["candidate"],
        baseline=subjects.get("baseline"),
        tasks=[TaskOrder(task=task, data=[data])],
        seed=seed,
    )
    readers: dict[Role, Reader] = {role: Reader.of(subject) for role, subject in subjects.items()}
    (work,) = prepare(order, readers, tell=Tell((said if said is not None else []).append))
    return work


def text_task(**fields: Any) -> TextTask:
    return TextTask(type="text", **({"sequence_length": 16} | fields))


def choice_task(**fields: Any) -> ChoiceTask:
    return ChoiceTask(type="choice", file_id="f", **fields)


def generation_task(**fields: Any) -> GenerationTask:
    return GenerationTask(type="generation", file_id="f", **fields)


class TestTexts:
    def test_texts_are_packed(self, folders: dict[str, Path], tmp_path: Path) -> None:
        data = lines(tmp_path / "t.jsonl", *({"text": f"line {index} of a text"} for index in range(40)))
        work = prepared(text_task(samples=6), data, folders["base"])
        assert work.samples == 6
        assert work.digest == sha256(data.path.read_bytes()).hexdigest()

    def test_more_samples_than_a_calibration_has(self, folders: dict[str, Path], tmp_path: Path) -> None:
        data = lines(tmp_path / "t.jsonl", {"text": LONG})
        assert prepared(text_task(samples=10_000), data, folders["base"]).samples > 10

    def test_an_empty_file(self, folders: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(Refused) as refused:
            prepared(text_task(), lines(tmp_path / "t.jsonl"), folders["base"])
        assert refused.value.code == "not_enough_data"

    def test_models_of_other_tokens_are_not_comparable(self, folders: dict[str, Path], tmp_path: Path) -> None:
        data = lines(tmp_path / "t.jsonl", {"text": LONG})
        with pytest.raises(Refused, match="same tokenizer") as refused:
            prepared(text_task(), data, folders["base"], other_tokens(tmp_path / "other"))
        assert refused.value.code == "different_tokenizers"

    def test_a_token_that_a_model_has_no_row_for(self, folders: dict[str, Path], tmp_path: Path) -> None:
        small = tmp_path / "small"
        shutil.copytree(folders["base"], small)
        LlamaConfig(**(SHAPE | {"vocab_size": 40})).save_pretrained(small)
        data = lines(tmp_path / "t.jsonl", {"text": LONG, "prompt": "One or", "choices": ["two", "three"], "answer": 0})
        for task in (text_task(), choice_task()):
            with pytest.raises(Refused, match="vocabulary has 40") as refused:
                prepared(task, data, folders["base"], small)
            assert refused.value.code == "unsupported_model"


class TestChoices:
    def test_a_choice_of_which_no_token_is_left(self, folders: dict[str, Path], tmp_path: Path) -> None:
        """Its likelihood would be that of nothing: certain."""
        silent = tmp_path / "silent"
        shutil.copytree(folders["base"], silent)
        tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="c"))
        tokenizer.pre_tokenizer = Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="c").save_pretrained(silent)
        good = {"prompt": "a", "choices": ["b", "c"], "answer": 0}
        data = lines(tmp_path / "c.jsonl", good, good | {"choices": ["b", "\u2003"]})
        work = prepared(choice_task(), data, silent)
        assert (work.samples, work.skipped) == (2, {"no_tokens": 1})

    def test_what_is_too_long_is_counted(self, folders: dict[str, Path], tmp_path: Path) -> None:
        good = {"prompt": "One or", "choices": ["two", "three"], "answer": 0}
        data = lines(tmp_path / "c.jsonl", good, good | {"choices": ["two", LONG]}, good | {"prompt": LONG})
        said: list[Message] = []
        work = prepared(choice_task(), data, folders["base"], said=said)
        assert (work.samples, work.skipped) == (2, {"too_long": 2})
        assert [message.message for message in said if isinstance(message, LogMessage)] == [
            "choice: left out: 2 too_long"
        ]

    def test_nothing_that_fits(self, folders: dict[str, Path], tmp_path: Path) -> None:
        data = lines(tmp_path / "c.jsonl", {"prompt": LONG, "choices": ["two", "three"], "answer": 0})
        with pytest.raises(Refused, match="1 too_long") as refused:
            prepared(choice_task(), data, folders["base"])
        assert refused.value.code == "not_enough_data"

    def test_models_of_other_tokens_are_asked_in_their_own(self, folders: dict[str, Path], tmp_path: Path) -> None:
        data = lines(tmp_path / "c.jsonl", {"prompt": "a", "choices": ["b", "b"], "answer": 0})
        work = prepared(choice_task(), data, folders["base"], other_tokens(tmp_path / "other"))
        assert isinstance(work, ChoiceWork)
        requests = work.lines[0].requests
        assert requests["candidate"][0].ids != requests["baseline"][0].ids

    def test_fewer_samples_than_lines_are_drawn_in_order(self, folders: dict[str, Path], tmp_path: Path) -> None:
        one = {"prompt": "p", "choices": ["a", "b"], "answer": 0}
        data = lines(tmp_path / "c.jsonl", *[one] * 20)

        def drawn(seed: int) -> list[int]:
            work = prepared(choice_task(samples=5), data, folders["base"], seed=seed)
            assert isinstance(work, ChoiceWork)
            return [line.choice.line for line in work.lines]

        assert drawn(0) == drawn(0) == sorted(drawn(0))
        assert drawn(0) != drawn(1)


class TestPrompts:
    def test_the_answer_needs_room_too(self, folders: dict[str, Path], tmp_path: Path) -> None:
        data = lines(tmp_path / "g.jsonl", {"prompt": "Count to three", "answer": "1 2 3"})
        fitting = CONTEXT - len(Reader.of(Subject(folder=folders["base"], name="b")).encode("Count to three"))
        assert prepared(generation_task(max_tokens=fitting), data, folders["base"]).skipped == {}
        with pytest.raises(Refused, match="1 too_long"):
            prepared(generation_task(max_tokens=fitting + 1), data, folders["base"])
