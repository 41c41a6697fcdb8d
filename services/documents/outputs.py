"""The results of a document set as files: written record by record, so memory does not grow with the set.

The records are written once and counted; the other files are made from that file, because their beginnings hold the
totals. The same records make the same bytes.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from services.documents import records, repository, views
from services.documents.report import About, Html, Json
from services.documents.schemas import Shape, shape
from services.documents.table_files import Csv, Parquet
from services.documents.tables import Table
from shared.contracts.documents import DocumentSetSpec, Extract
from shared.db.models import Job
from shared.db.session import Database

RECORDS = "results.jsonl"


@dataclass(frozen=True)
class Output:
    """A file that is made; its name is the artifact's."""

    path: Path
    media_type: str

    @property
    def name(self) -> str:
        """The artifact's name."""
        return self.path.name


def make(database: Database, parent: Job, folder: Path) -> list[Output]:
    """Write the files of a set whose children have ended into `folder`, the main one first.

    Raises:
        DatabaseUnavailable: the records cannot be read.
    """
    spec = DocumentSetSpec.model_validate(parent.spec)
    shaped = shape(spec.operation.schema_) if isinstance(spec.operation, Extract) else None
    found = records.stream(database, parent.tenant_id, parent.id, total=parent.progress_total or 0, shape=shaped)
    totals = records.write(found, folder / RECORDS)
    with database.transaction() as session:
        totals.cost = repository.cost(session, parent.tenant_id, parent.id)
    about = About.of(views.public_id(parent.id), spec, totals=totals)
    return [Output(folder / RECORDS, "application/jsonl"), *write(folder, spec, shaped, about=about)]


def write(folder: Path, spec: DocumentSetSpec, shaped: Shape | None, *, about: About) -> list[Output]:
    """Write the tables and the reports beside the records that lie in `folder`."""
    table = Table(spec.operation, shaped)
    with ExitStack() as open_:
        tables = [writer(folder / writer.name, table) for writer in (Csv, Parquet)]
        reports = [writer(folder / writer.name, about) for writer in (Json, Html)]
        for each in (*tables, *reports):
            open_.callback(each.close)
        for record in records.read(folder / RECORDS):
            row = table.row(record)
            for each in tables:
                each.add(row)
            for each in reports:
                each.add(record)
    return [Output(folder / writer.name, writer.media_type) for writer in (Csv, Parquet, Json, Html)]
