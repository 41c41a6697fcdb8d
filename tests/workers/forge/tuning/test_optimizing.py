"""The optimizer against torch's own."""

from typing import Any

import torch
from torch import nn

from workers.forge.tuning.optimizing import LocalAdamW


class TestOptimizer:
    def _trained(self, kind: Any, dtype: torch.dtype, **options: Any) -> torch.Tensor:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(40, 8).to(dtype))
        optimizer = kind([weight], lr=1e-4, weight_decay=0.1, **options)
        for _ in range(50):
            weight.grad = (weight.detach().float() + 2).to(dtype)
            optimizer.step()
        return weight.detach()

    def test_in_fp32_it_is_adamw(self) -> None:
        ours, theirs = (self._trained(kind, torch.float32, **fused) for kind, fused in _KINDS)
        assert torch.equal(ours, theirs)

    def test_in_bf16_small_steps_add_up(self) -> None:
        exact = self._trained(torch.optim.AdamW, torch.float32)
        torch.testing.assert_close(self._trained(LocalAdamW, torch.bfloat16).float(), exact, atol=0, rtol=2**-7)
        lost = (self._trained(torch.optim.AdamW, torch.bfloat16).float() - exact).abs()
        assert (lost > 2**-7 * exact.abs()).any()

    def test_a_step_can_be_left_out_on_the_device(self) -> None:
        weight = nn.Parameter(torch.ones(3))
        optimizer = LocalAdamW([weight], lr=0.1)
        for skipped in (0.0, 1.0):
            optimizer.skipped = torch.tensor(skipped)
            weight.grad = torch.full((3,), 1.0 if not skipped else float("nan"))
            optimizer.step()
        assert optimizer.state[weight]["step"] == 1
        assert torch.isfinite(weight).all()


_KINDS = [(LocalAdamW, {}), (torch.optim.AdamW, {"fused": True})]
