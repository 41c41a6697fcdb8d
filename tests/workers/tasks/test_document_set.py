"""What the children of a document set recorded becomes tables and reports: real PostgreSQL, real S3."""

import csv
import io
from typing import Any, ClassVar
from uuid import UUID, uuid4

import orjson
import pyarrow.parquet as pq
import pytest

from services.artifacts import service as artifacts
from services.documents import views
from services.documents.views import SetStatus
from services.files import service as files
from services.jobs import lifecycle, service
from services.jobs.types import Claim, LineRecord, Outcome
from shared.contracts.documents import SET_FILES, DocumentResult, DocumentUsage, Value
from shared.contracts.jobs import JobRequest, State, Usage
from shared.db.models import Artifact, File, JobItem
from shared.db.session import Database
from shared.failpoints import Injected, armed
from shared.ids import new_id
from shared.storage import Store
from tests.services.jobs import build as jobs
from tests.workers.tasks.hands import Hands
from workers.tasks import document_set as tasks

NAMES = ["results.jsonl", "results.csv", "results.parquet", "report.json", "report.html"]
EXTRACT = {
    "type": "extract",
    "schema": {"type": "object", "properties": {"zeta": {"type": "number"}, "alpha": {"type": "string"}}},
}


class World(Hands):
    """Hands for jobs of kind document_set."""

    KIND: ClassVar = "document_set"
    TASKS: ClassVar = tasks

    def submit(self, count: int, *, after_job_id: UUID | None = None, **spec: Any) -> UUID:
        with self.database.transaction() as session:
            rows = [
                File(
                    id=new_id(),
                    tenant_id=self.tenant,
                    filename=f"{number}.txt",
                    purpose="document",
                    bytes=100,
                    sha256=uuid4().hex * 2,
                )
                for number in range(count)
            ]
            session.add_all(rows)
            session.flush()
            given = {"model": "tiny", "files": [files.public_id(row) for row in rows], "operation": EXTRACT} | spec
            request = JobRequest(kind="document_set", spec=given, after_job_id=after_job_id)
            return service.submit(session, self.tenant, request).job.id

    def status(self, job_id: UUID) -> SetStatus:
        with self.database.transaction() as session:
            return views.one(session, self.tenant, job_id).status

    def read(self, claimed: Claim, *, bad: int | None = None, limit: int = SET_FILES) -> None:
        """Record the first `limit` documents of a child, last first; document `bad` cannot be read."""
        with self.database.transaction() as session:
            items = list(session.query(JobItem).where(JobItem.job_id == claimed.job_id).order_by(JobItem.line_no))
            records = [
                LineRecord(claimed.job_id, claimed.attempt, item.line_no, error=jobs.BOOM.model_dump(mode="json"))
                if item.line_no == bad
                else LineRecord(claimed.job_id, claimed.attempt, item.line_no, output=result(item))
                for item in items[:limit]
            ]
            assert lifecycle.record_lines(session, records[::-1]) == {claimed.job_id}

    def results(self, job_id: UUID) -> dict[str, bytes]:
        with self.database.transaction() as session:
            rows = list(artifacts.of_job(session, self.tenant, job_id))
        assert [row.name for row in rows] == NAMES
        return {row.name: b"".join(self.store.open(self.tenant, artifacts.blob_of(row))) for row in rows}

    def records(self, job_id: UUID) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.results(job_id)["results.jsonl"].splitlines()]


def result(item: JobItem) -> dict[str, Any]:
    """What a worker would have recorded of a document."""
    given = item.input
    found = DocumentResult(
        file_id=given["file_id"],
        filename=given["filename"],
        sha256=given["sha256"],
        format="text",
        pages=2,
        chunks=1,
        result={"zeta": item.line_no, "alpha": "a"},
        values=(Value(path="zeta", value=item.line_no, page=1, quote="q", check="verified"),),
        usage=DocumentUsage(prompt_tokens=4, completion_tokens=2),
    )
    return found.model_dump(mode="json")


@pytest.fixture
def world(database: Database, store: Store) -> World:
    return World.of(database, store, context_length=8192)


class TestMerge:
    def test_documents_come_in_the_order_of_the_request_whoever_read_them(self, world: World) -> None:
        job = world.submit(2 * SET_FILES + 3)
        for claimed in reversed(world.claim()):
            world.read(claimed, bad=5)
            world.end(claimed)
        assert world.tasks() == ["merge"]
        assert world.status(job) == SetStatus.FINALIZING
        world.work("merge", job)
        merged = world.job(job)
        assert (merged.state, merged.progress_done, merged.prompt_tokens) == (State.SUCCEEDED, 19, 18 * 4)
        found = world.records(job)
        assert [record["filename"] for record in found] == [f"{number}.txt" for number in range(19)]
        assert found[5]["error"]["code"] == "boom"
        assert list(found[6]["result"]) == ["zeta", "alpha"]  # as the schema has them

    def test_every_file_tells_the_same(self, world: World) -> None:
        job = world.submit(3)
        (claimed,) = world.claim()
        world.read(claimed, bad=1)
        world.end(claimed)
        world.work("merge", job)
        made = world.results(job)
        rows = list(csv.DictReader(io.StringIO(made["results.csv"].decode(), newline="")))
        assert [(row["status"], row["zeta"], row["zeta.check"]) for row in rows] == [
            ("ok", "0", "verified"),
            ("error", "", ""),
            ("ok", "2", "verified"),
        ]
        assert pq.read_table(io.BytesIO(made["results.parquet"]))["zeta"].to_pylist() == [0.0, None, 2.0]
        told = orjson.loads(made["report.json"])
        assert told["set_id"] == views.public_id(job)
        assert (told["totals"]["ok"], told["totals"]["errors"], told["totals"]["pages"]) == (2, 1, 4)
        assert b"0.txt" in made["report.html"]

    def test_cost_is_that_of_the_children(self, world: World) -> None:
        job = world.submit(SET_FILES + 1)
        for claimed in world.claim():
            world.read(claimed)
            world.end(claimed, usage=Usage(gpu_seconds=3600.0, cost=1.25))
        world.work("merge", job)
        cost = orjson.loads(world.results(job)["report.json"])["totals"]["cost"]
        assert cost == world.job(job).cost == 2.5

    def test_dying_after_the_upload_changes_nothing(self, world: World) -> None:
        job = world.submit(2)
        (claimed,) = world.claim()
        world.read(claimed)
        world.end(claimed)
        with armed("finish.after_upload:raise"), pytest.raises(Injected):
            world.work("merge", job)
        assert world.job(job).state == State.RUNNING
        world.work("merge", job)
        world.work("merge", job)
        assert world.job(job).state == State.SUCCEEDED
        with world.database.transaction() as session:
            assert session.query(Artifact).count() == len(NAMES)


class TestUnread:
    def test_a_cancelled_set_keeps_what_was_read_and_says_what_was_not(self, world: World) -> None:
        job = world.submit(SET_FILES + 4)
        first, second = sorted(world.claim(), key=lambda claimed: -(claimed.progress_total or 0))
        world.read(first)
        world.end(first)
        world.read(second, limit=1)
        world.cancel(job)
        world.end(second, Outcome.CANCELLED)
        world.work("merge", job)
        assert (world.job(job).state, world.status(job)) == (State.CANCELLED, SetStatus.CANCELLED)
        found = world.records(job)
        assert len(found) == SET_FILES + 4
        assert ["error" in record for record in found] == [False] * (SET_FILES + 1) + [True] * 3
        assert {record["error"]["code"] for record in found[SET_FILES + 1 :]} == {"document_cancelled"}

    def test_a_set_that_is_cancelled_before_anybody_read_has_tables_too(self, world: World) -> None:
        job = world.submit(3)
        world.cancel(job)
        world.work("merge", job)
        assert world.job(job).state == State.CANCELLED
        assert [record["error"]["code"] for record in world.records(job)] == ["document_cancelled"] * 3

    @pytest.mark.parametrize(
        ("outcome", "extra", "code"),
        [
            (Outcome.EXPIRED, {"error": lifecycle.DEADLINE}, "document_expired"),
            (Outcome.FAILED, {"permanent": True}, "boom"),
        ],
    )
    def test_documents_of_a_part_that_did_not_succeed_say_why(
        self, world: World, outcome: Outcome, extra: dict[str, Any], code: str
    ) -> None:
        job = world.submit(SET_FILES + 2)
        first, second = sorted(world.claim(), key=lambda claimed: -(claimed.progress_total or 0))
        world.read(first)
        world.end(first)
        world.end(second, outcome, **extra)
        world.work("merge", job)
        assert world.job(job).state == outcome.value
        found = world.records(job)
        assert [record["error"]["code"] for record in found[SET_FILES:]] == [code] * 2
        assert all("result" in record for record in found[:SET_FILES])
        totals = orjson.loads(world.results(job)["report.json"])["totals"]
        assert (totals["ok"], totals["errors"]) == (SET_FILES, 2)


class TestChain:
    def test_a_set_that_waited_goes_on_with_its_children(self, world: World) -> None:
        with world.database.transaction() as session:
            earlier = jobs.job(session, world.tenant).id
        job = world.submit(2, after_job_id=earlier)
        (first,) = world.claim()
        assert (first.job_id, world.job(job).state) == (earlier, State.QUEUED)
        world.end(first)
        (claimed,) = world.claim()
        world.read(claimed)
        world.end(claimed)  # quicker than the courier
        world.work("expand", job)
        assert world.tasks() == ["expand", "merge"]
        world.work("merge", job)
        assert world.job(job).state == State.SUCCEEDED
        assert len(world.records(job)) == 2
