"""Whole evaluations of tiny models, in this process and once in one of its own."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.contracts.evaluation import ChoiceTask, GenerationTask, TextTask
from shared.contracts.forge import MESSAGE, DoneMessage, ForgeSpec, Message, ProgressMessage
from shared.contracts.forge_orders import EvaluateOrder, EvaluationResult, Subject, TaskOrder
from tests.workers.forge.evaluation.models import lines
from workers.forge.evaluation.evaluating import check, evaluate
from workers.forge.refusing import Refused
from workers.forge.telling import Tell

CHOICE = {"prompt": "The list is", "choices": ["empty", "full of items"], "answer": 1}
MESSAGES = [{"role": "user", "content": "What is zlib?"}]


def order_of(folders: dict[str, Path], root: Path, *, candidate: str = "near", baseline: str | None = "base") -> Any:
    root.mkdir(exist_ok=True)
    texts = lines(root / "t.jsonl", *({"text": f"def f{index}(self): return {index} + self.x"} for index in range(40)))
    choices = lines(root / "c.jsonl", CHOICE, CHOICE | {"prompt": "word " * 200}, CHOICE | {"answer": 0})
    prompts = lines(root / "g.jsonl", {"prompt": "def", "answer": "x"}, {"messages": MESSAGES, "answers": ["y", "z"]})
    return EvaluateOrder(
        candidate=Subject(folder=folders[candidate], name=candidate),
        baseline=Subject(folder=folders[baseline], name=baseline) if baseline else None,
        tasks=[
            TaskOrder(task=TextTask(type="text", samples=8, sequence_length=32), data=[texts]),
            TaskOrder(task=ChoiceTask(type="choice", file_id="c"), data=[choices]),
            TaskOrder(task=GenerationTask(type="generation", file_id="g", max_tokens=5), data=[prompts]),
        ],
    )


def timeless(result: EvaluationResult) -> Any:
    """What must be the same each time."""
    found = result.model_dump()
    for model in (found["figures"]["candidate"], found["figures"]["baseline"]):
        if model:
            del model["load_s"], model["peak_memory_bytes"]
    del found["figures"]["seconds"]
    return found


@pytest.fixture(scope="module")
def said() -> list[Message]:
    return []


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def result(folders: dict[str, Path], root: Path, said: list[Message]) -> EvaluationResult:
    return evaluate(order_of(folders, root), root, tell=Tell(said.append))


class TestBeside:
    def test_every_task_has_its_metrics_for_both(self, result: EvaluationResult) -> None:
        text, choice, generation = result.figures.tasks
        assert (text.samples, text.tokens) == (8, 8 * 31)
        assert text.candidate.keys() == {"perplexity", "ppl_increase", "kl_divergence", "agreement"}
        assert text.baseline is not None
        assert text.baseline.keys() == {"perplexity"}
        assert (choice.samples, choice.skipped) == (2, {"too_long": 1})
        assert choice.candidate.keys() == {"accuracy", "accuracy_normalized"}
        assert choice.baseline is not None
        assert choice.baseline["accuracy"] == 0.5  # one choice, right once
        assert generation.candidate.keys() == {"exact_match", "bleu", "chrf", "rouge1", "rouge2", "rougeL"}
        assert generation.tokens <= 10
        assert generation.signature is not None
        assert "nrefs:var" in generation.signature

    def test_both_models_have_figures(self, result: EvaluationResult, folders: dict[str, Path]) -> None:
        candidate, baseline = result.figures.candidate, result.figures.baseline
        assert baseline is not None
        assert (candidate.name, baseline.name) == ("near", "base")
        assert candidate.weight_bytes == (folders["near"] / "model.safetensors").stat().st_size < candidate.bytes
        assert candidate.parameters == baseline.parameters == 598_336
        assert candidate.load_s > 0
        assert candidate.peak_memory_bytes > 0

    def test_every_sample_has_a_row(self, result: EvaluationResult, root: Path) -> None:
        assert result.rows is not None
        rows = [json.loads(line) for line in (root / result.rows).read_text().splitlines()]
        assert [row["task"] for row in rows] == ["text"] * 8 + ["choice"] * 2 + ["generation"] * 2
        assert sum(row["candidate"]["kl_divergence"] for row in rows[:8]) / 8 == pytest.approx(
            result.figures.tasks[0].candidate["kl_divergence"]
        )
        nll = sum(row["candidate"]["nll"] for row in rows[:8])
        assert math.exp(nll / (8 * 31)) == pytest.approx(result.figures.tasks[0].candidate["perplexity"])
        assert [(row["line"], row["answer"]) for row in rows[8:10]] == [(1, 1), (3, 0)]
        assert rows[8]["candidate"]["log_likelihoods"] == pytest.approx(rows[9]["candidate"]["log_likelihoods"])
        assert [row["answers"] for row in rows[10:]] == [["x"], ["y", "z"]]
        assert isinstance(rows[10]["baseline"]["prediction"], str)

    def test_charts_are_pictures(self, result: EvaluationResult, root: Path) -> None:
        assert result.charts == [f"evaluation/{name}.png" for name in ("size", "perplexity", "kl-divergence", "tasks")]
        for name in result.charts:
            with Image.open(root / name) as picture:
                assert picture.width == 960
                assert len(picture.getcolors(maxcolors=2**16) or ()) > 10  # something is drawn

    def test_progress_is_of_every_sample_of_each_model(self, result: EvaluationResult, said: list[Message]) -> None:
        told = [each for each in said if isinstance(each, ProgressMessage)]
        total = 2 * (8 + 2 * 2 + 2)
        assert {(each.total, each.unit) for each in told} == {(total, "samples")}
        done = [each.done for each in told]
        assert (done[0], done[-1], done) == (0, total, sorted(done))

    def test_it_is_the_same_each_time(
        self, result: EvaluationResult, folders: dict[str, Path], root: Path, tmp_path: Path
    ) -> None:
        again = evaluate(order_of(folders, tmp_path), tmp_path, tell=Tell(lambda _: None))
        assert timeless(again) == timeless(result)
        assert (tmp_path / "evaluation/rows.jsonl").read_bytes() == (root / "evaluation/rows.jsonl").read_bytes()


class TestAlone:
    def test_without_a_baseline(self, folders: dict[str, Path], tmp_path: Path) -> None:
        order = order_of(folders, tmp_path, candidate="w8a8", baseline=None)
        found = evaluate(order, tmp_path, tell=Tell(lambda _: None))
        assert found.figures.baseline is None
        assert [task.baseline for task in found.figures.tasks] == [None] * 3
        assert found.figures.tasks[0].candidate.keys() == {"perplexity"}
        assert "evaluation/kl-divergence.png" not in found.charts


class TestCheck:
    """Before a quantization, when there is no candidate yet."""

    def test_good_data(self, folders: dict[str, Path], tmp_path: Path) -> None:
        order = order_of(folders | {"made": tmp_path / "missing"}, tmp_path, candidate="made")
        check(order)

    def test_bad_data(self, folders: dict[str, Path], tmp_path: Path) -> None:
        order = order_of(folders | {"made": tmp_path / "missing"}, tmp_path, candidate="made")
        (tmp_path / "c.jsonl").write_text('{"prompt": "no choices"}\n')
        with pytest.raises(Refused, match="line 1") as refused:
            check(order)
        assert refused.value.code == "invalid_data"


@pytest.mark.slow  # an interpreter with torch
class TestProcess:
    def test_it_writes_messages_and_files(
        self, result: EvaluationResult, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        spec = ForgeSpec(
            spec=order_of(folders, tmp_path).model_dump(mode="json"),
            inputs=tmp_path,
            out=out,
            fingerprint="f",
            parent_pid=os.getpid(),
        )
        (tmp_path / "spec.json").write_text(spec.model_dump_json())
        argv = [sys.executable, "-I", "-m", "workers.forge.evaluate", str(tmp_path / "spec.json")]
        with (
            (tmp_path / "log").open("wb") as log,
            # Its stdin is its worker's life, and its end the end of its group.
            subprocess.Popen(
                argv,
                cwd=tmp_path,
                env={},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            ) as forge,
        ):
            assert forge.stdout is not None
            messages = [MESSAGE.validate_json(line) for line in forge.stdout]
            assert forge.wait() == 0, (tmp_path / "log").read_text()
        done = messages[-1]
        assert isinstance(done, DoneMessage)
        found = EvaluationResult.model_validate(done.result)
        assert timeless(found) == timeless(result)
        assert [name for name in (*found.charts, found.rows) if name and not (out / name).is_file()] == []
