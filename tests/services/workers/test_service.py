"""Workers: who is alive, what they can take, which engines they have."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.workers import hardware
from services.workers import service as workers
from services.workers.types import Boot, Capacity, Figures, Gpu, LoadedEngine, Measure, Slots
from shared.contracts.jobs import Pool
from shared.db.session import Database
from shared.errors import UnknownClass
from shared.ids import new_id

SERVE, FORGE = "cpu.serve", "cpu.forge"


def boot(session: Session, *, free: int = 2, gpu: Gpu | None = None) -> Boot:
    made = workers.describe(
        "cpu",
        pools=list(Pool),
        devices=[0],
        slots={Pool.SERVE: Slots(free, 4), Pool.FORGE: Slots(1, 1)},
        gpu=gpu,
    )
    workers.register(session, made)
    return made


def engine(worker: UUID, **changes: Any) -> LoadedEngine:
    fields: dict[str, Any] = {
        "id": new_id(),
        "worker_id": worker,
        "model_digest": "ab" * 32,
        "kind": "transformers",
        "address": "unix:/run/e.sock",
        "devices": (0,),
        "state": "starting",
        "max_in_flight": 64,
        "in_flight": 0,
        "pid": 4711,
    }
    return LoadedEngine(**(fields | changes))


def silence(session: Session, worker: UUID, *, seconds: int) -> None:
    session.execute(
        text("UPDATE workers SET last_seen_at = clock_timestamp() - make_interval(secs => :s) WHERE id = :id"),
        {"s": seconds, "id": worker},
    )


class TestRegister:
    def test_a_registered_worker_is_listed_alive(self, session: Session) -> None:
        made = boot(session, gpu=Gpu("NVIDIA H200", 143_771 * 2**20))
        (seen,) = workers.workers(session)
        assert (seen.id, seen.host, seen.pid, seen.live) == (made.id, made.host, made.pid, True)
        assert seen.queues == (SERVE, FORGE)
        assert seen.gpu == Gpu("NVIDIA H200", 143_771 * 2**20)
        assert seen.slots == {Pool.SERVE: Slots(2, 4), Pool.FORGE: Slots(1, 1)}
        assert {"python", "celery"} <= set(seen.versions)

    def test_registering_twice_is_one_worker(self, session: Session) -> None:
        workers.register(session, boot(session))
        assert len(workers.workers(session)) == 1

    def test_an_unknown_class_cannot_be_served(self) -> None:
        with pytest.raises(UnknownClass):
            workers.describe("gtx1080", pools=[Pool.SERVE], devices=[0], slots={})


class TestHeartbeat:
    def test_carries_slots_and_the_age_of_the_last_bell(self, session: Session) -> None:
        made = boot(session)
        assert workers.heartbeat(session, made.id, slots={Pool.SERVE: Slots(3, 4)}, bell_age_s=5.0)
        (seen,) = workers.workers(session)
        assert seen.slots[Pool.SERVE] == Slots(3, 4)
        assert seen.last_bell_at is not None
        assert 4.9 < (seen.last_seen_at - seen.last_bell_at).total_seconds() < 5.1

    def test_without_a_bell_the_last_one_stays(self, session: Session) -> None:
        made = boot(session)
        workers.heartbeat(session, made.id, slots={}, bell_age_s=5.0)
        workers.heartbeat(session, made.id, slots={})
        assert workers.workers(session)[0].last_bell_at is not None

    def test_a_silent_worker_is_not_live(self, session: Session) -> None:
        made = boot(session)
        silence(session, made.id, seconds=31)
        assert not workers.workers(session)[0].live
        assert workers.live_queues(session) == frozenset()
        assert workers.heartbeat(session, made.id, slots={})
        assert workers.workers(session)[0].live

    def test_one_that_was_written_off_learns_it(self, session: Session) -> None:
        made = boot(session)
        silence(session, made.id, seconds=61)
        assert workers.stop_silent(session) == [made.id]
        assert not workers.heartbeat(session, made.id, slots={})

    def test_one_that_was_only_late_is_not_written_off(self, session: Session) -> None:
        silence(session, boot(session).id, seconds=59)
        assert workers.stop_silent(session) == []


class TestStop:
    def test_a_stopped_worker_is_listed_for_a_while(self, session: Session) -> None:
        made = boot(session)
        workers.stop(session, made.id)
        (seen,) = workers.workers(session)
        assert not seen.live
        assert seen.stopped_at is not None
        session.execute(text("UPDATE workers SET stopped_at = stopped_at - interval '2 hours'"))
        assert workers.workers(session) == []


class TestCapacity:
    def test_adds_up_live_workers(self, session: Session) -> None:
        boot(session, free=2)
        boot(session, free=0)
        silence(session, boot(session, free=7).id, seconds=31)
        assert workers.capacity(session, [SERVE, "h200.serve"]) == {
            SERVE: Capacity(workers=2, accepting=2, ready=1, free=2),
            "h200.serve": Capacity(),
        }
        assert workers.capacity(session, [FORGE])[FORGE].free == 2

    def test_a_draining_worker_takes_nothing(self, session: Session) -> None:
        made = boot(session)
        workers.heartbeat(session, made.id, slots={Pool.SERVE: Slots(2, 4)}, draining=True)
        assert workers.capacity(session, [SERVE])[SERVE] == Capacity(workers=1)
        assert workers.live_queues(session) == frozenset()


class TestEngines:
    def test_an_engine_is_ready_from_the_first_time_it_says_so(self, session: Session) -> None:
        worker = boot(session).id
        starting = engine(worker)
        workers.put_engine(session, starting)
        assert workers.engines(session)[0].ready_at is None
        workers.put_engine(session, engine(worker, id=starting.id, state="ready"))
        first = workers.engines(session)[0].ready_at
        workers.put_engine(session, engine(worker, id=starting.id, state="ready", in_flight=3))
        (now,) = workers.engines(session)
        assert first is not None
        assert (now.ready_at, now.in_flight) == (first, 3)

    def test_are_found_by_model_and_worker(self, session: Session) -> None:
        one, two = boot(session).id, boot(session).id
        workers.put_engine(session, engine(one, model_digest="cd" * 32))
        workers.put_engine(session, engine(two))
        assert [e.worker_id for e in workers.engines(session, model_digest="ab" * 32)] == [two]
        assert [e.worker_id for e in workers.engines(session, worker_id=one)] == [one]
        assert [len(w.engines) for w in workers.workers(session)] == [1, 1]

    def test_go_with_their_worker(self, session: Session) -> None:
        one, two = boot(session).id, boot(session).id
        gone = engine(two)
        workers.put_engine(session, engine(one))
        workers.put_engine(session, gone)
        workers.remove_engine(session, gone.id)
        workers.stop(session, one)
        assert session.execute(text("SELECT count(*) FROM engines")).scalar() == 0


class TestAnnouncements:
    @pytest.fixture
    def heard(self, session: Session, database: Database) -> Iterator[Callable[[], list[str]]]:
        """What channel `engines` said since the last call; commits first."""
        url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("LISTEN engines")

            def since() -> list[str]:
                session.commit()
                return [told.payload for told in connection.notifies(timeout=0.2)]

            yield since

    def test_name_the_model_when_callers_can_reach_something_else(
        self, session: Session, heard: Callable[[], list[str]]
    ) -> None:
        made = engine(boot(session).id)
        workers.put_engine(session, made)
        assert heard() == [made.model_digest]
        for change in ({"state": "ready"}, {"state": "ready", "adapters": ("cd" * 32,)}):
            workers.put_engine(session, replace(made, **change))
            assert heard() == [made.model_digest]
        workers.put_engine(session, replace(made, state="ready", adapters=("cd" * 32,), in_flight=3))
        workers.note_figures(session, [(made.id, Figures(running=2))])
        assert heard() == []
        workers.remove_engine(session, made.id)
        assert heard() == [made.model_digest]

    def test_and_when_a_worker_goes(self, session: Session, heard: Callable[[], list[str]]) -> None:
        worker = boot(session).id
        workers.put_engine(session, engine(worker))
        heard()
        workers.stop(session, worker)
        assert heard() == ["ab" * 32]


class TestFigures:
    def test_are_kept_and_make_a_ready_engine_busy(self, session: Session) -> None:
        made = engine(boot(session).id, state="ready", token="s3cret")
        workers.put_engine(session, made)
        workers.note_figures(session, [(made.id, Figures(running=2, waiting=1, kv_used=0.5)), (new_id(), Figures())])
        (now,) = workers.engines(session)
        assert (now.in_flight, now.condition, now.figures.kv_used, now.token) == (3, "busy", 0.5, "s3cret")
        assert "s3cret" not in repr(now)

    def test_what_an_engine_took_is_remembered(self, session: Session) -> None:
        def found() -> Measure | None:
            return workers.measured(session, "ab" * 32, gpu_class="cpu", kind="transformers", tensor_parallel=1)

        assert found() is None
        for load_s in (2.5, 1.5):
            workers.remember(session, Measure("ab" * 32, "cpu", "transformers", 1, load_s, 10**9))
        session.expire_all()
        kept = found()
        assert kept is not None
        assert (kept.load_s, kept.memory_bytes) == (1.5, 10**9)


class TestHardware:
    @pytest.mark.parametrize(
        ("told", "gpu"),
        [
            ("NVIDIA H200, 143771\nNVIDIA H200, 143771\n", Gpu("NVIDIA H200", 143_771 * 2**20)),
            ("Orin (nvgpu), [N/A]\n", Gpu("Orin (nvgpu)", None)),
            ("", None),
            ("No devices were found\n", None),
        ],
    )
    def test_the_driver_is_understood(self, told: str, gpu: Gpu | None) -> None:
        assert hardware.parse(told) == gpu
