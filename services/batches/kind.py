"""The `batch` kind's row."""

from services.batches.service import prepare
from services.jobs.kinds import Kind
from shared.contracts.batches import BatchSpec
from shared.contracts.jobs import Pool

KIND = Kind(
    name="batch",
    spec=BatchSpec,
    pool=lambda _spec: Pool.SERVE,
    prepare=prepare,
    operation="workers.operations.batch",
)
