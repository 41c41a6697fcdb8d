"""A run that is broken off goes on as if nothing had been: to the bit on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shared.contracts.forge import Message, MetricMessage
from shared.contracts.forge_orders import Data
from shared.contracts.tuning import Relief
from tests.workers.forge.tuning.given import Heard, Tuned, chats, order, run, same, weights
from workers.forge.refusing import Refused
from workers.forge.tuning import state

RANDOM: dict[str, Any] = {"lora": {"dropout": 0.2}, "training": {"neftune_alpha": 5.0, "epochs": 3.0}}


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, examples: Data, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """12 steps: 30 rows less 3 for validation are 4 batches an epoch, each in two micro-batches."""
    given = order(tiny, examples, **RANDOM, checkpoints={"every_steps": 1}, validation_share=0.1)
    return run(given, tmp_path_factory.mktemp("undisturbed") / "out")


class TestResume:
    @pytest.mark.parametrize("step", [3, 8], ids=["within an epoch", "between epochs"])
    def test_it_ends_with_the_same_bits(  # noqa: PLR0917 - fixtures
        self, step: int, undisturbed: Tuned, tiny: Path, examples: Data, tmp_path: Path
    ) -> None:
        given = order(tiny, examples, **RANDOM, checkpoints={"every_steps": 100}, validation_share=0.1)
        again = run(given, tmp_path / "out", resume=undisturbed.checkpoints[step], threads=2)
        assert torch.get_num_threads() == 1  # the checkpoint's
        assert again.losses == {at: loss for at, loss in undisturbed.losses.items() if at > step}
        assert again.figures("validation_loss").items() <= undisturbed.figures("validation_loss").items()
        assert same(again.weights, undisturbed.weights)
        before, after = undisturbed.result.figures, again.result.figures
        assert (after.tokens, after.trained_tokens, after.train_loss, after.best_step) == (
            before.tokens, before.trained_tokens, before.train_loss, before.best_step,
        )  # fmt: skip

    def test_after_the_last_step_only_the_result_is_written(
        self, undisturbed: Tuned, tiny: Path, examples: Data, tmp_path: Path
    ) -> None:
        given = order(tiny, examples, **RANDOM, validation_share=0.1)
        again = run(given, tmp_path / "out", resume=undisturbed.checkpoints[12])
        assert (again.losses, again.checkpoints) == ({}, {})
        assert same(again.weights, undisturbed.weights)
        assert again.result.figures.steps == 12
        assert again.result.charts == undisturbed.result.charts

    def test_half_the_micro_batch_trains_on_the_same_samples(
        self, undisturbed: Tuned, tiny: Path, examples: Data, tmp_path: Path
    ) -> None:
        # Given no dropout, which draws other numbers for other micro-batches
        plain: dict[str, Any] = {"training": {"epochs": 2.0}, "checkpoints": {"every_steps": 3}}
        whole = run(order(tiny, examples, **plain), tmp_path / "whole")
        # When the run goes on with micro-batches of 2 instead of 4
        relief = Relief(halvings=1, gradient_checkpointing=True)
        halved = run(order(tiny, examples, **plain, relief=relief), tmp_path / "halved", resume=whole.checkpoints[3])
        # Then it sums in another order, and no more than that
        setting = halved.result.figures.setting
        assert (setting.micro_batch_size, setting.accumulation, setting.gradient_checkpointing) == (2, 4, True)
        assert halved.losses == pytest.approx({at: whole.losses[at] for at in halved.losses}, rel=1e-5)
        assert halved.figures("tokens")[8] == whole.figures("tokens")[8]
        assert halved.result.figures.relief == relief

    def test_the_weights_of_a_whole_model_are_kept_in_fp32(self, tiny: Path, examples: Data, tmp_path: Path) -> None:
        given = order(tiny, examples, "full", training={"steps": 4}, checkpoints={"every_steps": 2})
        whole = run(given, tmp_path / "whole")
        again = run(given, tmp_path / "again", resume=whole.checkpoints[2])
        assert again.losses == {at: whole.losses[at] for at in (3, 4)}
        assert same(again.weights, whole.weights)
        assert {each.dtype for each in whole.weights.values()} == {torch.bfloat16}  # as the base
        kept = weights(whole.checkpoints[2] / "state")
        assert {each.dtype for name, each in kept.items() if name.endswith(".weight.weight")} == {torch.float32}

    def test_other_data_is_refused(self, undisturbed: Tuned, tiny: Path, tmp_path: Path) -> None:
        given = order(tiny, chats(tmp_path / "other.jsonl", 31), **RANDOM, validation_share=0.1)
        with pytest.raises(Refused) as refused:
            run(given, tmp_path / "out", resume=undisturbed.checkpoints[3])
        assert refused.value.code == "data_changed"


class TestCheckpoint:
    def test_it_holds_tensors_and_json_alone(self, undisturbed: Tuned) -> None:
        folder = undisturbed.checkpoints[3]
        held = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        assert held == [
            "model/adapter_config.json", "model/adapter_model.safetensors",
            "state/place.json", "state/random.safetensors", "state/tensors-00000.safetensors",
            "state/trainer_state.json",
        ]  # fmt: skip
        place = state.read_place(folder / "state")
        assert (place.step, place.threads, place.setting.micro_batch_size) == (3, 1, 4)
        assert not list(undisturbed.out.glob(".partial-*"))

    def test_it_is_told_with_its_figures(self, undisturbed: Tuned) -> None:
        told = {message.step: message for message in undisturbed.heard.messages if message.type == "checkpoint"}
        assert sorted(told) == list(range(1, 13))
        last = told[12].metrics
        assert last["loss"] == undisturbed.losses[12]
        assert last["validation_loss"] == undisturbed.figures("validation_loss")[12]
        best = min(undisturbed.figures("validation_loss").values())
        assert [message.metrics["validation_loss"] for message in told.values() if message.best][-1] == best

    def test_told_to_stop_it_saves_and_ends(
        self, undisturbed: Tuned, tiny: Path, examples: Data, tmp_path: Path
    ) -> None:
        def stop(message: Message, heard: Heard) -> None:
            if isinstance(message, MetricMessage) and message.step == 5:
                heard.stopping.set()

        given = order(tiny, examples, **RANDOM, validation_share=0.1)
        stopped = run(given, tmp_path / "out", answer=stop)
        assert stopped.made is None
        assert max(stopped.checkpoints) == 6
        assert 6 not in stopped.figures("validation_loss")  # nobody waited for it
        again = run(given, tmp_path / "again", resume=stopped.checkpoints[6])
        assert same(again.weights, undisturbed.weights)
        assert again.result.figures.best_step == undisturbed.result.figures.best_step
        assert again.figures("validation_loss").keys() == {6, 8, 10, 12}
