"""`python -I -m workers.forge.quantize spec.json`: a model becomes a smaller one (`QuantizeOrder`).

Under torchrun (`python -m torch.distributed.run --nproc-per-node N -m workers.forge.quantize spec.json`) the ranks
share the calibration's samples.
"""

from time import monotonic

from shared.contracts.forge import ForgeSpec
from shared.contracts.forge_orders import QuantizationResult, QuantizeOrder
from workers.forge.pipe import Pipe
from workers.forge.running import quick_imports, run
from workers.forge.telling import Tell

STARTED = monotonic()


def main() -> None:
    """Quantize what the spec says."""
    run(_work)


def _work(spec: ForgeSpec, pipe: Pipe) -> QuantizationResult:
    # They read the environment that run() has written, and take seconds: a SIGTERM ends them.
    with quick_imports():
        from workers.forge.quantization.job import quantize  # noqa: PLC0415
    order = QuantizeOrder.model_validate(spec.spec)
    return quantize(order, spec.out, tell=Tell(pipe.send), started=STARTED)


if __name__ == "__main__":
    main()
