"""Who runs on which slot: engines and forges take slots here, in the order in which they asked."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from shared.contracts.jobs import Pool
from workers.runtime.slots import SlotName, Slots


class Devices:
    """The slots of this worker that are taken. Used on the runner's loop."""

    def __init__(self, slots: Slots, *, changed: Callable[[], None]) -> None:
        self.slots = slots
        self._announce = changed
        self._taken: set[SlotName] = set()
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def free(self, pool: Pool) -> list[SlotName]:
        """Slots that work of `pool` can take now."""
        return [name for name in self.slots.usable(pool) if name not in self._taken]

    async def take(self, pool: Pool, count: int, *, vacate: Callable[[], Awaitable[bool]]) -> Sequence[SlotName]:
        """Take `count` slots. When there are too few, `vacate` unloads something idle, or says False: then wait.

        Whoever asked earlier is served earlier, so a stream of jobs for one model cannot starve another
        model.
        """
        async with self._turn:
            while len(free := self.free(pool)) < count:
                self._changed.clear()
                if not await vacate():
                    await self._changed.wait()
            self._taken.update(free[:count])
            return free[:count]

    def occupy(self, names: Sequence[SlotName]) -> None:
        """Note that an adopted engine sits on these slots."""
        self._taken.update(names)

    def give_back(self, names: Sequence[SlotName]) -> None:
        """These slots are free again."""
        self._taken.difference_update(names)
        self.touch()

    def touch(self) -> None:
        """Something became free or idle: whoever waits looks again."""
        self._changed.set()
        self._announce()
