"""Who runs on which slot: forges take slots whole, engines share a slot's memory, each in the order of asking."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from shared.clock import monotonic
from shared.contracts.jobs import Pool
from workers.runtime.sizing import Need
from workers.runtime.slots import SlotName, Slots


class Residents(Protocol):
    """The engines, which make room for others."""

    async def vacate(self, names: Collection[SlotName]) -> bool:
        """Unload the idle engine on these slots that nobody has used for longest; False when there is none."""
        ...

    async def press(self, names: Collection[SlotName]) -> bool:
        """Have the engine on these slots that is wanted least leave when it has answered; False when there is none."""
        ...


class Devices:
    """The slots of this worker and what fills them. Used on the runner's loop.

    `budget` is the bytes of one slot that engines may fill together; `patience_s` is how long somebody waits for
    idle engines before one in use is told to leave.
    """

    def __init__(self, slots: Slots, *, budget: int, patience_s: float, changed: Callable[[], None]) -> None:
        self.slots = slots
        self.budget = budget
        self._patience_s = patience_s
        self._announce = changed
        self._taken: set[SlotName] = set()  # by forges
        self._held: defaultdict[SlotName, dict[object, int]] = defaultdict(dict)  # bytes of engines
        shared = asyncio.Lock()
        self._turns = {pool: asyncio.Lock() if self._apart() else shared for pool in Pool}
        self._changed = asyncio.Event()

    def _apart(self) -> bool:
        """Whether each pool has slots of its own: a forge and an engine never wait for one another there."""
        return all(name.pool is not None for name in self.slots.names)

    def free(self, pool: Pool) -> list[SlotName]:
        """Slots with nothing on them."""
        return [name for name in self.slots.usable(pool) if name not in self._taken and not self._held[name]]

    def left(self, name: SlotName) -> int:
        """Bytes of a slot that no engine fills."""
        return 0 if name in self._taken else self.budget - sum(self._held[name].values())

    async def take(self, pool: Pool, count: int, *, residents: Residents) -> Sequence[SlotName]:
        """Take `count` whole slots, for a forge. Whoever asked earlier is served earlier."""

        def find() -> Sequence[SlotName] | None:
            free = self.free(pool)
            return free[:count] if len(free) >= count else None

        async with self._turns[pool]:
            names = await self._wait(find, lambda: self._shared(pool), residents)
            self._taken.update(names)
            return names

    async def place(
        self, owner: object, need: Need, count: int, *, residents: Residents
    ) -> tuple[Sequence[SlotName], int]:
        """Have room for an engine on `count` slots: which, and how many bytes of each it got.

        The emptiest slots go first: two models on two devices do not share one.
        """

        def find() -> Sequence[SlotName] | None:
            names = sorted(self.slots.usable(Pool.SERVE), key=self.left, reverse=True)[:count]
            fit = len(names) == count and all(self._fits(name, need) for name in names)
            return names if fit else None

        async with self._turns[Pool.SERVE]:
            names = await self._wait(find, lambda: self._shared(Pool.SERVE), residents)
            granted = max(need.least, min(need.most, *(self.left(name) for name in names)))
            self.occupy(owner, names, granted)
            return names, granted

    def _fits(self, name: SlotName, need: Need) -> bool:
        """Whether an engine fits; one that the estimate says is too large may try an empty slot."""
        return name not in self._taken and (need.least <= self.left(name) or not self._held[name])

    def _shared(self, pool: Pool) -> set[SlotName]:
        return {name for name in self.slots.usable(pool) if self._held[name]}

    async def _wait(
        self,
        find: Callable[[], Sequence[SlotName] | None],
        contested: Callable[[], Collection[SlotName]],
        residents: Residents,
    ) -> Sequence[SlotName]:
        pressed_at = monotonic() + self._patience_s
        while (names := find()) is None:
            self._changed.clear()
            if await residents.vacate(contested()):
                continue
            try:
                async with asyncio.timeout(max(0.0, pressed_at - monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                pressed_at = monotonic() + self._patience_s
                await residents.press(contested())
        return names

    def occupy(self, owner: object, names: Sequence[SlotName], held: int) -> None:
        """Note that an engine sits on these slots, with `held` bytes on each."""
        for name in names:
            self._held[name][owner] = held

    def grow(self, owner: object, names: Sequence[SlotName], count: int, *, force: bool = False) -> bool:
        """Let an engine that sits on these slots hold `count` bytes more of each; False when one has them not.

        With `force` they are noted all the same: they are taken already, or will be.
        """
        if count > 0 and not force and any(self.left(name) < count for name in names):
            return False
        for name in names:
            if owner in self._held[name]:
                self._held[name][owner] += count
        if count < 0:
            self.touch()
        return True

    def shrink(self, owner: object, names: Sequence[SlotName], held: int) -> None:
        """An engine that sits on these slots holds `held` bytes of each again: what it had besides is gone."""
        for name in names:
            if owner in self._held[name]:
                self._held[name][owner] = held
        self.touch()

    def leave(self, owner: object, names: Sequence[SlotName]) -> None:
        """An engine has left these slots."""
        for name in names:
            self._held[name].pop(owner, None)
        self.touch()

    def alone(self, owner: object, names: Sequence[SlotName]) -> Sequence[SlotName]:
        """Those of these slots that no other engine sits on."""
        return [name for name in names if not set(self._held[name]) - {owner}]

    def give_back(self, names: Sequence[SlotName]) -> None:
        """A forge has left these slots."""
        self._taken.difference_update(names)
        self.touch()

    def touch(self) -> None:
        """Something became free or idle: whoever waits looks again."""
        self._changed.set()
        self._announce()
