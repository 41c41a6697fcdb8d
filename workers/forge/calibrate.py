"""`python -I -m workers.forge.calibrate spec.json`: what a model's layers see, and what each scheme would cost them.

The artifact `calibration` is a folder: the samples, statistics of every channel, a table of sensitivities, a
recommendation, charts.
"""

from time import monotonic

from shared.contracts.forge import ArtifactMessage, ForgeSpec
from shared.contracts.forge_orders import CalibrateOrder, CalibrationResult
from workers.forge.pipe import Pipe
from workers.forge.running import quick_imports, run
from workers.forge.telling import Tell


def work(given: ForgeSpec, pipe: Pipe) -> CalibrationResult:
    """Make the artifact, and name it."""
    started = monotonic()
    with quick_imports():  # torch reads what `run` has just set
        from workers.forge.calibration.making import ARTIFACT, make  # noqa: PLC0415

    result = make(CalibrateOrder.model_validate(given.spec), given.out, tell=Tell(pipe.send), started=started)
    pipe.send(ArtifactMessage(name=ARTIFACT, path=ARTIFACT))
    return result


if __name__ == "__main__":
    run(work)
