from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workers.forge.evaluation.subjects import Runner
from workers.forge.evaluation.tokens import CHUNK, batch_tokens, check_finite, compare, pieces, score
from workers.forge.refusing import Refused

WORDS = 2**13
MORE_THAN_A_CHUNK = CHUNK // WORDS + 37


class RunningSum:
    """A model of one word that keeps no keys and values."""

    def __call__(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=input_ids.cumsum(-1)[..., None])


def random_logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(MORE_THAN_A_CHUNK, WORDS, generator=torch.Generator().manual_seed(seed))


def log_p(logits: torch.Tensor) -> np.ndarray:
    wide = logits.double().numpy()
    wide = wide - wide.max(-1, keepdims=True)
    found: np.ndarray = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found


class TestCompare:
    def test_it_is_the_definition(self) -> None:
        candidate, baseline = random_logits(0), random_logits(1)
        targets = torch.arange(MORE_THAN_A_CHUNK) % WORDS
        found = compare(candidate, baseline, targets)
        q, p = log_p(candidate), log_p(baseline)
        rows = np.arange(len(targets))
        assert found.baseline_nll is not None
        assert found.kl is not None
        assert found.agreed is not None
        np.testing.assert_allclose(found.nll, -q[rows, targets], rtol=1e-5)
        np.testing.assert_allclose(found.baseline_nll, -p[rows, targets], rtol=1e-5)
        np.testing.assert_allclose(found.kl, (np.exp(p) * (p - q)).sum(-1), rtol=1e-4)
        assert found.agreed.tolist() == (p.argmax(-1) == q.argmax(-1)).tolist()

    def test_a_model_is_not_apart_from_itself(self) -> None:
        logits = random_logits(0)
        found = compare(logits, logits, torch.zeros(len(logits), dtype=torch.long))
        assert found.kl is not None
        assert found.agreed is not None
        assert (float(found.kl.abs().max()), bool(found.agreed.all())) == (0.0, True)

    def test_bf16_is_widened_before_anything_is_computed(self) -> None:
        logits = random_logits(2).bfloat16()
        targets = torch.zeros(len(logits), dtype=torch.long)
        np.testing.assert_allclose(score(logits, targets).nll, -log_p(logits.float())[:, 0], rtol=1e-5)


class TestCheckFinite:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_the_model_is_named(self, bad: float) -> None:
        logits = torch.zeros(2, 8)
        logits[1, 3] = bad
        with pytest.raises(Refused, match="llama-w4a16") as refused:
            check_finite(score(logits, torch.zeros(2, dtype=torch.long)).nll, "llama-w4a16")
        assert refused.value.code == "non_finite_logits"


class TestPieces:
    def test_they_are_the_whole(self, base: Runner) -> None:
        ids = torch.randint(4096, (2, 50), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            (whole,) = pieces(base.model, ids, size=100)
            parts = list(pieces(base.model, ids, size=14))
        assert [part.shape[1] for part in parts] == [7] * 7 + [1]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)

    def test_a_model_without_a_cache_is_given_the_whole(self) -> None:
        ids = torch.tensor([[3, 1, 4, 1, 5]])
        (whole,) = pieces(RunningSum(), ids, size=2)
        assert whole[0, :, 0].tolist() == [3, 4, 8, 9, 14]


class TestBatchTokens:
    def test_a_large_vocabulary_makes_batches_small(self) -> None:
        assert batch_tokens("cpu", 4096) == 4096
        assert batch_tokens("cpu", 128_256) == 130
        assert batch_tokens("cuda", 128_256) == 2092
