"""The `document_set` kind's row."""

from services.documents.service import foresee, prepare, restore
from services.jobs.kinds import Kind
from shared.contracts.documents import DocumentSetSpec
from shared.contracts.jobs import Pool

KIND = Kind(
    name="document_set",
    spec=DocumentSetSpec,
    pool=lambda _spec: Pool.SERVE,
    prepare=prepare,
    operation="workers.operations.document_set",
    restore=restore,
    foresee=foresee,
)
