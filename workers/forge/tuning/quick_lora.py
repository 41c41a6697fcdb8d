"""LoRA layers that pass over memory less often than PEFT's.

PEFT's forward makes the adapter's output, scales it and adds it, each in a pass over T × N numbers, and keeps fp32
adapters apart by casting the input. Here the adapter's output is added where the base's product lies, forwards and
backwards, and the adapter is cast instead. On an H200, 8B, compiled layers: 16,402 → 16,663 tokens/s.

T tokens, K numbers of a token that go in, N that come out, R the adapter's rank.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


@torch.library.custom_op("modelyard::add_product_", mutates_args={"into_TN"})
def add_product_(into_TN: Tensor, left_TR: Tensor, right_RN: Tensor, factor: float) -> None:
    """into += factor × left · right, in place: written as an expression, inductor would copy `into` first."""
    into_TN.addmm_(left_TR, right_RN, alpha=factor)


@add_product_.register_fake
def _(into_TN: Tensor, left_TR: Tensor, right_RN: Tensor, factor: float) -> None:  # noqa: ARG001
    return None


class _Adapted(torch.autograd.Function):
    """x · Wᵀ + bias + factor × (x · Aᵀ) · Bᵀ, with gradients of x, A and B alone."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them so
        ctx: Any, x: Tensor, weight_NK: Tensor, bias_N: Tensor | None, a_RK: Tensor, b_NR: Tensor, factor: float
    ) -> Tensor:
        x_TK = x.reshape(-1, x.shape[-1])
        y_TN = functional.linear(x_TK, weight_NK, bias_N)
        low_TR = x_TK @ a_RK.t()
        add_product_(y_TN, low_TR, b_NR.t(), factor)
        ctx.save_for_backward(x_TK, weight_NK, a_RK, b_NR, low_TR)
        ctx.factor = factor
        return y_TN.view(*x.shape[:-1], y_TN.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x_TK, weight_NK, a_RK, b_NR, low_TR = ctx.saved_tensors
        grad_TN = grad.reshape(-1, grad.shape[-1])
        low_grad_TR = (grad_TN @ b_NR) * ctx.factor
        of_a_RK = low_grad_TR.t() @ x_TK
        of_b_NR = (grad_TN.t() @ low_TR) * ctx.factor
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x_TK = grad_TN @ weight_NK
            add_product_(of_x_TK, low_grad_TR, a_RK, 1.0)
            of_x = of_x_TK.view(*grad.shape[:-1], of_x_TK.shape[-1])
        return of_x, None, None, of_a_RK, of_b_NR, None


class QuickLinear(Linear):
    """PEFT's LoRA of a linear layer, for training one adapter."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As PEFT's. Whatever is not training (a merged layer, an adapter that is switched off) is left to PEFT."""
        if args or kwargs or self.merged or self.disable_adapters:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base = self.base_layer
        a_RK, b_NR = self.lora_A[name].weight.to(x.dtype), self.lora_B[name].weight.to(x.dtype)
        factor, dropout = self.scaling[name], self.lora_dropout[name]
        if isinstance(dropout, nn.Identity):
            return _Adapted.apply(x, base.weight, base.bias, a_RK, b_NR, factor)
        low = functional.linear(dropout(x), a_RK)
        return functional.linear(x, base.weight, base.bias) + functional.linear(low, b_NR) * factor


def quicken(model: nn.Module) -> int:
    """Have every layer that PEFT adapts in the plain way compute as above; returns how many.

    Parameters, their names and what PEFT does with them stay. DoRA, adapters with a bias, trained or quantized bases
    and layers that are no `nn.Linear` are left as they are; with dropout an adapter is cast, and no more.
    """
    plain = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for module in plain:
        module.__class__ = QuickLinear  # a wrapper would be a module more, and rename every parameter
    return len(plain)


def _is_plain(module: Any) -> bool:
    base, names = module.base_layer, module.active_adapters
    if type(base) is not nn.Linear or base.weight.requires_grad or len(names) != 1:
        return False
    (name,) = names
    return name not in module.lora_variant and not module.lora_bias[name] and not module.fan_in_fan_out
