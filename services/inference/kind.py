"""The `inference` kind's row."""

from services.inference.service import foresee, prepare, restore
from services.jobs.kinds import Kind
from shared.contracts.inference import InferenceSpec
from shared.contracts.jobs import Pool

KIND = Kind(
    name="inference",
    spec=InferenceSpec,
    pool=lambda _spec: Pool.SERVE,
    prepare=prepare,
    operation="workers.operations.inference",
    restore=restore,
    foresee=foresee,
)
