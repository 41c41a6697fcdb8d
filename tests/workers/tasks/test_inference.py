"""A file becomes child jobs, and their lines one result: real PostgreSQL, real S3."""

from collections.abc import Iterable
from typing import Any, ClassVar
from uuid import UUID

import orjson
import pytest
from sqlalchemy import text

from services.artifacts import service as artifacts
from services.inference import service as inference
from services.jobs import lifecycle, service
from services.jobs.types import Claim, Outcome
from shared.contracts.jobs import State, Usage
from shared.db.models import Artifact
from shared.db.session import Database
from shared.failpoints import Injected, armed
from shared.settings import Settings
from shared.storage import Store
from tests.services.inference import build
from tests.services.jobs import build as jobs
from tests.workers.tasks.hands import Hands
from workers.tasks import inference as tasks


class World(Hands):
    """Hands for jobs of kind inference."""

    KIND: ClassVar = "inference"
    TASKS: ClassVar = tasks

    def submit(self, *, after_job_id: UUID | None = None, **spec: Any) -> UUID:
        request = build.request(**spec).model_copy(update={"after_job_id": after_job_id})
        with self.database.transaction() as session:
            return service.submit(session, self.tenant, request).job.id

    def submit_file(self, content: bytes) -> UUID:
        blob = self.store.put_bytes(self.tenant, content)
        with self.database.transaction() as session:
            file = build.file(session, self.tenant, blob)
        return self.submit(input_file=file)

    def run(self, claims: Iterable[Claim], *, bad: int | None = None) -> None:
        """Answer every line of these children, and end them."""
        for claimed in claims:
            with self.database.transaction() as session:
                first = session.execute(
                    text("SELECT min(line_no) FROM job_items WHERE job_id = :id"), {"id": claimed.job_id}
                ).scalar_one()
                build.run(session, claimed, first=first, count=claimed.progress_total or 0, bad=bad)
                lifecycle.end(session, [jobs.ending(claimed, Outcome.SUCCEEDED)])

    def results(self, job_id: UUID) -> list[dict[str, Any]]:
        with self.database.transaction() as session:
            (artifact,) = artifacts.of_job(session, self.tenant, job_id)
        assert (artifact.name, artifact.position) == ("results.jsonl", 0)
        content = self.store.read(self.tenant, artifacts.blob_of(artifact))
        return [orjson.loads(line) for line in content.splitlines()]


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    store = Store.of(settings)
    store.probe()
    return World.of(database, store)


def prompts(count: int) -> bytes:
    return b"".join(orjson.dumps({"prompt": f"line {n}"}) + b"\n" for n in range(count))


class TestExpand:
    def test_a_file_becomes_children_of_a_thousand_lines(self, world: World) -> None:
        job = world.submit_file(prompts(2300))
        assert world.tasks() == ["expand"]
        world.work("expand", job)
        parent, claims = world.job(job), world.claim()
        assert (parent.state, parent.attempt, parent.progress_total) == (State.RUNNING, 1, 2300)
        assert sorted(claim.progress_total or 0 for claim in claims) == [300, 1000, 1000]
        with world.database.transaction() as session:
            assert {inference.model_of(session, claim).digest for claim in claims} == {"cd" * 32}

    def test_what_children_are_charged_adds_up_to_the_parents_plan(self, world: World) -> None:
        job = world.submit_file(prompts(1500))
        world.work("expand", job)
        with world.database.transaction() as session:
            planned = session.execute(text("SELECT sum(planned_gpu_s) FROM jobs WHERE parent_id IS NOT NULL")).scalar()
        assert planned == pytest.approx(world.job(job).planned_gpu_s)

    def test_doing_it_twice_is_doing_it_once(self, world: World) -> None:
        job = world.submit_file(prompts(3))
        world.work("expand", job)
        world.work("expand", job)
        assert len(world.claim()) == 1

    @pytest.mark.parametrize(
        ("content", "code", "told"),
        [
            (b'{"prompt": "a"}\n{"prompt"\n', "invalid_json", "line 2"),
            (b'{"prompt": "a"}\n' * 3 + b'{"prompt": "\\u0000"}\n', "invalid_line", "line 4"),
            (b"\n", "empty_file", "no lines"),
        ],
    )
    def test_a_bad_file_fails_the_job_and_leaves_no_children(
        self, world: World, content: bytes, code: str, told: str
    ) -> None:
        job = world.submit_file(content)
        world.work("expand", job)
        failed = world.job(job)
        assert failed.state == State.FAILED
        assert failed.error is not None
        assert (failed.error["code"], failed.error["retryable"]) == (code, False)
        assert told in failed.error["detail"]
        assert world.claim() == []

    def test_a_file_that_is_lost_fails_the_job(self, world: World) -> None:
        job = world.submit_file(prompts(2))
        with world.database.transaction() as session:
            sha256 = session.execute(text("SELECT sha256 FROM files")).scalar_one()
        world.store.delete(world.tenant, sha256)
        world.work("expand", job)
        error = world.job(job).error
        assert error is not None
        assert error["code"] == "blob_missing"

    def test_a_job_that_was_cancelled_meanwhile_stays_cancelled(self, world: World) -> None:
        job = world.submit_file(prompts(2))
        with world.database.transaction() as session:
            service.cancel(session, world.tenant, job)
        world.work("expand", job)
        assert world.job(job).state == State.CANCELLED
        assert world.claim() == []

    def test_a_paused_jobs_children_wait(self, world: World) -> None:
        job = world.submit_file(prompts(2))
        with world.database.transaction() as session:
            service.pause(session, world.tenant, job)
        world.work("expand", job)
        assert world.claim() == []
        with world.database.transaction() as session:
            service.resume(session, world.tenant, job)
        assert len(world.claim()) == 1


class TestChain:
    @pytest.fixture
    def earlier(self, world: World) -> UUID:
        with world.database.transaction() as session:
            return jobs.job(session, world.tenant).id

    def test_a_large_job_waits_whole_and_goes_on_whole(self, world: World, earlier: UUID) -> None:
        job = world.submit(after_job_id=earlier, prompts=["x"] * 1500)
        (first,) = world.claim()
        assert (first.job_id, world.job(job).state) == (earlier, State.QUEUED)
        world.end(first, Outcome.SUCCEEDED)
        world.run(world.claim())  # quicker than the courier
        world.work("expand", job)
        assert world.tasks() == ["expand", "merge"]
        world.work("merge", job)
        assert world.job(job).state == State.SUCCEEDED
        assert len(world.results(job)) == 1500

    def test_a_large_job_is_cancelled_whole(self, world: World, earlier: UUID) -> None:
        job = world.submit(after_job_id=earlier, prompts=["x"] * 1500)
        world.end(world.claim()[0], Outcome.FAILED, permanent=True)
        cancelled = world.job(job)
        assert cancelled.state == State.CANCELLED
        assert cancelled.error is not None
        assert cancelled.error["code"] == "upstream_failed"
        assert (world.claim(), world.tasks()) == ([], [])


class TestMerge:
    def test_lines_come_in_input_order_whoever_ran_them(self, world: World) -> None:
        job = world.submit(prompts=[f"line {n}" for n in range(2100)])
        world.run(reversed(world.claim()), bad=7)
        assert world.tasks() == ["merge"]
        world.work("merge", job)
        lines = world.results(job)
        assert [line["index"] for line in lines] == list(range(2100))
        assert lines[7]["error"]["code"] == "boom"
        assert lines[8]["output"]["text"] == "out"
        merged = world.job(job)
        assert (merged.state, merged.progress_done) == (State.SUCCEEDED, 2100)
        assert (merged.prompt_tokens, merged.completion_tokens) == (2 * 2099, 3 * 2099)

    def test_it_waits_for_the_last_child(self, world: World) -> None:
        world.submit(prompts=["x"] * 2001)
        first, *rest = world.claim()
        world.run(rest)
        assert world.tasks() == []
        world.run([first])
        assert world.tasks() == ["merge"]

    def test_dying_after_the_upload_changes_nothing(self, world: World) -> None:
        job = world.submit(prompts=["x"] * 1001)
        world.run(world.claim())
        with armed("finish.after_upload:raise"), pytest.raises(Injected):
            world.work("merge", job)
        assert world.job(job).state == State.RUNNING
        world.work("merge", job)
        world.work("merge", job)
        assert world.job(job).state == State.SUCCEEDED
        with world.database.transaction() as session:
            assert session.query(Artifact).count() == 1

    def test_a_failed_child_fails_its_parent_and_the_rest_is_kept(self, world: World) -> None:
        job = world.submit(prompts=["x"] * 1500)
        first, second = world.claim()
        world.run([first])
        world.end(second, Outcome.FAILED, permanent=True)
        world.work("merge", job)
        failed = world.job(job)
        assert failed.state == State.FAILED
        assert failed.error is not None
        assert (failed.error["code"], failed.error["detail"]) == (
            "boom",
            "1 of 2 parts succeeded; their lines are kept",
        )
        assert len(world.results(job)) == first.progress_total

    def test_a_cancelled_parent_ends_cancelled_with_what_was_done(self, world: World) -> None:
        job = world.submit(prompts=["x"] * 1500)
        first, second = world.claim()
        world.run([first])
        with world.database.transaction() as session:
            service.cancel(session, world.tenant, job)
        world.end(second, Outcome.CANCELLED)
        assert world.tasks() == ["merge"]
        world.work("merge", job)
        assert world.job(job).state == State.CANCELLED
        assert len(world.results(job)) == first.progress_total

    def test_cancelling_before_any_child_ran_ends_it_too(self, world: World) -> None:
        job = world.submit(prompts=["x"] * 1500)
        with world.database.transaction() as session:
            service.cancel(session, world.tenant, job)
        world.work("merge", job)
        assert world.job(job).state == State.CANCELLED
        assert world.results(job) == []

    def test_a_deadline_expires_the_parent(self, world: World) -> None:
        job = world.submit(prompts=["x"] * 1500)
        first, second = world.claim()
        world.run([first])
        world.end(second, Outcome.EXPIRED, error=lifecycle.DEADLINE)
        world.work("merge", job)
        assert world.job(job).state == State.EXPIRED

    def test_a_success_beats_a_late_cancel(self, world: World) -> None:
        job = world.submit(prompts=["x"] * 1500)
        world.run(world.claim())
        with world.database.transaction() as session:
            service.cancel(session, world.tenant, job)
        world.work("merge", job)
        assert world.job(job).state == State.SUCCEEDED

    def test_a_parents_end_leaves_the_tenants_share_alone(self, world: World) -> None:
        job = world.submit(prompts=["x"] * 1500)
        for claimed in world.claim():
            world.end(claimed, Outcome.SUCCEEDED, usage=Usage(gpu_seconds=7.0))
        with world.database.transaction() as session:
            before = session.execute(text("SELECT virtual_time FROM fair_shares")).scalar_one()
        world.work("merge", job)
        with world.database.transaction() as session:
            assert session.execute(text("SELECT virtual_time FROM fair_shares")).scalar_one() == before
