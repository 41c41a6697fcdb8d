"""What a tuning does after it ran out of memory: in which order, and when nothing is left."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.jobs.types import Outcome
from services.tuning import orders
from services.workers import service as workers
from services.workers.types import Slots
from shared.contracts.jobs import EventType, JobError, Pool, State
from shared.contracts.tuning import Relief
from shared.db.models import Worker
from tests.services.jobs import build
from tests.services.tuning.came import setting
from tests.workers.conftest import World
from tests.workers.tuning_desk import TuningDesk
from workers.operations.tuning_relief import OUT_OF_MEMORY, next_step, relieve
from workers.runtime.work import JobFailed, Work

QUEUE = "h200.forge"
ENOUGH = JobError(code=OUT_OF_MEMORY, title="The forge ran out of memory", detail="CUDA out of memory")


class TestOrder:
    def test_one_thing_at_a_time_until_nothing_is_left(self) -> None:
        """As a forge would answer each step, on a GPU whose class has another device."""
        relief, had, words = Relief(), setting(batch_size=16, micro_batch_size=6, accumulation=2), []
        while step := next_step(relief, had, gpu=True, wider=None if relief.devices else 2):
            relief, told = step.relief, step.words
            words.append(told)
            had = setting(
                micro_batch_size={0: 6, 1: 2, 2: 1}[relief.halvings],
                gradient_checkpointing=relief.gradient_checkpointing,
                activation_offloading=relief.activation_offloading,
                devices=relief.devices or 1,
            )
        assert words == [
            "half the micro-batch (2)",  # 3 does not divide 16
            "half the micro-batch (1)",
            "gradient checkpointing",
            "activations in the host's memory",
            "2 devices",
        ]
        assert relief == Relief(halvings=2, gradient_checkpointing=True, activation_offloading=True, devices=2)

    def test_a_cpu_has_no_other_memory_to_put_activations_in(self) -> None:
        last = setting(micro_batch_size=1, gradient_checkpointing=True)
        assert next_step(Relief(), last, gpu=False, wider=None) is None

    def test_what_never_came_to_train_needs_more_devices(self) -> None:
        assert next_step(Relief(), None, gpu=True, wider=None) is None
        step = next_step(Relief(), None, gpu=True, wider=4)
        assert step is not None
        assert step.relief == Relief(devices=4)

    def test_a_batch_that_more_devices_cannot_share_stays_where_it_is(self) -> None:
        last = setting(batch_size=3, micro_batch_size=1, gradient_checkpointing=True, activation_offloading=True)
        assert next_step(Relief(), last, gpu=True, wider=2) is None

    def test_a_forge_that_does_not_listen_is_asked_once(self) -> None:
        deaf = setting(micro_batch_size=1)
        relief = Relief(gradient_checkpointing=True, activation_offloading=True)
        assert next_step(relief, deaf, gpu=True, wider=None) is None


class TestDevices:
    @pytest.fixture
    def desk(self, world: World) -> TuningDesk:
        return TuningDesk(world)

    def test_a_job_waits_for_a_worker_that_has_more(self, world: World, desk: TuningDesk) -> None:
        work, last = stuck(world, desk), setting(micro_batch_size=1, gradient_checkpointing=True)
        host = world.runner(worker_pools=["serve"]).host

        async def run(**had: Any) -> None:
            with world.database.transaction() as session:
                material = orders.read(session, work.claim)
            goes_on, finish = await relieve(
                work, host, material, setting=last.model_copy(update=had), failure=JobFailed(ENOUGH)
            )
            assert goes_on == replace(material, relief=goes_on.relief)
            assert (finish is None) == (goes_on.relief.devices is None)
            if finish is not None:
                assert finish.ending.outcome is Outcome.RELEASED
                await host.ledger.end(finish)

        asyncio.run(run())
        assert desk.tuning(work.id).relief["activation_offloading"] is True
        assert world.state(work.id) == State.RUNNING

        asyncio.run(run(activation_offloading=True))
        job = world.get(work.id)
        assert (job.state, job.devices, job.plan["devices"]) == (State.QUEUED, 2, 2)
        assert (job.failure_count, job.lost_count) == (0, 0)
        assert desk.tuning(work.id).relief["devices"] == 2
        assert [told["reason"] for told in desk.events(work.id, EventType.ADJUSTED)] == [
            "ran out of memory at step 40: goes on with activations in the host's memory",
            "ran out of memory at step 40: goes on with 2 devices",
        ]

    def test_where_nobody_has_more_it_fails_and_says_what_would_help(self, world: World, desk: TuningDesk) -> None:
        work = stuck(world, desk, devices=1)
        host = world.runner(worker_pools=["serve"]).host
        with world.database.transaction() as session:
            material = replace(orders.read(session, work.claim), relief=Relief(halvings=3))
        last = setting(micro_batch_size=1, gradient_checkpointing=True, activation_offloading=True)
        with pytest.raises(JobFailed) as failure:
            asyncio.run(relieve(work, host, material, setting=last, failure=JobFailed(ENOUGH)))
        error = failure.value.error
        assert (failure.value.permanent, error.code, error.retryable) == (True, OUT_OF_MEMORY, False)
        assert error.detail.startswith(
            "CUDA out of memory. It had tried the micro-batch halved 3 times. Nothing is left"
        )


def stuck(world: World, desk: TuningDesk, *, devices: int = 2) -> Work:
    """A tuning on an H200 of a worker that has so many, at step 40."""
    with world.database.transaction() as session:
        here = workers.describe(
            "h200", pools=[Pool.FORGE], devices=range(devices), slots={Pool.FORGE: Slots(devices, devices)}
        )
        workers.register(session, here)
        assert session.get_one(Worker, here.id).queues == [QUEUE]
    job = desk.tune()
    world.execute("UPDATE jobs SET gpu_class = 'h200', queue = :queue WHERE id = :id", queue=QUEUE, id=job)
    with world.database.transaction() as session:
        (claim,) = build.claim(session, queue=QUEUE)
    work = Work(claim)
    work.progress(40, 100, "steps")
    return work
