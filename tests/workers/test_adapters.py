"""Which adapters one engine process holds: room, turns and refusals, with an engine that notes what it is told."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from shared.contracts.engine import EngineConfig, EngineState, EngineStats
from shared.contracts.jobs import Pool
from shared.engine_client import EngineClient, Reply
from shared.errors import Unavailable
from workers.runtime.adapters import LATELY_S, LOAD, Adapters
from workers.runtime.devices import Devices
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.served import Adapter
from workers.runtime.slots import Slots, slot_names


@dataclass
class Process:
    """An engine at its seam: `holds` is what it was told to load; `status` is what it answers."""

    places: int = 2
    status: int = 200
    body: bytes = b""
    holds: list[str] = field(default_factory=list)

    @property
    def config(self) -> EngineConfig:
        return EngineConfig(
            engine_id="e", model_path=Path("/m"), models=("m",), uds=Path("/s"), max_adapters=self.places
        )

    @property
    def client(self) -> EngineClient:
        return cast("EngineClient", self)

    async def post(self, path: str, body: Any) -> Reply:
        name = body["lora_name"]
        if path != LOAD:
            self.holds.remove(name)
        elif self.status == 200:
            assert len(self.holds) < self.places
            self.holds.append(name)
        return Reply(self.status if path == LOAD else 200, self.body)


@dataclass
class Memory:
    """`left` bytes for adapters."""

    left: int

    def take(self, count: int, *, force: bool = False) -> bool:
        if count > self.left and not force:
            return False
        self.left -= count
        return True

    def give(self, count: int) -> None:
        self.left += count


def adapter(digest: str) -> Adapter:
    return Adapter(digest, digest, lambda: Path("/a"))


def answered(**seconds_ago: float) -> EngineStats:
    return EngineStats(
        engine_id="e", pid=1, state=EngineState.READY, model="m", context_length=1, running=0, waiting=0,
        max_in_flight=1, kv_blocks_total=1, kv_blocks_free=1, tokens_generated=0, started_at=0, ready_at=0,
        adapters=tuple(seconds_ago), adapters_idle_s=seconds_ago, lifelines=1, detached=False,
    )  # fmt: skip


async def ahead(adapters: Adapters, process: Process, digest: str, *, kept: Iterable[str] = (), size: int = 0) -> bool:
    return await adapters.ahead(process, adapter(digest), used=tuple, kept=[*kept], size=size)


async def ensure(adapters: Adapters, process: Process, digest: str, *, used: Iterable[str] = (), size: int = 0) -> None:
    await adapters.ensure(process, adapter(digest), used=lambda: [*used], size=size)


class TestEnsure:
    def test_the_longest_unused_one_makes_room_and_one_in_use_does_not(self) -> None:
        async def scene() -> None:
            adapters, process = Adapters(), Process()
            for digest in ("a", "b", "a"):
                await ensure(adapters, process, digest)
            await ensure(adapters, process, "c")
            assert process.holds == ["a", "c"]
            await ensure(adapters, process, "d", used=["a"])
            assert adapters.digests == ("a", "d")

        asyncio.run(scene())

    def test_what_gateways_ask_counts_as_use(self) -> None:
        async def scene() -> None:
            adapters, process = Adapters(), Process()
            for digest in ("a", "b"):
                await ensure(adapters, process, digest)
            adapters.note(answered(a=0.0, b=LATELY_S + 1))
            await ensure(adapters, process, "c")
            assert adapters.digests == ("a", "c")

        asyncio.run(scene())

    def test_when_all_are_held_it_may_be_tried_again(self) -> None:
        async def scene() -> None:
            adapters, process = Adapters(), Process()
            for digest in ("a", "b"):
                await ensure(adapters, process, digest)
            with pytest.raises(EngineFailed, match="All 2 adapters") as refused:
                await ensure(adapters, process, "c", used=["a", "b"])
            assert refused.value.error.retryable

        asyncio.run(scene())

    def test_memory_that_is_short_is_made_by_others_and_refuses_nobody(self) -> None:
        async def scene() -> None:
            memory = Memory(10)
            adapters, process = Adapters(room=memory), Process(places=8)
            for digest in ("a", "b", "c"):
                await ensure(adapters, process, digest, size=4)
            assert (adapters.digests, memory.left) == (("b", "c"), 2)
            await ensure(adapters, process, "d", used=["b", "c"], size=4)
            assert (adapters.digests, memory.left) == (("b", "c", "d"), -2)

        asyncio.run(scene())

    def test_a_refusal_costs_no_room(self) -> None:
        async def scene() -> None:
            memory = Memory(10)
            adapters, process = Adapters(room=memory), Process(status=400, body=b"too odd")
            with pytest.raises(EngineFailed) as refused:
                await ensure(adapters, process, "a", size=4)
            assert (refused.value.error.code, memory.left) == ("adapter_load_failed", 10)
            assert "too odd" in str(refused.value.error.detail)
            process.body = b"The lora adapter 'a' has already been loaded."
            await ensure(adapters, process, "a", size=4)
            assert adapters.digests == ("a",)

        asyncio.run(scene())

    def test_files_that_cannot_be_had_are_an_error_of_the_adapter(self) -> None:
        def away() -> Path:
            raise Unavailable("the store is away")

        async def scene() -> None:
            with pytest.raises(EngineFailed, match="away") as refused:
                await Adapters().ensure(Process(), Adapter("a", "a", away), used=tuple)
            assert refused.value.error.retryable

        asyncio.run(scene())


class TestAhead:
    def test_free_memory_alone_is_taken(self) -> None:
        async def scene() -> None:
            adapters, process = Adapters(room=Memory(10)), Process(places=8)
            assert [await ahead(adapters, process, digest, size=4) for digest in "abc"] == [True, True, False]
            assert adapters.digests == ("a", "b")

        asyncio.run(scene())

    def test_a_new_one_takes_the_place_of_one_that_nobody_wishes_or_asks_for(self) -> None:
        async def scene() -> None:
            adapters, process = Adapters(), Process()
            for digest in ("a", "b"):
                await ensure(adapters, process, digest)
            assert not await ahead(adapters, process, "c", kept=["a", "b", "c"])
            adapters.note(answered(a=0.5))
            assert await ahead(adapters, process, "c", kept=["c"])
            assert adapters.digests == ("a", "c")

        asyncio.run(scene())

    def test_one_that_made_room_for_a_call_comes_back_when_a_place_is_free(self) -> None:
        async def scene() -> None:
            adapters, process = Adapters(), Process(places=1)
            await ahead(adapters, process, "new", kept=["new"])
            await ensure(adapters, process, "old")
            assert not await ahead(adapters, process, "new", kept=["new"])  # else they would chase each other
            await adapters.drop(process, "old")
            assert await ahead(adapters, process, "new", kept=["new"])
            assert process.holds == ["new"]

        asyncio.run(scene())

    def test_whoever_listens_hears_of_an_end_before_it_happens(self) -> None:
        async def scene() -> None:
            process, seen = Process(), list[tuple[tuple[str, ...], list[str]]]()
            adapters = Adapters(changed=lambda: seen.append((adapters.digests, [*process.holds])))
            await ahead(adapters, process, "a")
            await adapters.drop(process, "a")
            assert seen == [(("a",), ["a"]), ((), ["a"])]
            assert process.holds == []

        asyncio.run(scene())


class TestRoom:
    def test_beside_an_engine_is_what_no_other_one_fills(self, tmp_path: Path) -> None:
        slots = Slots(tmp_path, slot_names("cpu", devices=[0], pools=[Pool.SERVE]))
        devices, names = Devices(slots, budget=10, patience_s=1, changed=lambda: None), slots.names
        devices.occupy("engine", names, 4)
        devices.occupy("other", names, 3)
        assert [devices.grow("engine", names, 2) for _ in range(2)] == [True, False]
        assert devices.left(names[0]) == 1
        devices.grow("engine", names, 5, force=True)  # it is taken, whatever we think
        assert devices.left(names[0]) == -4
        devices.shrink("engine", names, 4)  # its process has ended, and what it had besides
        assert devices.left(names[0]) == 3
        devices.leave("engine", names)
        devices.grow("engine", names, -2)
        assert devices.left(names[0]) == 7
