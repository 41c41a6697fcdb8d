"""Chains whose later jobs name what earlier ones make: the real courier, store and runner."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from services.catalog import service as catalog
from services.compression import repository as compression
from services.jobs import lifecycle, service
from services.jobs.types import Outcome
from shared.contracts.jobs import JobRequest, State
from shared.db.models import Job, Model
from shared.errors import StoreUnavailable
from shared.failpoints import armed
from shared.http import Outbound
from shared.ids import new_id
from shared.storage import Store
from tests.services.imports import build as folders
from tests.services.jobs import build
from tests.support import wait_until
from tests.support.configured import configured
from tests.workers.conftest import FORGE, SERVE, World
from workers.courier import Courier
from workers.tasks import late
from workers.tasks.control import Context, handler
from workers.tasks.repository import Task

pytestmark = [pytest.mark.timeout(120)]

END_S = 60.0  #: a forge takes 8 s of CPU to import its libraries, on a host that others use too
CAST: dict[str, Any] = {"scheme": "fp16", "evaluation": None}  # imports the fewest libraries


@contextmanager
def courier(world: World, store: Store | None = None) -> Iterator[Courier]:
    """A courier on a thread."""
    sender = Outbound(timeout_s=world.settings.webhook_timeout_s, allow_http=True)
    running = Courier(Context(world.database, store or Store.of(world.settings)), sender)
    stopping = threading.Event()
    thread = threading.Thread(target=running.run, args=(stopping,))
    thread.start()
    try:
        yield running
    finally:
        stopping.set()
        running.wake()
        thread.join()


def quantization(*behind: dict[str, Any], **spec: Any) -> dict[str, Any]:
    given = {"model": "$result", **CAST, **spec}
    return {"kind": "quantization", "spec": given, "gpu_class": "cpu", "on_success": list(behind)}


def submit(world: World, request: dict[str, Any]) -> list[UUID]:
    """The job, and those behind it."""
    with world.database.transaction() as session:
        found = [service.submit(session, world.tenant, JobRequest.model_validate(request)).job.id]
        while next_ := session.scalar(select(Job.id).where(Job.after_job_id == found[-1])):
            found.append(next_)
    return found


def model(world: World, name: str) -> Model:
    with world.database.transaction() as session:
        return catalog.get(session, world.tenant, name)


def make(world: World, job: UUID, made: Model) -> None:
    """Let a quantization succeed with a model that is there already."""
    with world.database.transaction() as session:
        (claim,) = build.claim(session, queue=FORGE)
        assert claim.job_id == job
        compression.finish(session, job, result_model_id=made.id)
        lifecycle.end(session, [build.ending(claim, Outcome.SUCCEEDED)])


@pytest.fixture
def tiny(world: World) -> Model:
    store = Store.of(world.settings)
    return catalog.register_folder(world.database, store, world.tenant, name="tiny", folder=folders.TINY)


class TestChain:
    def test_what_is_imported_is_quantized_by_the_same_request(self, world: World, tmp_path: Path) -> None:
        # Given
        folders.tiny(tmp_path / "root" / "mine")
        chain = {
            "kind": "import_model",
            "spec": {"name": "mine", "source": {"type": "folder", "path": "mine"}},
            "gpu_class": "cpu",
            "on_success": [quantization()],
        }
        with configured(world.settings, models_root=tmp_path / "root") as world.settings, courier(world) as running:
            runner = world.runner()

            # When
            imported, quantized = submit(world, chain)
            runner.wake(SERVE)
            world.wait_for(imported, State.SUCCEEDED, timeout=END_S)

            def planned() -> bool:
                running.wake()
                return not world.get(quantized).blocked

            wait_until(planned, what="the quantization is planned")
            runner.wake(FORGE)
            job = world.wait_for(quantized, State.SUCCEEDED, timeout=END_S)

        # Then
        assert (job.spec["model"], job.spec["name"]) == ("mine@1", "mine-fp16")
        base = model(world, "mine-fp16").source["base"]
        assert (base["name"], base["version"]) == ("mine", 1)


class TestCourier:
    def test_layers_are_looked_at_when_the_model_is_there(self, world: World, tiny: Model) -> None:
        wanted = quantization({"kind": "probe", "spec": {}}, scheme="w4a16", ignore=["lm_head", "re:nothing[.]"])
        first, wrong, last = submit(world, quantization(wanted, model="tiny", name="b"))
        with courier(world) as running:
            make(world, first, tiny)

            def refused() -> bool:
                running.wake()
                return world.state(wrong) == State.CANCELLED

            wait_until(refused)
        found, after = world.get(wrong).error, world.get(last).error
        assert found is not None
        assert after is not None
        assert (found["code"], found["cause"]) == ("validation_failed", str(first))
        assert found["detail"].startswith("spec.ignore.1: 're:nothing[.]' means none of ")
        assert (after["code"], after["cause"]) == ("upstream_failed", str(wrong))

    def test_a_task_whose_end_is_not_recorded_is_done_again(self, world: World, tiny: Model) -> None:
        first, later = submit(world, quantization(quantization(scheme="bf16"), model="tiny"))
        make(world, first, tiny)
        with armed("control.after_work:raise@1"), courier(world) as running:

            def gone() -> bool:
                running.wake()
                with world.database.transaction() as session:
                    return not session.execute(text("SELECT 1 FROM control_tasks")).all()

            wait_until(gone, what="the task is done twice")
        job = world.get(later)
        assert (job.state, job.blocked, job.queue, job.spec["model"]) == (State.QUEUED, False, FORGE, "tiny@1")
        with world.database.transaction() as session:
            assert [claim.job_id for claim in build.claim(session, limit=9, queue=FORGE)] == [later]

    def test_a_store_that_is_away_is_waited_for(self, world: World, tiny: Model) -> None:
        wanted = quantization(scheme="w4a16", ignore=["lm_head"])
        first, later = submit(world, quantization(wanted, model="tiny"))
        make(world, first, tiny)
        away = Store.of(world.settings.model_copy(update={"s3_endpoint": "127.0.0.1:9"}))
        task = Task(new_id(), world.tenant, "plan", later, "quantization", 1)
        with pytest.raises(StoreUnavailable):
            handler(task)(Context(world.database, away), task)
        assert world.get(later).blocked
        late.plan(Context(world.database, Store.of(world.settings)), task)
        assert (world.get(later).blocked, world.get(later).queue) == (False, FORGE)
