"""The `import_model` kind's row: runs on any class, and uses none of its devices."""

from services.imports.service import made, prepare
from services.jobs.kinds import Kind
from shared.contracts.imports import ImportSpec
from shared.contracts.jobs import Pool

KIND = Kind(
    name="import_model",
    spec=ImportSpec,
    pool=lambda _spec: Pool.SERVE,
    prepare=prepare,
    operation="workers.operations.import_model",
    made=made,
    makes_adapter=lambda spec: spec.base_model is not None,
    adapters=False,
    models=("base_model",),
)
