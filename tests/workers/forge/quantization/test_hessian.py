"""The Hessian that GPTQ corrects errors by."""

import pytest
import torch
from llmcompressor.modifiers.gptq.helpers import accumulate_hessian, make_empty_hessian
from torch import nn

from workers.forge.quantization.modifiers import Gptq, add_to_hessian


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
class TestHessian:
    def test_it_is_llm_compressors(self, dtype: torch.dtype) -> None:
        layer, generator = nn.Linear(48, 8, dtype=dtype), torch.Generator().manual_seed(3)
        ours, theirs, count = make_empty_hessian(layer), make_empty_hessian(layer), torch.zeros(())
        for batch in (1, 3, 2):
            rows = torch.randn(batch, 20, 48, generator=generator).to(dtype)
            add_to_hessian(rows, ours)
            theirs, count = accumulate_hessian(rows, layer, theirs, count)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)

    def test_the_modifier_counts_samples_and_leaves_the_precision_of_others_alone(self, dtype: torch.dtype) -> None:
        layer, modifier = nn.Linear(16, 4, dtype=dtype), Gptq(targets="Linear", scheme="W4A16")
        before = torch.backends.cuda.matmul.fp32_precision
        for batch in (2, 3):
            modifier.calibrate_module(layer, (torch.ones(batch, 5, 16, dtype=dtype),), None)
        assert modifier._num_samples[layer] == 5
        torch.testing.assert_close(modifier._hessians[layer], torch.full((16, 16), 2.0 * 25))
        assert torch.backends.cuda.matmul.fp32_precision == before
