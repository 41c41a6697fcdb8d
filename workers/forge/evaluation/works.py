"""An evaluation's tasks, ready to run: model by model, then told as a result and as rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.contracts.evaluation import ChoiceTask, GenerationTask, TaskResult, TextTask
from workers.forge.data.tasks import Choice, Prompt
from workers.forge.evaluation import choices, generation, texts
from workers.forge.evaluation.answers import is_exact, judged
from workers.forge.evaluation.subjects import Role, Runner
from workers.forge.evaluation.tokens import Done

Row = dict[str, Any]


@dataclass
class TextWork:
    """Packed sequences, which both models see together."""

    task: TextTask
    ids_SL: NDArray[np.int32]  # noqa: N815 - a tensor's name
    digest: str
    skipped: dict[str, int]
    found: list[texts.Found] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return len(self.ids_SL)

    def run(self, candidate: Runner, baseline: Runner | None, *, done: Done) -> None:
        """Send every sequence through the candidate, and through the baseline where there is one."""
        self.found = texts.measure(self.ids_SL, candidate=candidate, baseline=baseline, done=done)

    def result(self) -> TaskResult:
        candidate, baseline = texts.metrics(self.found)
        tokens = sum(found.tokens for found in self.found)
        return _result(self, tokens, candidate=candidate, baseline=baseline)

    def rows(self) -> Iterator[Row]:
        for index, found in enumerate(self.found):
            row: Row = {"index": index, "tokens": found.tokens, "candidate": {"nll": found.nll}, "baseline": None}
            if found.kl is not None and found.agreed is not None:
                row["candidate"] |= {"kl_divergence": found.kl / found.tokens, "agreement": found.agreed / found.tokens}
                row["baseline"] = {"nll": found.baseline_nll}
            yield row


class ChoiceLine(NamedTuple):
    """A line, and the requests that each model is sent for it."""

    choice: Choice
    requests: dict[Role, list[choices.Request]]

    def judge(self, values: Sequence[float]) -> Row:
        """A model's log-likelihoods of the choices, what it chooses, and whether that is right."""
        plain = int(np.argmax(values))
        lengths = [len(text) for text in self.choice.choices]
        normalized = int(np.argmax([value / length for value, length in zip(values, lengths, strict=True)]))
        return {
            "log_likelihoods": list(values),
            "prediction": plain,
            "right": plain == self.choice.answer,
            "prediction_normalized": normalized,
            "right_normalized": normalized == self.choice.answer,
        }


@dataclass
class ChoiceWork:
    """Choices, of which a model finds one the likeliest."""

    task: ChoiceTask
    lines: list[ChoiceLine]
    digest: str
    skipped: dict[str, int]
    found: dict[Role, list[Row]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return sum(len(line.choice.choices) for line in self.lines)

    def run(self, role: Role, runner: Runner, *, done: Done) -> None:
        requests = [request for line in self.lines for request in line.requests[role]]
        values = iter(choices.log_likelihoods(requests, runner, done=done))
        self.found[role] = [line.judge([next(values) for _ in line.choice.choices]) for line in self.lines]

    def result(self) -> TaskResult:
        metrics = {
            role: {
                "accuracy": sum(row["right"] for row in rows) / len(rows),
                "accuracy_normalized": sum(row["right_normalized"] for row in rows) / len(rows),
            }
            for role, rows in self.found.items()
        }
        tokens = sum(len(ids) - start for line in self.lines for ids, start in line.requests["candidate"])
        return _result(self, tokens, candidate=metrics["candidate"], baseline=metrics.get("baseline"))

    def rows(self) -> Iterator[Row]:
        for index, (choice, _) in enumerate(self.lines):
            known = {"index": index, "source": choice.source, "line": choice.line, "answer": choice.answer}
            yield known | _of_each(self.found, index)


class PromptLine(NamedTuple):
    """A line, and what each model is asked."""

    prompt: Prompt
    ids: dict[Role, list[int]]


@dataclass
class GenerationWork:
    """Prompts, which a model answers."""

    task: GenerationTask
    lines: list[PromptLine]
    digest: str
    skipped: dict[str, int]
    found: dict[Role, list[Row]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return len(self.lines)

    def run(self, role: Role, runner: Runner, *, done: Done) -> None:
        prompts = [line.ids[role] for line in self.lines]
        ids = generation.answers(prompts, runner, max_tokens=self.task.max_tokens, done=done)
        self.found[role] = [
            {"prediction": text, "tokens": len(each), "right": is_exact(text, line.prompt.answers)}
            for line, each in zip(self.lines, ids, strict=True)
            for text in (runner.reader.decode(each),)
        ]

    def result(self) -> TaskResult:
        answers = [line.prompt.answers for line in self.lines]
        judgements = {
            role: judged([row["prediction"] for row in rows], answers, self.task.metrics)
            for role, rows in self.found.items()
        }
        candidate, baseline = judgements["candidate"], judgements.get("baseline")
        tokens = sum(row["tokens"] for row in self.found["candidate"])
        result = _result(self, tokens, candidate=candidate.metrics, baseline=baseline and baseline.metrics)
        return result.model_copy(update={"signature": candidate.signature})

    def rows(self) -> Iterator[Row]:
        for index, (prompt, _) in enumerate(self.lines):
            known = {"index": index, "source": prompt.source, "line": prompt.line, "answers": list(prompt.answers)}
            yield known | _of_each(self.found, index)


Work = TextWork | ChoiceWork | GenerationWork


def _result(work: Work, tokens: int, *, candidate: dict[str, float], baseline: dict[str, float] | None) -> TaskResult:
    samples = len(work.ids_SL) if isinstance(work, TextWork) else len(work.lines)
    return TaskResult(
        name=work.task.name,
        type=work.task.type,
        samples=samples,
        tokens=tokens,
        sha256=work.digest,
        candidate=candidate,
        baseline=baseline,
        skipped=work.skipped,
    )


def _of_each(found: Mapping[Role, Sequence[Row]], index: int) -> Row:
    return {role: found[role][index] if role in found else None for role in ("candidate", "baseline")}
