"""The choice of a token: right frequencies, its own parameters for every row, and nobody else's influence."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.workers.engine.stepping import GREEDY, Batch
from workers.engine.draws import uniform
from workers.engine.sampling import Sampler, Sampling

VOCABULARY = 300
SAMPLED = replace(GREEDY, temperature=1.0)


def choose(scores: torch.Tensor, wishes: list[Sampling], position: int = 5) -> list[int]:
    """The token of each row, `position` tokens after its beginning."""
    return Batch(wishes, prompt=[0] * position).step(scores)


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
        ("top_k", "top_p", "min_p"),
        [
            (0, 1.0, 0.0),
            (5, 1.0, 0.0),
            (0, 0.6, 0.0),
            (5, 0.6, 0.0),
            (200, 1.0, 0.0),
            (0, 0.999, 0.0),
            (1, 1.0, 0.0),
            (0, 0.0, 0.0),
            (0, 1.0, 0.2),
            (0, 0.9, 0.0001),
            (4, 0.8, 0.1),
        ],
    )
    def test_frequencies_are_those_of_the_limited_distribution(self, logits, top_k, top_p, min_p):
        # Given the distribution written down the plain way
        weight, order = (logits / 0.8).softmax(-1).sort(descending=True)
        weight[weight < min_p * weight[0]] = 0
        weight[top_k or VOCABULARY :] = 0
        weight /= weight.sum()
        weight[1:][(weight.cumsum(0) - weight)[1:] >= top_p] = 0
        expected = torch.zeros(VOCABULARY).scatter(0, order, weight / weight.sum())
        # When it is drawn from 4,000 times
        wishes = [Sampling(temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed) for seed in range(400)]
        drawn = [token for position in range(10) for token in choose(logits.expand(400, -1), wishes, position)]
        # Then nothing else appears, and the rest about as often as it should
        found = torch.bincount(torch.tensor(drawn), minlength=VOCABULARY) / len(drawn)
        assert found[expected == 0].sum() == 0
        assert (found - expected).abs().max() < 0.035

    def test_greedy_rows_are_the_argmax_among_sampled_ones(self, logits):
        chosen = choose(logits.expand(3, -1), [GREEDY, replace(SAMPLED, temperature=2, seed=3), GREEDY])
        assert chosen[0] == chosen[2] == int(logits.argmax())

    def test_a_row_is_the_same_alone_and_in_company(self, logits):
        wish = replace(SAMPLED, top_p=0.9, seed=11, presence_penalty=1.0, bias=((7, 2.0),), logprobs=1)
        others = [GREEDY, replace(SAMPLED, top_k=3, seed=2), replace(SAMPLED, temperature=2, bias=((1, 50.0),))]
        company = torch.stack([logits.flip(0), logits, logits, logits * 2])
        crowd, alone = Batch([others[0], wish, *others[1:]]), Batch([wish])
        for _ in range(8):
            assert crowd.step(company)[1] == alone.step(logits[None])[0]

    def test_rows_behind_those_that_get_a_token_are_left_alone(self, logits):
        sampler = Sampler()
        batch = Batch([replace(SAMPLED, bias=((1, 5.0),))], sampler=sampler)
        batch.step(logits[None])
        padded = torch.stack([logits, logits])
        assert torch.equal(sampler(torch.empty(0), padded.clone(), torch.empty(0))[1], logits)


class TestPenalties:
    def scores(self, logits: torch.Tensor, said: list[int], **wish: Any) -> torch.Tensor:
        """What the sampler makes of the scores after these tokens were generated."""
        batch = Batch([replace(GREEDY, **wish)], prompt=[3, 4])
        batch.states[0].generated_tokens = list(said)
        batch.step(logits[None])
        batch.states[0].generated_tokens = list(said)
        return batch.sampler(torch.empty(0), logits[None].clone(), torch.empty(0))[0]

    def test_presence_and_frequency_follow_openai_and_leave_the_prompt_alone(self, logits):
        changed = self.scores(logits, [9, 9, 5], presence_penalty=0.5, frequency_penalty=0.25) - logits
        expected = torch.zeros(VOCABULARY)
        expected[9], expected[5] = -0.5 - 2 * 0.25, -0.5 - 0.25
        assert torch.allclose(changed, expected, atol=1e-5)

    def test_repetition_counts_the_prompt_and_keeps_the_sign(self, logits):
        changed = self.scores(logits, [9], repetition_penalty=2.0)
        expected = logits.clone()
        for token in (3, 4, 9):
            expected[token] = logits[token] / 2 if logits[token] > 0 else logits[token] * 2
        assert torch.allclose(changed, expected)

    def test_a_bias_of_a_hundred_decides_and_is_exact(self, logits):
        assert choose(logits[None], [replace(SAMPLED, bias=((17, 100),))]) == [17]
        best = int(logits.argmax())
        assert choose(logits[None], [replace(GREEDY, bias=((best, -100.0),))]) != [best]

    def test_no_ending_comes_before_min_tokens(self, logits):
        eager = logits.clone()
        eager[1] = 50.0
        batch = Batch([replace(GREEDY, min_tokens=3, endings=(1, 2)), replace(GREEDY, endings=(1, 2))])
        for _ in range(4):
            batch.step(eager.expand(2, -1))
        patient, other = (state.generated_tokens for state in batch.states)
        assert other == [1]
        assert (len(patient), patient.index(1)) == (4, 3)

    def test_where_nothing_ends_a_sequence_min_tokens_asks_for_nothing(self, logits):
        assert choose(logits[None], [replace(GREEDY, min_tokens=3)]) == [int(logits.argmax())]

    def test_a_row_of_no_numbers_spoils_nobody_else(self, logits):
        broken = torch.full_like(logits, torch.nan)
        rows, wish = torch.stack([broken, logits]), replace(SAMPLED, seed=4, top_p=0.9)
        assert choose(rows, [wish, wish])[1] == choose(logits[None], [wish])[0]


class TestPreemption:
    def test_a_sequence_goes_on_as_if_nothing_had_happened(self, logits):
        wish = replace(SAMPLED, seed=5, frequency_penalty=1.0, repetition_penalty=1.2, min_tokens=6, endings=(1,))
        calm, moved = Batch([wish]), Batch([wish])
        for number in range(9):
            if number in {3, 6}:
                moved.preempt()
            assert moved.step(logits[None]) == calm.step(logits[None])


class TestLogprobs:
    def test_they_are_of_the_raw_distribution_whatever_was_asked(self, logits):
        raw = logits.log_softmax(-1)
        batch = Batch([replace(SAMPLED, temperature=0.3, bias=((17, 100.0),), logprobs=3), GREEDY])
        batch.step(logits.expand(2, -1))
        noted = batch.record(0).logprobs[0]
        assert noted.token == 17
        assert noted.logprob == pytest.approx(float(raw[17]))
        values, tokens = raw.topk(3)
        assert [token for token, _ in noted.top] == tokens.tolist()
        assert [value for _, value in noted.top] == pytest.approx(values.tolist())
        assert batch.record(1).logprobs == []

    def test_each_row_gets_as_many_alternatives_as_it_asked_for(self, logits):
        batch = Batch([replace(GREEDY, logprobs=count) for count in (0, 1, 20)])
        batch.step(logits.expand(3, -1))
        assert [len(batch.record(number).logprobs[0].top) for number in range(3)] == [0, 1, 20]
