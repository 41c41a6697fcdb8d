"""FSDP2: weights, gradients and the optimizer's state are shared out among the devices of a host.

torch's own, rather than accelerate's way to it, which knows no CPUs and puts every adapter into 16 bits. Rank 0 alone
reads the checkpoint; the others begin with shapes and get their parts from it, so that the host holds one copy.
"""

from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import distribute_tensor

from workers.forge.ranks import rank, under_torchrun, world_size
from workers.forge.tuning.loading import Device, decoder_layers

#: how long ranks wait for one another: rank 0 writes checkpoints while the others are at the next step
PATIENCE: Final = timedelta(hours=2)


def meet(on: Device) -> None:
    """Under torchrun: meet the other ranks."""
    if under_torchrun() and not dist.is_initialized():
        # What the processes themselves have to know they tell one another by gloo: GPUs would have to be waited for.
        dist.init_process_group("cpu:gloo,cuda:nccl" if on.gpu else "gloo", timeout=PATIENCE)


def shard(model: Any, on: Device) -> None:
    """Share a model out among the ranks: each decoder layer for itself, the rest together.

    Ranks but the first have it on the meta device.
    """
    kept = dict(model.named_parameters()) if rank() == 0 else {}
    buffers = dict(model.named_buffers()) if rank() == 0 else {}
    model.to("meta")
    model.tie_weights()
    kind = "cuda" if on.gpu else "cpu"
    mesh = init_device_mesh(kind, (world_size(),))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)  # sums of 16 bits lose what several ranks add
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # Else what is in no layer would stay whole after a validation, under parameters that the optimizer does not know.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    model.to_empty(device=on.name)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            whole = _given(kept.pop(name, None), parameter, on)
            parameter.to_local().copy_(distribute_tensor(whole, mesh, parameter.placements).to_local())
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name]) if rank() == 0 else None
            dist.broadcast(buffer, 0)


def _given(tensor: Any, like: Any, on: Device) -> Any:
    """Rank 0's tensor on its device; room for it on the others, which get a part of it alone."""
    if tensor is not None:
        return tensor.detach().to(on.name)
    return torch.empty(like.shape, dtype=like.dtype, device=on.name)
