"""An evaluation's data is read and tokenized before any weights are."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TypeVar

from shared.contracts.compression import Sampling
from shared.contracts.evaluation import ChoiceTask, GenerationTask, TextTask
from shared.contracts.forge_orders import Data, EvaluateOrder, SamplingOrder, TaskOrder
from workers.forge.data.samples import NOT_NEEDED, REFUSED_BY_TEMPLATE, take
from workers.forge.data.tasks import Choice, Prompt, read_choices, read_prompts
from workers.forge.data.tokenizing import check_known
from workers.forge.evaluation import choices
from workers.forge.evaluation.subjects import Reader, Role
from workers.forge.evaluation.works import ChoiceLine, ChoiceWork, GenerationWork, PromptLine, TextWork, Work
from workers.forge.refusing import Refused
from workers.forge.telling import Tell

TOO_LONG = "too_long"  #: more tokens than a model's context holds, the answer's included
NO_TOKENS = "no_tokens"  #: a choice of which the tokenizer leaves nothing: it would be certain
Readers = Mapping[Role, Reader]
T = TypeVar("T")
L = TypeVar("L", ChoiceLine, PromptLine)


def prepare(order: EvaluateOrder, readers: Readers, *, tell: Tell) -> list[Work]:
    """Read and tokenize the data of every task.

    Raises:
        Refused: `invalid_data`, `not_enough_data` when a task is left without a sample, `different_tokenizers` when
            texts are to be compared and the models do not have the same tokens.
    """
    works = [_prepared(task, readers, seed=order.seed, tell=tell) for task in order.tasks]
    for work in works:
        if work.skipped:
            told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(work.skipped.items()))
            tell.log(f"{work.task.name}: left out: {told}")
    return works


def _prepared(order: TaskOrder, readers: Readers, *, seed: int, tell: Tell) -> Work:
    match order.task:
        case TextTask() as task:
            return _texts(task, order.data, readers, seed=seed, tell=tell)
        case ChoiceTask() as task:
            return _choices(task, order.data, readers, seed=seed)
        case GenerationTask() as task:
            return _prompts(task, order.data, readers, seed=seed)


def _texts(task: TextTask, data: Sequence[Data], readers: Readers, *, seed: int, tell: Tell) -> TextWork:
    candidate = readers["candidate"]
    for reader in readers.values():
        if reader.tokenizer.get_vocab() != candidate.tokenizer.get_vocab():
            title = f"Task {task.name} compares next tokens: the two models must have the same tokenizer"
            raise Refused("different_tokenizers", title, f"{candidate.name} and {reader.name}")
    sampling = Sampling(samples=1, sequence_length=task.sequence_length, seed=seed, min_characters=1)
    sampling = sampling.model_copy(update={"samples": task.samples})  # a calibration may not have so many
    samples = take(SamplingOrder(data=list(data), sampling=sampling), candidate.tokenizer, tell=tell)
    check_known(int(samples.input_ids_NL.max()), min(reader.vocabulary for reader in readers.values()))
    skipped = {reason: count for reason, count in samples.facts.left_out.items() if reason != NOT_NEEDED}
    return TextWork(task, samples.input_ids_NL, _digest(data), skipped)


def _choices(task: ChoiceTask, data: Sequence[Data], readers: Readers, *, seed: int) -> ChoiceWork:
    def line_of(choice: Choice) -> ChoiceLine | str:
        requests = {role: choices.requests_of(reader, choice) for role, reader in readers.items()}
        if any(len(ids) == start for those in requests.values() for ids, start in those):
            return NO_TOKENS
        fits = all(readers[role].holds(len(ids)) for role, those in requests.items() for ids, _ in those)
        return ChoiceLine(choice, requests) if fits else TOO_LONG

    lines, skipped = _kept(_some(read_choices(data), task.samples, seed=seed), line_of, task.name)
    return ChoiceWork(task, lines, _digest(data), skipped)


def _prompts(task: GenerationTask, data: Sequence[Data], readers: Readers, *, seed: int) -> GenerationWork:
    def line_of(prompt: Prompt) -> PromptLine | str:
        ids: dict[Role, list[int]] = {}
        for role, reader in readers.items():
            asked = reader.asks(prompt)
            if asked is None:
                return REFUSED_BY_TEMPLATE
            if not reader.holds(len(asked) + task.max_tokens):
                return TOO_LONG
            ids[role] = asked
        return PromptLine(prompt, ids)

    lines, skipped = _kept(_some(read_prompts(data), task.samples, seed=seed), line_of, task.name)
    return GenerationWork(task, lines, _digest(data), skipped)


def _some(lines: list[T], count: int, *, seed: int) -> list[T]:
    """At most `count` lines, at random, in the file's order."""
    if len(lines) <= count:
        return lines
    return [lines[index] for index in sorted(random.Random(seed).sample(range(len(lines)), count))]


def _kept(lines: Sequence[T], line_of: Callable[[T], L | str], name: str) -> tuple[list[L], dict[str, int]]:
    """Lines that can be used, and how many cannot, by reason.

    Raises:
        Refused: `not_enough_data`, when there is none.
    """
    kept: list[L] = []
    skipped: Counter[str] = Counter()
    for line in lines:
        made = line_of(line)
        if isinstance(made, str):
            skipped[made] += 1
        else:
            kept.append(made)
    if not kept:
        told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
        raise Refused("not_enough_data", f"Task {name} has no sample that a model can be sent", told)
    return kept, dict(skipped)


def _digest(data: Sequence[Data]) -> str:
    """SHA-256 of the files' bytes, one after the other: of one file, its own."""
    digest = sha256()
    for one in data:
        with one.path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
