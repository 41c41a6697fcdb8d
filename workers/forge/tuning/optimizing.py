"""AdamW over what a device holds of the weights, in fp32 whatever the weights are in.

bf16 has 8 bits of mantissa: a step smaller than 1/256 of a weight would be lost, and learning rates of tuning make
most steps smaller (arXiv 1710.03740 §3.1). So weights of 16 bits have a copy in fp32, which is what is stepped.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch.optim.adamw import adamw

CHUNK: Final = 2**26  #: numbers whose gradients are in fp32 at once: 256 MiB
STEP: Final = "step"  #: torch's word, as the next
MOMENTS: Final = ("exp_avg", "exp_avg_sq")
MASTER: Final = "master"  #: state of a parameter of 16 bits: its copy in fp32


def local(tensor: Any) -> Any:
    """This device's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class LocalAdamW(torch.optim.AdamW):
    """torch's fused AdamW, on the local parts of sharded parameters."""

    skipped: Any = None  #: a tensor on the device: 1 where the gradients are not to be stepped with

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Step every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameters in _chunks(group["params"]):
                self._step(parameters, group)

    def _step(self, parameters: list[Any], group: dict[str, Any]) -> None:
        states = [self.state[each] or self._begin(each) for each in parameters]
        weights = [local(each) for each in parameters]
        stepped = [state.get(MASTER, weight) for state, weight in zip(states, weights, strict=True)]
        adamw(
            stepped,
            [local(each.grad).float() for each in parameters],
            *([state[moment] for state in states] for moment in MOMENTS),
            [],
            [state[STEP] for state in states],
            fused=True,
            grad_scale=None,
            found_inf=self.skipped,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        pairs = [(to, of) for to, of in zip(weights, stepped, strict=True) if to is not of]
        if pairs:
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))

    def _begin(self, parameter: Any) -> dict[str, Any]:
        weight = local(parameter).detach()
        state: dict[str, Any] = self.state[parameter]
        state[STEP] = torch.zeros((), dtype=torch.float32, device=weight.device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(weight, dtype=torch.float32)
        if weight.dtype != torch.float32:
            state[MASTER] = weight.float()
        return state


def _chunks(parameters: list[Any]) -> Iterator[list[Any]]:
    """Parameters with gradients, as many at once as have `CHUNK` numbers."""
    chunk: list[Any] = []
    numbers = 0
    for parameter in parameters:
        if parameter.grad is None:
            continue
        chunk.append(parameter)
        numbers += local(parameter).numel()
        if numbers >= CHUNK:
            yield chunk
            chunk, numbers = [], 0
    if chunk:
        yield chunk
