"""What a worker does about adapters that do not load, engines that take none, and ranks that are too large."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from sqlalchemy.orm import Session

from services.placement.types import Wanted, Wish
from shared.contracts.engine import EngineConfig, EngineStats
from shared.contracts.serving import Mode
from shared.engine_client import EngineClient, EngineGone, Reply
from shared.ids import new_id
from shared.settings import Settings
from tests.workers.engine_yard import until
from tests.workers.test_adapters import answered
from workers.runtime.adapters import LOAD
from workers.runtime.database import Transactions
from workers.runtime.engine import Engine
from workers.runtime.engine_process import EngineProcess
from workers.runtime.reconciling import Reconciler
from workers.runtime.served import Adapter, ServedModel
from workers.runtime.sizing import Size, Sizes

BASE = ServedModel("base", "base", lambda: Path("/m"))


@dataclass
class Process:
    """An engine process at its seam. `refuses` are adapters that it answers 400 to; `kills`, ones that it dies of."""

    refuses: set[str] = field(default_factory=set)
    kills: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)  #: to load
    rank: int = 64
    stopped: bool = False
    id: Any = field(default_factory=new_id)

    __hash__ = object.__hash__

    @property
    def config(self) -> EngineConfig:
        return EngineConfig(
            engine_id="e", model_path=Path("/m"), models=("m",), uds=Path("/s"), max_adapters=4, lora_rank=self.rank
        )

    @property
    def client(self) -> EngineClient:
        return cast("EngineClient", self)

    async def post(self, path: str, body: Any) -> Reply:
        name = body["lora_name"]
        if path == LOAD:
            self.asked.append(name)
        if name in self.kills:
            raise EngineGone("killed")
        return Reply(400 if name in self.refuses else 200, b"it does not fit")

    async def stats(self) -> EngineStats:
        return answered()

    async def stop(self) -> None:
        self.stopped = True


@dataclass
class Scene:
    """One engine of a worker whose database wishes for `wishes`."""

    wishes: list[Wish]
    process: Process = field(default_factory=Process)
    kind: str = "transformers"
    size: Size = field(default_factory=Size)
    modes: tuple[Mode, ...] = (Mode.GENERATE,)
    settings: Settings = field(default_factory=Settings)
    told: list[tuple[str, ...]] = field(default_factory=list)  #: digests with an error, whenever the row is written

    def __post_init__(self) -> None:
        self.engine = Engine(BASE, kind=self.kind, modes=self.modes, size=self.size)
        self.reconciler = Reconciler(
            self.settings,
            [self.engine],
            transactions=cast("Transactions", self),
            sizes=Sizes(self.settings),
            served=lambda model: cast("ServedModel", model),
            told=lambda engine, _: self.told.append(tuple(sorted(engine.adapter_errors))),
        )

    async def run(self, work: Callable[[Session], Any]) -> Any:
        """The database: what is wished for, or (in a later turn) the version of the wish that is loaded next."""
        if work.__qualname__.startswith("Reconciler._look"):
            return {"base": Wanted(tuple(self.wishes))}
        digest = self._next()
        return ServedModel("base", "base", lambda: Path("/m"), adapter=Adapter(digest, digest, lambda: Path("/a")))

    def _next(self) -> str:
        return next(wish.digest for wish in self.wishes if wish.digest not in self.asked_for())

    def asked_for(self) -> set[str]:
        return {*self.process.asked, *self.engine.adapters.digests}

    def up(self, process: Process) -> None:
        self.process = process
        self.engine.up(cast("EngineProcess", process))

    async def look(self, times: int = 1) -> None:
        """Let the reconciler look, as often as that, and finish what it began."""
        task = asyncio.create_task(self.reconciler.run())
        for _ in range(times):
            self.reconciler.ring()
            await until(lambda: not self.reconciler.busy)
        task.cancel()


def wish(digest: str, rank: int = 8) -> Wish:
    return Wish(new_id(), new_id(), digest, rank)


class TestFailures:
    def test_one_that_is_refused_is_told_once_and_keeps_no_other_one_away(self) -> None:
        async def scene() -> None:
            found = Scene([wish("bad"), wish("good")])
            found.up(Process(refuses={"bad"}))
            await found.look(times=3)
            assert found.process.asked == ["bad", "good"]
            assert found.told == [("bad",)]
            assert found.engine.adapter_errors["bad"].detail == "status 400: it does not fit"

        asyncio.run(scene())

    def test_one_that_kills_its_engine_does_not_kill_the_next_one_too(self) -> None:
        async def scene() -> None:
            found = Scene([wish("bad"), wish("good")])
            found.up(Process(kills={"bad"}))
            await found.look()
            found.up(Process(kills={"bad"}))
            found.wishes.reverse()
            await found.look(times=3)
            assert found.process.asked == ["good"]
            assert found.engine.adapters.digests == ("good",)

        asyncio.run(scene())

    def test_an_error_is_forgotten_with_its_wish(self) -> None:
        async def scene() -> None:
            found = Scene([wish("bad")])
            found.up(Process(refuses={"bad"}))
            await found.look()
            found.wishes.clear()
            await found.look()
            assert found.engine.adapter_errors == {}
            found.wishes.append(wish("bad"))
            found.process.asked.clear()
            await found.look()
            assert found.process.asked == ["bad"]

        asyncio.run(scene())


class TestEngines:
    @pytest.mark.parametrize(
        "unable",
        [
            {"size": Size(ranks=2)},
            {"kind": "vllm", "modes": (Mode.EMBED,)},
            {"kind": "mine", "settings": Settings(engine_commands={"mine": ["serve", "{uds}"]})},
            {"kind": "gone"},
        ],
    )
    def test_one_that_takes_no_adapters_is_left_alone(self, unable: dict[str, Any]) -> None:
        async def scene() -> None:
            found = Scene([wish("a")], **unable)
            found.up(Process())
            await found.look()
            assert found.process.asked == []

        asyncio.run(scene())


class TestRanks:
    VLLM: ClassVar[dict[str, Any]] = {"kind": "vllm", "settings": Settings(vllm_python=Path("/bin/sh"))}

    def test_an_engine_for_smaller_ones_says_so_while_it_is_used(self) -> None:
        async def scene() -> None:
            found = Scene([wish("large", rank=128), wish("small")], **self.VLLM)
            found.up(Process())
            await found.look(times=2)
            assert not found.process.stopped
            assert "ranks up to 64" in found.engine.adapter_errors["large"].title
            assert len(found.told) == 1

        asyncio.run(scene())

    def test_and_comes_again_once_it_idles(self) -> None:
        async def scene() -> None:
            found = Scene([wish("large", rank=128)], **self.VLLM)
            found.up(Process())
            found.engine.used_at -= 60
            await found.look()
            assert found.process.stopped
            assert found.engine.renewing

        asyncio.run(scene())
