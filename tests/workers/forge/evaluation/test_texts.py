import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers.forge.evaluation.models import runner
from workers.forge.evaluation.subjects import Runner
from workers.forge.evaluation.texts import Found, measure, metrics
from workers.forge.refusing import Refused

IDS = np.random.default_rng(0).integers(2, 4096, (5, 24), dtype=np.int32)


def measured(candidate: Runner, baseline: Runner | None = None, ids: np.ndarray = IDS) -> list[Found]:
    with torch.inference_mode():
        return measure(ids, candidate=candidate, baseline=baseline, done=lambda _: None)


def token_by_token(model: Runner) -> list[float]:
    """Negative log-likelihoods, each from a forward pass of its own."""
    found = []
    with torch.inference_mode():
        for row in torch.from_numpy(IDS).long():
            for at in range(1, len(row)):
                logits = model.model(input_ids=row[None, :at]).logits[0, -1].double()
                found.append(float(logits.logsumexp(-1) - logits[row[at]]))
    return found


class TestPerplexity:
    def test_every_token_but_the_first_is_predicted(self, base: Runner) -> None:
        expected = token_by_token(base)
        candidate, baseline = metrics(measured(base))
        assert len(expected) == sum(found.tokens for found in measured(base)) == 5 * 23
        assert candidate == {"perplexity": pytest.approx(math.exp(sum(expected) / len(expected)), rel=1e-5)}
        assert baseline is None

    def test_sequences_do_not_see_each_other(self, base: Runner) -> None:
        together = [found.nll for found in measured(base)]
        alone = [measured(base, ids=IDS[at : at + 1])[0].nll for at in range(len(IDS))]
        assert together == pytest.approx(alone, rel=1e-5)

    def test_beyond_any_number(self) -> None:
        with pytest.raises(Refused) as refused:
            metrics([Found(tokens=10, nll=8000.0)])
        assert refused.value.code == "non_finite_logits"


class TestBeside:
    def test_padded_vocabularies_of_other_heights(self, base: Runner, folders: dict[str, Path]) -> None:
        """Rows that stand for no token are no part of the comparison."""
        padded = runner(folders["base"], "padded")
        padded.model.resize_token_embeddings(4160, mean_resizing=False)
        wide = Runner(replace(padded.reader, vocabulary=4160), padded.model, padded.device)
        for pair in ((base, wide), (wide, base)):
            candidate, baseline = metrics(measured(*pair))
            assert candidate["kl_divergence"] == pytest.approx(0, abs=1e-6)
            assert candidate["agreement"] == 1.0
            assert baseline is not None
            assert baseline["perplexity"] == pytest.approx(metrics(measured(base))[0]["perplexity"], rel=1e-5)

    def test_a_model_beside_itself(self, base: Runner) -> None:
        candidate, baseline = metrics(measured(base, base))
        assert candidate == {
            "perplexity": metrics(measured(base))[0]["perplexity"],
            "ppl_increase": 0.0,
            "kl_divergence": 0.0,
            "agreement": 1.0,
        }
        assert baseline == {"perplexity": candidate["perplexity"]}

    def test_figures_are_means_over_tokens(self, base: Runner, near: Runner) -> None:
        ids = torch.from_numpy(IDS).long()
        with torch.inference_mode():
            p, q = (each.model(input_ids=ids).logits[:, :-1].double().log_softmax(-1) for each in (base, near))
        candidate, baseline = metrics(measured(near, base))
        assert baseline is not None
        assert candidate["kl_divergence"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
        assert candidate["agreement"] == float((p.argmax(-1) == q.argmax(-1)).double().mean())
        assert candidate["ppl_increase"] == pytest.approx(candidate["perplexity"] / baseline["perplexity"] - 1)
        assert candidate["kl_divergence"] > 0
        assert 0 < candidate["agreement"] < 1

    def test_the_divergence_has_a_direction(self, base: Runner, near: Runner) -> None:
        here, there = (metrics(measured(*pair))[0]["kl_divergence"] for pair in ((base, near), (near, base)))
        assert here != pytest.approx(there, rel=1e-3)


class TestCompressed:
    """What transformers makes of a compressed checkpoint is what its scheme says, activations included."""

    def test_activations_are_quantized_too(self, folders: dict[str, Path], base: Runner) -> None:
        weights_alone, both = (metrics(measured(runner(folders[name]), base))[0] for name in ("w8", "w8a8"))
        assert 0 < weights_alone["kl_divergence"] < 0.6 * both["kl_divergence"]

    def test_weights_alone_are_rounded_and_nothing_else(self, folders: dict[str, Path], base: Runner) -> None:
        by_hand = runner(folders["base"])
        with torch.inference_mode():
            for name, module in by_hand.model.named_modules():
                if isinstance(module, torch.nn.Linear) and name != "lm_head":
                    scale = module.weight.abs().amax(1, keepdim=True) / 127
                    module.weight.copy_((module.weight / scale).round() * scale)
        candidate, _ = metrics(measured(runner(folders["w8"]), by_hand))
        rounding = metrics(measured(by_hand, base))[0]["kl_divergence"]
        assert candidate["kl_divergence"] < 1e-3 * rounding


class TestNonFinite:
    def test_the_model_that_overflows_is_named(self, base: Runner, loud: Runner) -> None:
        for candidate, baseline in ((loud, base), (base, loud), (loud, None)):
            with pytest.raises(Refused, match="loud") as refused:
                measured(candidate, baseline)
            assert refused.value.code == "non_finite_logits"
