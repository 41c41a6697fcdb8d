"""The lines of a batch become two files: real PostgreSQL, real S3."""

import hashlib

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from services.artifacts import service as artifacts
from services.files import service as files
from services.jobs import lifecycle, service
from services.jobs.types import LineRecord, Outcome
from shared.contracts.batches import BatchStatus
from shared.contracts.jobs import JobError, Usage
from shared.db.models import File
from shared.db.session import Database
from shared.failpoints import Injected, armed
from shared.ids import new_id, prefixed
from shared.storage import Store
from tests.services.batches.build import REFUSED, envelope, file, jsonl
from tests.workers.tasks.batch_world import ANSWER, SPENT, World


@pytest.fixture
def world(database: Database, store: Store) -> World:
    return World.of(database, store)


def derived(prefix: str, sha256: str, number: int) -> str:
    return prefix + hashlib.sha256(f"{prefix}{sha256}:{number}".encode()).hexdigest()[:32]


class TestMerge:
    def test_the_files_have_these_bytes(self, world: World) -> None:
        content = jsonl(envelope(0), envelope(1, custom_id='"ü"'), envelope(2))
        job = world.expanded(content)
        world.run(world.claim(), bad=[1])
        world.work("merge", job)
        sha256, born = hashlib.sha256(content).hexdigest(), int(world.input(job).created_at.timestamp())
        asked = [derived("req_", sha256, n) for n in range(3)]
        answers = [
            {
                "id": derived("batch_req_", sha256, n),
                "custom_id": f"line-{n}",
                "response": {
                    "status_code": 200,
                    "request_id": asked[n],
                    "body": {
                        "id": derived("chatcmpl-", sha256, n),
                        "object": "chat.completion",
                        "created": born,
                        "model": "tiny",
                        "usage": {"total_tokens": 8, "prompt_tokens": 5, "completion_tokens": 3},
                        "choices": [
                            {
                                "index": 0,
                                "message": {"role": "assistant", "content": "out"},
                                "finish_reason": "stop",
                            }
                        ],
                    },
                },
                "error": None,
            }
            for n in (0, 2)
        ]
        refused = {
            "id": derived("batch_req_", sha256, 1),
            "custom_id": '"ü"',
            "response": {"status_code": 400, "request_id": asked[1], "body": REFUSED},
            "error": None,
        }
        done = world.batch(job)
        assert world.read(done.row.output_file_id) == b"".join(orjson.dumps(each) + b"\n" for each in answers)
        assert orjson.loads(world.read(done.row.error_file_id)) == refused
        assert done.status is BatchStatus.COMPLETED
        assert world.counts(job) == (3, 2, 1)
        with world.database.transaction() as session:
            named = [(each.name, each.position) for each in artifacts.of_job(session, world.tenant, job)]
        assert named == [("output.jsonl", 0), ("errors.jsonl", 1)]

    def test_two_batches_of_one_file_are_the_same(self, world: World) -> None:
        job = world.expanded(file(50))
        world.run(world.claim())
        world.work("merge", job)
        with world.database.transaction() as session:
            spec = {"input_file_id": world.job(job).spec["input_file_id"]}
            again = service.retry(session, world.tenant, job, spec=world.job(job).spec | spec).job.id
        world.work("expand", again)
        world.run(world.claim())
        world.work("merge", again)
        one, other = world.batch(job), world.batch(again)
        assert one.row.output_file_id != other.row.output_file_id
        assert world.read(one.row.output_file_id) == world.read(other.row.output_file_id)
        assert other.job.retry_of == job

    def test_lines_come_in_input_order_whoever_ran_them(self, world: World) -> None:
        job = world.expanded(file(2100))
        world.run(reversed(world.claim()), bad=range(0, 2100, 7))
        assert world.tasks() == ["expand", "merge"]
        world.work("merge", job)
        good, bad = world.output(job), world.errors(job)
        assert [line["custom_id"] for line in good] == [f"line-{n}" for n in range(2100) if n % 7]
        assert [line["custom_id"] for line in bad] == [f"line-{n}" for n in range(0, 2100, 7)]
        assert world.counts(job) == (2100, 1800, 300)

    def test_usage_is_the_sum_of_the_lines(self, world: World) -> None:
        job = world.expanded(file(1500))
        for claimed in world.claim():
            world.answer(claimed)
            world.end(claimed, usage=Usage(gpu_seconds=7.0, cost=0.5))
        world.work("merge", job)
        done = world.batch(job)
        assert (done.job.prompt_tokens, done.job.completion_tokens) == (5 * 1500, 3 * 1500)
        assert (done.row.cached_tokens, done.job.gpu_seconds, done.job.cost) == (2 * 1500, 14.0, 1.0)

    def test_no_file_without_lines(self, world: World) -> None:
        good, bad = world.expanded(file(2)), world.expanded(file(3))
        world.run(world.claim(), bad=range(3))
        for job in (good, bad):
            world.work("merge", job)
        assert world.batch(bad).row.output_file_id is None
        assert world.batch(bad).status is BatchStatus.COMPLETED
        assert world.counts(bad) == (3, 0, 3)
        assert len(world.errors(bad)) == 3

        job = world.expanded(file(2))
        world.run(world.claim())
        world.work("merge", job)
        assert world.batch(job).row.error_file_id is None

    def test_long_lines_are_written_a_few_at_a_time(self, world: World) -> None:
        job = world.expanded(file(12))
        (claimed,) = world.claim()
        long = {**ANSWER, "noise": [str(new_id()) for _ in range(60_000)]}  # 2.3 MB that do not compress
        records = [
            LineRecord(claimed.job_id, claimed.attempt, n, output={"body": long, "usage": SPENT}) for n in range(12)
        ]
        with world.database.transaction() as session:
            lifecycle.record_lines(session, records)
        world.end(claimed)
        world.work("merge", job)
        assert [line["custom_id"] for line in world.output(job)] == [f"line-{n}" for n in range(12)]

    def test_other_answers_have_ids_of_their_own_kind(self, world: World) -> None:
        lines = [envelope(n, url="/v1/completions", body={"model": "tiny", "prompt": "a"}) for n in range(2)]
        job = world.expanded(jsonl(*lines), endpoint="/v1/completions")
        (claimed,) = world.claim()
        bodies = [{"object": "text_completion", "choices": []}, {"object": "list", "data": []}]
        records = [
            LineRecord(claimed.job_id, claimed.attempt, n, output={"body": each, "usage": SPENT})
            for n, each in enumerate(bodies)
        ]
        with world.database.transaction() as session:
            lifecycle.record_lines(session, records)
        world.end(claimed)
        world.work("merge", job)
        text_, vectors = (line["response"]["body"] for line in world.output(job))
        assert text_["id"].startswith("cmpl-")
        assert set(vectors) == {"object", "data"}

    def test_dying_after_the_upload_changes_nothing(self, world: World) -> None:
        job = world.expanded(file(5))
        world.run(world.claim())
        with armed("finish.after_upload:raise"), pytest.raises(Injected):
            world.work("merge", job)
        assert world.batch(job).status is BatchStatus.FINALIZING
        world.work("merge", job)
        world.work("merge", job)
        assert world.batch(job).status is BatchStatus.COMPLETED
        with world.database.transaction() as session:
            assert session.query(File).where(File.purpose == "batch_output").count() == 1

    @pytest.mark.parametrize(("asked", "kept"), [(None, 2_592_000), (7200, 7200)])
    def test_what_it_wrote_is_kept_as_long_as_asked(self, world: World, asked: int | None, kept: int) -> None:
        job = world.expanded(file(1), output_expires_s=asked)
        world.run(world.claim())
        world.work("merge", job)
        file_id = prefixed("file-", world.batch(job).row.output_file_id or new_id())
        with world.database.transaction() as session:
            found = files.get(session, world.tenant, file_id)
        assert found.expires_at is not None
        assert (found.expires_at - found.created_at).total_seconds() == pytest.approx(kept, abs=1)


class TestEnds:
    """However a batch ends, what is answered is kept, and every other line says why it is not."""

    def test_cancelled(self, world: World) -> None:
        job = world.expanded(file(1500))
        first, second = world.claim()
        world.answer(first, limit=10)
        world.answer(second, limit=5)
        world.cancel(job)
        assert world.batch(job).status is BatchStatus.CANCELLING
        world.end(first, Outcome.CANCELLED)
        world.end(second, Outcome.CANCELLED)
        world.work("merge", job)
        assert world.batch(job).status is BatchStatus.CANCELLED
        assert world.counts(job) == (1500, 15, 1485)
        assert len(world.output(job)) == 15
        told = {(line["response"], line["error"]["code"]) for line in world.errors(job)}
        assert told == {(None, "batch_cancelled")}

    def test_cancelled_before_any_line_ran(self, world: World) -> None:
        job = world.expanded(file(3))
        world.cancel(job)
        world.work("merge", job)
        done = world.batch(job)
        assert (done.status, done.row.output_file_id) == (BatchStatus.CANCELLED, None)
        assert world.counts(job) == (3, 0, 3)

    def test_expired(self, world: World) -> None:
        job = world.expanded(file(1500))
        first, second = world.claim()
        world.run([first])
        world.answer(second, limit=1)
        world.end(second, Outcome.EXPIRED, error=lifecycle.DEADLINE)
        world.work("merge", job)
        done = world.batch(job)
        assert done.status is BatchStatus.EXPIRED
        assert len(world.output(job)) == (first.progress_total or 0) + 1
        assert {line["error"]["code"] for line in world.errors(job)} == {"batch_expired"}
        assert sum(world.counts(job)[1:]) == 1500

    def test_a_part_that_failed_is_an_error_of_its_lines(self, world: World) -> None:
        job = world.expanded(file(1500))
        first, second = world.claim()
        world.run([first])
        broken = JobError(code="engine_died", title="The engine died", detail="three times")
        world.end(second, Outcome.FAILED, permanent=True, error=broken)
        world.work("merge", job)
        assert world.batch(job).status is BatchStatus.COMPLETED
        (told,) = {orjson.dumps(line["error"]) for line in world.errors(job)}
        assert orjson.loads(told) == {"code": "engine_died", "message": "The engine died: three times"}

    def test_all_lines_done_beat_a_late_cancel(self, world: World) -> None:
        job = world.expanded(file(10))
        world.run(world.claim())
        world.cancel(job)
        world.work("merge", job)
        assert world.batch(job).status is BatchStatus.COMPLETED

    def test_counts_that_do_not_add_up_are_refused(self, world: World) -> None:
        job = world.expanded(file(3))
        for wrong in ("completed = 4", "failed = 1, completed = 3", "ended_at = now()", "completed = -1"):
            with pytest.raises(IntegrityError), world.database.transaction() as session:
                session.execute(text(f"UPDATE batch_jobs SET {wrong} WHERE job_id = :id"), {"id": job})
