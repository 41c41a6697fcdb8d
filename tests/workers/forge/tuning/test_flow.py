"""When a run is looked at, saved and ended."""

import errno
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig

from shared.contracts.forge import CheckpointMessage, LogMessage, MetricMessage, ProgressMessage, SettingMessage
from shared.contracts.forge_orders import Data
from shared.contracts.tuning import Setting
from tests.workers.forge.quantization.models import SHAPE, saved
from tests.workers.forge.tuning.given import Heard, Tuned, chats, order, run, same, weights
from workers.forge.refusing import Refused
from workers.forge.tuning import state


class TestMessages:
    def test_a_run_says_what_it_does(self, tiny: Path, examples: Data, tmp_path: Path) -> None:
        tuned = run(order(tiny, examples, training={"log_every": 3, "steps": 4}), tmp_path / "out")
        told = tuned.heard.messages
        (setting,) = [message.setting for message in told if isinstance(message, SettingMessage)]
        assert Setting.model_validate(setting) == tuned.result.figures.setting
        assert [(each.step, set(each.metrics)) for each in told if isinstance(each, CheckpointMessage)] == [
            (4, {"loss", "learning_rate", "grad_norm", "tokens_per_second", "token_accuracy", "epoch", "memory_bytes",
                 "tokens"}),
        ]  # fmt: skip
        assert [each.step for each in told if isinstance(each, MetricMessage)] == [3, 4]
        progress = [
            (each.done, each.total) for each in told if isinstance(each, ProgressMessage) if each.unit == "steps"
        ]
        assert (progress[0], progress[-1]) == ((0, 4), (4, 4))
        first = told.index(next(each for each in told if isinstance(each, MetricMessage)))
        assert any(isinstance(each, SettingMessage) for each in told[:first])

    def test_auto_makes_a_batch_of_little_data(self, tiny: Path, examples: Data, tmp_path: Path) -> None:
        training = {"batch_size": "auto", "micro_batch_size": "auto", "epochs": 1.5}
        setting = run(order(tiny, examples, training=training), tmp_path / "out").result.figures.setting
        assert (setting.batch_size, setting.micro_batch_size, setting.accumulation) == (2, 2, 1)
        assert not setting.gradient_checkpointing


class TestSaving:
    def test_by_steps_and_by_minutes(self, tiny: Path, examples: Data, tmp_path: Path) -> None:
        by_steps = run(order(tiny, examples, checkpoints={"every_steps": 4}), tmp_path / "steps")
        assert list(by_steps.checkpoints) == [4, 6]
        always = {"every_minutes": 1e-9}
        by_time = run(order(tiny, examples, training={"steps": 3}, checkpoints=always), tmp_path / "minutes")
        assert list(by_time.checkpoints) == [1, 2, 3]

    def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
        self, tiny: Path, examples: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a disk that has no room for the first checkpoint
        real, left = state.write_random, iter([True])

        def full_once(folder: Path) -> Any:
            if next(left, False):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(folder)

        monkeypatch.setattr(state, "write_random", full_once)
        # When
        tuned = run(order(tiny, examples, checkpoints={"every_steps": 2}), tmp_path / "out")
        # Then
        assert list(tuned.checkpoints) == [4, 6]
        warnings = [
            each.message for each in tuned.heard.messages if isinstance(each, LogMessage) and each.level == "warning"
        ]
        assert len(warnings) == 1
        assert warnings[0].startswith("step 2: no checkpoint, the disk is full")
        assert not [path for path in tuned.out.iterdir() if path.name.startswith(".")]


class TestEarlyStopping:
    @pytest.fixture(scope="class")
    def options(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        """A learning rate that is too high from some step on, and a look at the loss of strangers after each."""
        strangers = chats(tmp_path_factory.mktemp("strangers") / "chats.jsonl", 6)
        training = {"learning_rate": 0.3, "steps": 30, "schedule": "constant_with_warmup", "warmup": 0.0,
                    "evaluate_every": 1, "early_stopping": {"patience": 2}}  # fmt: skip
        return {"training": training, "validation": [strangers], "checkpoints": {"every_steps": 1}}

    @pytest.fixture(scope="class")
    def stopped(
        self, options: dict[str, Any], tiny: Path, examples: Data, tmp_path_factory: pytest.TempPathFactory
    ) -> Tuned:
        return run(order(tiny, examples, **options), tmp_path_factory.mktemp("stopped") / "out")

    def test_the_result_is_the_best_step(self, stopped: Tuned) -> None:
        figures, losses = stopped.result.figures, stopped.figures("validation_loss")
        best = min(losses, key=lambda step: losses[step])
        assert (figures.stopped_early, figures.best_step, figures.steps) == (True, best, best + 2)
        assert figures.validation_loss == losses[best]
        assert same(stopped.weights, weights(stopped.checkpoints[best] / "model"))

    @pytest.mark.parametrize("before", [0, 1], ids=["from its end", "from the step before"])
    def test_it_ends_so_when_it_was_broken_off(  # noqa: PLR0917 - fixtures
        self, before: int, stopped: Tuned, options: dict[str, Any], tiny: Path, examples: Data, tmp_path: Path
    ) -> None:
        last = stopped.result.figures.steps
        again = run(order(tiny, examples, **options), tmp_path / "out", resume=stopped.checkpoints[last - before])
        assert list(again.losses) == [last] * before
        assert again.result.figures.stopped_early
        assert same(again.weights, stopped.weights)


class TestNotFinite:
    def test_a_run_ends_at_the_step_and_keeps_what_was_before(self, tiny: Path, examples: Data, tmp_path: Path) -> None:
        # Given a base that is finite, and overflows when it reads a word that one chat has
        broken = saved(tmp_path / "broken", LlamaConfig(**SHAPE))
        tokenizer = AutoTokenizer.from_pretrained(broken)
        text = examples.path.read_text()
        (word, *_) = set(tokenizer.encode("Zulu")) - set(tokenizer.encode(text))
        tensors = load_file(broken / "model.safetensors")
        tensors["model.embed_tokens.weight"][word] = 3e38
        save_file(tensors, broken / "model.safetensors", {"format": "pt"})
        data = tmp_path / "data.jsonl"
        data.write_text(text + text.splitlines()[0].replace("path", "Zulu") + "\n")
        # When
        heard = Heard()
        given = order(broken, Data(path=data, name="data"), checkpoints={"every_steps": 1})
        with pytest.raises(Refused) as refused:
            run(given, tmp_path / "out", answer=lambda message, _: heard.messages.append(message))
        # Then
        assert refused.value.code == "loss_not_finite"
        steps = [message.step for message in heard.messages if isinstance(message, CheckpointMessage)]
        assert refused.value.title.startswith(f"The loss of step {steps[-1] + 1} is not finite")
        (last,) = (tmp_path / "out").glob(f"checkpoint-{steps[-1]}-*")
        assert all(each.isfinite().all() for each in weights(last / "state").values())
