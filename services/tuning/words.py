"""What is said of a tuning before it runs."""

from shared.contracts.tuning import TuningSpec
from shared.contracts.tuning_memory import Fit
from shared.queues import GIB


def advice(spec: TuningSpec, found: Fit, *, seconds: float, gpu_class: str) -> list[str]:
    """Sentences for whoever asked for a plan."""
    devices = f"{spec.devices} × {gpu_class}" if spec.devices > 1 else gpu_class
    told = [
        f"about {_size(found.memory.total)} of {_size(found.room or 0)} on each device of {devices}",
        f"micro-batches of {found.micro_batch_size}, {found.accumulation} to a step on each device",
    ]
    if found.load.checkpointing:
        told.append("with gradient checkpointing: the activations would not fit, or it was asked for")
    if found.load.offloading:
        told.append("with activations in the host's memory")
    if not found.fits:
        told.append("it may run out of memory: then it goes on with less, and says so")
    told.append(f"about {_time(seconds)}, by the size of the files: a guess")
    return told


def _size(count: int) -> str:
    return f"{count / GIB:.3g} GiB" if count >= GIB else f"{count / 2**20:.3g} MiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
