"""`python -I -m workers.forge.tune spec.json`: a model learns from examples (`TuneOrder`).

Under torchrun (`python -m torch.distributed.run --nproc-per-node N -m workers.forge.tune spec.json`) the ranks share
the batch, the weights and the optimizer's state (FSDP2).
"""

from time import monotonic

from shared.contracts.forge import ForgeSpec
from shared.contracts.tuning_orders import TuneOrder, TuneResult
from workers.forge.pipe import Pipe
from workers.forge.running import quick_imports, run

STARTED = monotonic()


def main() -> None:
    """Train as the spec says."""
    run(_work)


def _work(spec: ForgeSpec, pipe: Pipe) -> TuneResult:
    order = TuneOrder.model_validate(spec.spec)
    # They read the environment that run() has written, and take seconds: a SIGTERM ends them.
    with quick_imports("scipy"):  # half a second, for a loss of object detection
        from workers.forge.tuning.job import tune  # noqa: PLC0415
    return tune(order, spec, pipe=pipe, started=STARTED)


if __name__ == "__main__":
    main()
