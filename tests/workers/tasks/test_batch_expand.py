"""A batch's file becomes child jobs: real PostgreSQL, real S3."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from services.batches import input as source
from services.batches.input import Lines, Request
from services.batches.parts import divide
from services.inference import service as inference
from services.jobs import service
from services.jobs.explain import Cause, explain
from shared.contracts.batches import BatchStatus
from shared.contracts.jobs import State
from shared.db.session import Database
from shared.ids import new_id
from shared.storage import Store
from tests.services.batches.build import CHAT, body, envelope, file, jsonl
from tests.services.inference import build
from tests.workers.tasks.batch_world import World
from workers.tasks import batch as tasks
from workers.tasks.control import Context
from workers.tasks.repository import Task


@pytest.fixture
def world(database: Database, store: Store) -> World:
    return World.of(database, store)


class TestExpand:
    def test_a_file_becomes_children_of_a_thousand_lines(self, world: World) -> None:
        job = world.submit(file(2300))
        assert world.batch(job).status is BatchStatus.VALIDATING
        assert world.tasks() == ["expand"]
        world.work("expand", job)
        parent, claims = world.job(job), world.claim()
        assert (parent.state, parent.queue, parent.progress_total) == (State.RUNNING, "control", 2300)
        assert sorted(claim.progress_total or 0 for claim in claims) == [300, 1000, 1000]
        assert {(claim.queue, claim.tier) for claim in claims} == {("cpu.serve", 2)}
        assert world.batch(job).status is BatchStatus.IN_PROGRESS
        assert world.batch(job).row.model == "tiny"
        assert world.counts(job) == (2300, 0, 0)
        numbers = [item.line_no for claim in claims for item in world.items(claim.job_id)]
        assert sorted(numbers) == list(range(2300))

    def test_a_line_keeps_its_number_its_name_and_its_body(self, world: World) -> None:
        world.expanded(b"\n" + file(3) + b"\n" + jsonl(envelope(9, body=body("much longer " * 100))))
        (claim,) = world.claim()
        found = {item.line_no: item for item in world.items(claim.job_id)}
        assert {number: item.custom_id for number, item in found.items()} == {
            0: "line-0", 1: "line-1", 2: "line-2", 3: "line-9",
        }  # fmt: skip
        assert found[1].input == body("line 1")
        assert world.items(claim.job_id)[0].line_no == 3  # the longest goes first

    def test_children_are_not_larger_than_they_may_be(self, world: World) -> None:
        large = [envelope(n, body=body(f"{n}" + "x" * 900_000)) for n in range(20)]
        world.expanded(jsonl(*large))
        sizes = [claim.progress_total or 0 for claim in world.claim()]
        assert sum(sizes) == 20
        assert max(sizes) * 900_000 < 8 * 2**20

    def test_a_child_has_one_model(self, world: World) -> None:
        with world.database.transaction() as session:
            build.model(session, world.tenant, name="other", digest="ef" * 32)
        lines = (envelope(n, body=body(f"{n}", model="other" if n % 3 else "tiny")) for n in range(30))
        job = world.expanded(jsonl(*lines))
        claims = world.claim()
        with world.database.transaction() as session:
            models = {inference.model_of(session, claim).name: claim for claim in claims}
        assert {name: claim.progress_total for name, claim in models.items()} == {"tiny": 10, "other": 20}
        assert {item.input["model"] for item in world.items(models["other"].job_id)} == {"other"}
        assert world.batch(job).row.model is None

    def test_a_line_of_an_unknown_model_is_an_error_of_that_line_alone(self, world: World) -> None:
        world.expanded(jsonl(envelope(0), envelope(1, body=body("a", model="gone")), envelope(2, body={})))
        (claim,) = world.claim()
        inputs = {item.line_no: item.input for item in world.items(claim.job_id)}
        assert inputs[1] == {"unknown_model": "gone", "body": body("a", model="gone")}
        assert inputs[2] == {}

    def test_a_file_that_names_no_model_of_ours_fails_the_batch(self, world: World) -> None:
        job = world.expanded(
            b"\n" + jsonl(envelope(0, body=body(model="gone")), envelope(1, body={}), envelope(2, body=body(model="x")))
        )
        errors = world.batch(job).row.errors or []
        assert [(each["code"], each["line"], each["param"]) for each in errors] == [
            ("model_not_found", 2, "body.model"),
            ("missing_required_parameter", 3, "body.model"),
            ("model_not_found", 4, "body.model"),
        ]

    def test_a_model_that_no_device_of_the_class_holds_fails_it_too(self, world: World) -> None:
        with world.database.transaction() as session:
            build.model(session, world.tenant, name="huge", bytes=2**45, parameters=2**43)
        job = world.expanded(jsonl(envelope(0, body=body(model="huge"))))
        (error,) = world.batch(job).row.errors or []
        assert (error["code"], error["line"]) == ("unplaceable", 1)

    def test_what_children_are_charged_adds_up_to_the_parents_plan(self, world: World) -> None:
        job = world.expanded(file(1500))
        with world.database.transaction() as session:
            planned = session.execute(text("SELECT sum(planned_gpu_s) FROM jobs WHERE parent_id IS NOT NULL")).scalar()
        assert planned == pytest.approx(world.job(job).planned_gpu_s)
        assert planned > 0

    def test_doing_it_twice_is_doing_it_once(self, world: World) -> None:
        job = world.expanded(file(3))
        world.work("expand", job)
        assert len(world.claim()) == 1

    def test_two_at_once_are_one(self, world: World) -> None:
        job = world.submit(file(1200))
        threads = [threading.Thread(target=world.work, args=("expand", job)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(claim.progress_total or 0 for claim in world.claim()) == [200, 1000]

    def test_children_have_the_batchs_deadline(self, world: World) -> None:
        job = world.expanded(file(1), completion_window="4h")
        (claim,) = world.claim()
        assert claim.seconds_left == pytest.approx(4 * 3600, abs=60)
        parent = world.job(job)
        assert parent.deadline_at is not None
        assert (parent.deadline_at - parent.created_at).total_seconds() == pytest.approx(4 * 3600, abs=5)

    @pytest.mark.parametrize(
        ("content", "code", "line"),
        [
            (file(2) + jsonl(envelope(0)), "duplicate_custom_id", 3),
            (file(1) + jsonl(envelope(1, url="/v1/embeddings")), "invalid_url", 2),
            (file(1) + b"x" * (2**20 + 1) + b"\n", "line_too_long", 2),
            (b"\xef\xbb\xbf" + file(1), "byte_order_mark", 1),
            (file(1) + b'{"custom_id": "\\u0000"}\n', "nul_character", 2),
            (file(1) + b"\xff\n", "invalid_utf8", 2),
            (b"", "empty_file", None),
        ],
    )
    def test_a_bad_file_fails_the_batch_and_leaves_no_children(
        self, world: World, content: bytes, code: str, line: int | None
    ) -> None:
        job = world.expanded(content)
        failed = world.batch(job)
        assert failed.status is BatchStatus.FAILED
        assert failed.job.error is not None
        assert (failed.job.error["code"], failed.job.error["retryable"]) == ("invalid_batch_file", False)
        assert failed.row.errors is not None
        assert [(each["code"], each["line"]) for each in failed.row.errors] == [(code, line)]
        assert world.claim() == []
        assert world.counts(job) == (0, 0, 0)

    def test_a_file_that_is_lost_fails_the_batch(self, world: World) -> None:
        job = world.submit(file(2))
        world.store.delete(world.tenant, world.input(job).sha256)
        world.work("expand", job)
        errors = world.batch(job).row.errors or []
        assert [each["code"] for each in errors] == ["blob_missing"]

    def test_a_batch_that_was_cancelled_meanwhile_stays_cancelled(self, world: World) -> None:
        job = world.submit(file(2))
        world.cancel(job)
        world.work("expand", job)
        assert world.batch(job).status is BatchStatus.CANCELLED
        assert world.claim() == []

    def test_a_cancel_in_the_middle_takes_the_children_back(self, world: World, tmp_path: Path) -> None:
        """It does not wait for the file to be written down, either: the batch is not locked before that is done."""
        job = world.submit(file(3000))

        class Cancelled(Lines):
            def requests(self, numbers: Iterable[int]) -> Iterator[Request]:
                if 0 in (numbers := list(numbers)):
                    world.cancel(job)
                return super().requests(numbers)

        (path := tmp_path / "input.jsonl").write_bytes(file(3000))
        lines = Cancelled(**vars(source.read(path, endpoint=CHAT)))
        with world.database.transaction() as session:
            division = divide(session, service.get(session, world.tenant, job), lines)
        task = Task(new_id(), world.tenant, "expand", job, "batch", 1)
        tasks._make_children(Context(world.database, world.store), task, lines, division)
        assert world.batch(job).status is BatchStatus.CANCELLED
        assert world.claim() == []

    def test_a_paused_batchs_children_wait(self, world: World) -> None:
        job = world.submit(file(2))
        with world.database.transaction() as session:
            service.pause(session, world.tenant, job)
        world.work("expand", job)
        assert world.claim() == []
        with world.database.transaction() as session:
            service.resume(session, world.tenant, job)
        assert len(world.claim()) == 1

    def test_it_says_what_it_waits_for(self, world: World) -> None:
        job = world.submit(file(2))
        with world.database.transaction() as session:
            found = explain(session, service.get(session, world.tenant, job))
        assert (found.cause, found.queue, found.position) == (Cause.EXPANDING, "control", None)
        world.work("expand", job)
        with world.database.transaction() as session:
            found = explain(session, service.get(session, world.tenant, job))
        assert (found.cause, found.children) == (Cause.PARENT_RUNNING, 1)
