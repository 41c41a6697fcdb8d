"""What a document set becomes before it is written."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.documents import schemas
from services.documents import service as documents
from services.files import service as files
from services.jobs import lifecycle, repository
from services.jobs import service as jobs
from services.jobs.kinds import Prepared
from services.jobs.types import Claim, Ending, Outcome
from shared.contracts.documents import DocumentSetSpec, Pack
from shared.contracts.jobs import Driver, JobRequest, State
from shared.db.models import DocumentSetFile, File, Job
from shared.db.session import Database
from shared.errors import ModelyardError, Unprocessable, ValidationFailed
from shared.ids import new_id
from shared.storage import Store
from tests.services.jobs import build

TINY = Path(__file__).parents[3] / "infra" / "models" / "yard-tiny"
SCHEMA = {"type": "object", "properties": {"company": {"type": "string"}}}
EXTRACT = {"type": "extract", "schema": SCHEMA}


@pytest.fixture
def tenant(database: Database, store: Store, session: Session) -> UUID:
    tenant = build.tenant(session)
    session.commit()
    catalog.register_folder(database, store, tenant, name="yard-tiny", folder=TINY)
    return tenant


def upload(session: Session, tenant: UUID, count: int = 1, *, filename: str = "a.txt", size: int = 400) -> list[str]:
    """Rows of files; nobody reads what they hold."""
    rows = [
        File(id=new_id(), tenant_id=tenant, filename=filename, purpose="document", bytes=size, sha256=uuid4().hex * 2)
        for _ in range(count)
    ]
    session.add_all(rows)
    session.flush()
    return [files.public_id(row) for row in rows]


def prepare(session: Session, tenant: UUID, **fields: Any) -> Prepared:
    given = {"model": "yard-tiny", "operation": EXTRACT, "max_tokens": 64, "files": None, **fields}
    given["files"] = given["files"] or upload(session, tenant)
    return documents.prepare(session, tenant, DocumentSetSpec.model_validate(given))


def refused(session: Session, tenant: UUID, **fields: Any) -> ModelyardError:
    with pytest.raises(Unprocessable) as error:
        prepare(session, tenant, **fields)
    return error.value


def submit(session: Session, tenant: UUID, names: list[str], **spec: Any) -> Job:
    given = {"model": "yard-tiny", "operation": EXTRACT, "max_tokens": 64, "files": names, **spec}
    request = JobRequest(kind="document_set", spec=given, gpu_class="cpu")
    return jobs.submit(session, tenant, request).job


def children(session: Session, tenant: UUID, parent: Job) -> list[Job]:
    return repository.page(session, tenant, limit=100, parent_id=parent.id)[::-1]


def claim_of(job: Job) -> Claim:
    fields = dict.fromkeys(Claim.__dataclass_fields__)
    return Claim(**fields | {"tenant_id": job.tenant_id, "spec": job.spec, "parent_id": job.parent_id})  # type: ignore[arg-type]


class TestPrepare:
    def test_each_file_is_a_line(self, session: Session, tenant: UUID) -> None:
        names = upload(session, tenant, 3, filename="Ünïcode.pdf")
        prepared = prepare(session, tenant, files=names)
        assert [line["file_id"] for line in prepared.lines] == names
        assert {line["filename"] for line in prepared.lines} == {"Ünïcode.pdf"}
        assert (prepared.total, prepared.unit, prepared.job_lines, prepared.child_lines) == (3, "documents", 0, 8)

    def test_the_order_of_a_schema_survives_the_database(self, session: Session, tenant: UUID) -> None:
        zoo = {"type": "object", "properties": {name: {"type": "string"} for name in ("zebra", "ape", "bee")}}
        given = {"type": "object", "properties": {"late": {"type": "array", "items": zoo}, "a": {"type": "null"}}}
        parent = submit(session, tenant, upload(session, tenant), operation={"type": "extract", "schema": given})
        session.expire_all()
        stored = schemas.shape(session.get_one(Job, parent.id).spec["operation"]["schema"])
        assert [path for path, _ in stored.leaves()] == ["late.*.zebra", "late.*.ape", "late.*.bee", "a"]

    def test_a_named_pack_is_stored_as_it_is_now(self, session: Session, tenant: UUID) -> None:
        stored = prepare(session, tenant, pack="annual-report", operation={"type": "summarize"}).spec["pack"]
        assert Pack.model_validate(stored).name == "annual-report"
        assert stored["rules"]

    def test_an_unknown_pack_names_its_field(self, session: Session, tenant: UUID) -> None:
        assert refused(session, tenant, pack="tax-law").param == "spec.pack"

    def test_files_that_are_missing_or_given_twice_are_named(self, session: Session, tenant: UUID) -> None:
        other = build.tenant(session)
        mine, foreign = upload(session, tenant)[0], upload(session, other)[0]
        error = refused(session, tenant, files=[mine, foreign, "file-nonsense", mine])
        assert [(each.param, each.code) for each in error.errors] == [
            ("spec.files.1", "not_found"),
            ("spec.files.2", "not_found"),
            ("spec.files.3", "duplicate"),
        ]

    def test_larger_files_are_planned_to_cost_more(self, session: Session, tenant: UUID) -> None:
        small, large = (prepare(session, tenant, files=upload(session, tenant, size=size)) for size in (10**3, 10**6))
        assert 0 < small.planned_gpu_s < large.planned_gpu_s / 100

    @pytest.mark.parametrize("template", ["{text:>9999999999}", "{text!r}", "{filename:x}{text}"])
    def test_a_template_only_names(self, session: Session, tenant: UUID, template: str) -> None:
        error = refused(session, tenant, operation={"type": "custom", "template": template})
        assert error.param == "spec.operation.template"

    def test_a_schema_is_checked_in_its_place(self, session: Session, tenant: UUID) -> None:
        schema = {"type": "object", "properties": {"a": {"$ref": "http://169.254.169.254/"}}}
        error = refused(session, tenant, operation={"type": "extract", "schema": schema})
        assert error.param == "spec.operation.schema.properties.a.$ref"


class TestFit:
    """yard-tiny holds 2,048 tokens."""

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"max_tokens": 1000}, "spec.max_tokens"),
            ({"chunking": {"tokens": 1900}}, "spec.chunking.tokens"),
            ({"chunking": {"tokens": 100, "overlap": 51}}, "spec.chunking.overlap"),
            ({"operation": {"type": "summarize"}, "max_tokens": 400}, "spec.max_tokens"),
            ({"operation": {"type": "custom", "template": "{text}" + "word " * 2000}}, "spec.operation"),
        ],
    )
    def test_what_does_not_fit_is_named_with_the_largest_that_does(
        self, session: Session, tenant: UUID, fields: dict[str, Any], param: str
    ) -> None:
        error = refused(session, tenant, **fields)
        assert isinstance(error, ValidationFailed)
        assert [(each.param, each.code) for each in error.errors] == [(param, "context_length_exceeded")]

    @pytest.mark.parametrize("operation", [EXTRACT, {"type": "summarize"}])
    def test_the_value_that_is_named_fits(self, session: Session, tenant: UUID, operation: dict[str, Any]) -> None:
        told = refused(session, tenant, operation=operation, max_tokens=2000).message
        most = int(told.split("at most ")[1].split()[0])
        assert prepare(session, tenant, operation=operation, max_tokens=most).total == 1
        assert refused(session, tenant, operation=operation, max_tokens=most + 1).param == "spec.max_tokens"

    def test_the_largest_chunk_that_is_named_fits(self, session: Session, tenant: UUID) -> None:
        told = refused(session, tenant, chunking={"tokens": 2000}).message
        most = int(told.rpartition(" ")[2])
        assert prepare(session, tenant, chunking={"tokens": most}).total == 1


class TestChildren:
    def test_eight_files_to_a_child_and_the_list_in_the_parent_alone(self, session: Session, tenant: UUID) -> None:
        names = upload(session, tenant, 10)
        parent = submit(session, tenant, names, pack="annual-report")
        parts = children(session, tenant, parent)
        assert (parent.driver, parent.progress_total, len(parent.spec["files"])) == (Driver.CHILDREN, 10, 10)
        assert [part.progress_total for part in parts] == [8, 2]
        assert all("files" not in part.spec and part.spec["pack"] == "annual-report" for part in parts)
        rows = session.query(DocumentSetFile).order_by(DocumentSetFile.position).all()
        assert [row.position for row in rows] == list(range(10))

    def test_a_child_works_by_its_parents_spec(self, session: Session, tenant: UUID) -> None:
        names = upload(session, tenant, 2)
        inline = {"name": "mine", "terms": [{"name": "company", "aliases": ["firm"]}]}
        parent = submit(session, tenant, names, pack=inline)
        (part,) = children(session, tenant, parent)
        spec = documents.spec_of(session, claim_of(part))
        assert spec.files == names
        assert isinstance(spec.pack, Pack)
        assert spec.pack.terms[0].aliases == ["firm"]

    def test_parent_and_child_can_be_run_again(self, session: Session, tenant: UUID) -> None:
        names = upload(session, tenant, 9)
        parent = submit(session, tenant, names)
        lifecycle.cancel(session, tenant, parent.id, reason="test")
        session.expire_all()
        last = children(session, tenant, parent)[-1]
        assert State(last.state) is State.CANCELLED
        again = jobs.retry(session, tenant, last.id).job
        assert (again.retry_of, again.spec["files"]) == (last.id, names[8:])
        spec = documents.restore(parent.spec, tuple({"file_id": name} for name in names))
        assert documents.prepare(session, tenant, spec).spec == parent.spec

    def test_a_child_that_is_run_again_keeps_a_pack_that_came_with_the_request(
        self, session: Session, tenant: UUID
    ) -> None:
        names = upload(session, tenant, 9)
        parent = submit(session, tenant, names, pack={"name": "annual-report", "terms": [{"name": "company"}]})
        lifecycle.cancel(session, tenant, parent.id, reason="test")
        session.expire_all()
        last = children(session, tenant, parent)[-1]
        again = jobs.retry(session, tenant, last.id).job
        assert (again.spec["pack"], again.spec["files"]) == (parent.spec["pack"], names[8:])
        lifecycle.end(session, [Ending(parent.id, parent.attempt, Outcome.CANCELLED)])
        session.expire_all()
        assert jobs.retry(session, tenant, parent.id).job.spec == parent.spec


def test_a_set_of_ten_thousand_files_is_small(session: Session, tenant: UUID) -> None:
    prepared = prepare(session, tenant, files=upload(session, tenant, 10_000))
    assert prepared.child_spec is not None
    assert len(orjson.dumps(prepared.child_spec)) < 1000
    assert prepared.total == 10_000
