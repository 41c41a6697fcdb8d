"""Document sets: what a request becomes before it is written. Nothing here commits."""

from uuid import UUID

from sqlalchemy.orm import Session

from services.files import service as files
from services.inference import repository as inference_sql
from services.inference.service import model_facts
from services.jobs.kinds import Prepared
from shared.contracts.documents import SET_FILES, DocumentInput, DocumentSetSpec
from shared.db.models import DocumentSetFile


def prepare(session: Session, tenant_id: UUID, spec: DocumentSetSpec) -> Prepared:
    """Find the model and the files; each file is one line."""
    model = model_facts(session, tenant_id, spec.model)
    rows = [
        files.get(session, tenant_id, named, param=f"spec.files.{number}") for number, named in enumerate(spec.files)
    ]
    lines = tuple(
        DocumentInput(
            file_id=files.public_id(row), filename=row.filename, sha256=row.sha256, bytes=row.bytes
        ).model_dump()
        for row in rows
    )

    def of_child(session: Session, job_id: UUID) -> None:
        inference_sql.insert(
            session,
            job_id,
            tenant_id=tenant_id,
            model_id=model.id,
            model_digest=model.served_as,
            input_file_id=None,
        )

    def of_parent(session: Session, job_id: UUID) -> None:
        of_child(session, job_id)
        session.add_all(
            DocumentSetFile(job_id=job_id, position=number, tenant_id=tenant_id, file_id=row.id)
            for number, row in enumerate(rows)
        )

    return Prepared(
        spec=spec.model_dump(mode="json", by_alias=True),
        needs=model.needs(model.context_length),
        planned_gpu_s=float(len(rows)),
        total=len(rows),
        unit="documents",
        lines=lines,
        job_lines=0,
        child_lines=SET_FILES,
        extend=of_parent,
        extend_child=of_child,
    )
