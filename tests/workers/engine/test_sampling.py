"""The draw: right frequencies, its own parameters for every row, and nobody else's influence."""

from types import SimpleNamespace

import pytest
import torch

from workers.engine.sampling import Sampler, Sampling, uniform

VOCABULARY = 300
GREEDY = Sampling(temperature=0, top_k=0, top_p=1, seed=0)


def choose(logits: torch.Tensor, wishes: list[Sampling], position: int = 5) -> list[int]:
    """The token of each row, as transformers would take it: prepare, rewrite, argmax."""
    sampler = Sampler()
    rows = [
        SimpleNamespace(
            has_new_token=True,
            state=SimpleNamespace(position_offset=position, logit_processor_kwargs={"sampling": sampling}),
        )
        for sampling in wishes
    ]
    storage = torch.zeros(sampler.tensors_required, 512, dtype=torch.int32)
    sampler.fill_defaults(storage)
    arguments = sampler.prepare_tensor_args(rows, storage)[:, : len(rows)]
    chosen: list[int] = sampler(torch.empty(0), logits.clone(), arguments).argmax(-1).tolist()
    return chosen


@pytest.fixture
def logits():
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)) * 3


class TestUniform:
    def test_values_are_in_the_half_open_interval_and_spread(self):
        values = torch.tensor([uniform(seed, position) for seed in range(-20, 20) for position in range(100)])
        assert values.min() >= 0
        assert values.max() < 1
        assert torch.histc(values, bins=10, min=0, max=1).min() > 300  # of 400 expected in each


class TestDraw:
    @pytest.mark.parametrize(
        ("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.6), (5, 0.6), (200, 1.0), (0, 0.999), (1, 1.0), (0, 0.0)]
    )
    def test_frequencies_are_those_of_the_limited_distribution(self, logits, top_k, top_p):
        # Given the distribution written down the plain way
        weight, order = (logits / 0.8).softmax(-1).sort(descending=True)
        weight[top_k or VOCABULARY :] = 0
        weight /= weight.sum()
        weight[1:][(weight.cumsum(0) - weight)[1:] >= top_p] = 0
        expected = torch.zeros(VOCABULARY).scatter(0, order, weight / weight.sum())
        # When it is drawn from 4,000 times
        wishes = [Sampling(temperature=0.8, top_k=top_k, top_p=top_p, seed=seed) for seed in range(400)]
        drawn = [token for position in range(10) for token in choose(logits.expand(400, -1), wishes, position)]
        # Then nothing else appears, and the rest about as often as it should
        found = torch.bincount(torch.tensor(drawn), minlength=VOCABULARY) / len(drawn)
        assert found[expected == 0].sum() == 0
        assert (found - expected).abs().max() < 0.035

    def test_greedy_rows_are_the_argmax_among_sampled_ones(self, logits):
        hot = Sampling(temperature=2, top_k=0, top_p=1, seed=3)
        chosen = choose(logits.expand(3, -1), [GREEDY, hot, GREEDY])
        assert chosen[0] == chosen[2] == int(logits.argmax())

    def test_a_row_is_the_same_alone_and_in_company(self, logits):
        wish = Sampling(temperature=1, top_k=0, top_p=0.9, seed=11)
        others = [GREEDY, Sampling(temperature=1, top_k=3, top_p=1, seed=2), Sampling(2.0, 0, 1.0, 9)]
        company = torch.stack([logits.flip(0), logits, logits, logits * 2])
        assert choose(company, [others[0], wish, *others[1:]])[1] == choose(logits[None], [wish])[0]
