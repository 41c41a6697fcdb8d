"""A run's account."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from shared.contracts.tuning_memory import Shape
from workers.forge.tuning import following
from workers.forge.tuning.following import POINTS, History, Pace, Point

LLAMA_8B = LlamaConfig(
    hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128_256, tie_word_embeddings=False,
)  # fmt: skip
RANK_16 = 41_943_040  #: numbers of an adapter of all its linear layers


def point(step: int) -> Point:
    return Point(step=step, loss=1.0, learning_rate=1e-4, grad_norm=None, tokens_per_second=float(step), memory_bytes=1)


class TestFlops:
    def test_of_an_adapter_and_of_a_whole_model(self) -> None:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(LLAMA_8B)
        parameters = model.num_parameters()
        sizes = {"layers": 32, "hidden": 4096, "intermediate": 14_336, "vocabulary": 128_256}
        adapter = Shape(parameters + RANK_16, RANK_16, **sizes)
        whole = Shape(parameters, parameters, **sizes)

        def a_token(of: Shape) -> float:
            return following.flops(of, model, tokens=2048, squares=2048**2) / 2048

        # 7.50 billion weights that a token is multiplied with, 4 and 6 times, and 1.6 GFLOP of attention
        assert round(a_token(adapter) / 1e9, 1) == 31.9
        assert round(a_token(whole) / 1e9, 1) == 46.6


class TestHistory:
    def test_long_curves_are_thinned(self) -> None:
        history = History()
        for step in range(3 * POINTS):
            history.add(point(step))
        steps = [each.step for each in history.points]
        assert steps == list(range(0, 3 * POINTS, history.every))
        assert POINTS / 2 <= len(steps) <= POINTS
        assert History.model_validate_json(history.model_dump_json()) == history


class TestPace:
    def test_the_first_steps_count_for_no_speed(self) -> None:
        assert Pace(speeds=[1.0, 2.0, 3.0, 50.0, 60.0, 70.0, 80.0]).speed() == 65.0
        assert Pace(speeds=[10.0, 30.0]).speed() == 20.0
        assert Pace().mfu() is None
