"""Whether an engine has let go of requests that were aborted: a job counts as cancelled only then."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from shared.contracts.engine import EngineStats
from shared.engine_client import EngineGone

POLL_S: Final = 0.05


class Process(Protocol):
    """What can be asked how many requests it holds."""

    async def stats(self) -> EngineStats:
        """Its figures. Raises EngineGone or TimeoutError."""
        ...


async def lets_go(process: Process, held: Callable[[], int], *, others: int, within_s: float) -> bool:
    """Wait until an engine holds no more requests than `held()`; False when it never does.

    Interactive calls (`others` of them when it was last asked) are in the engine too, and come and go: while there
    are any, what it holds proves nothing about aborted requests, and it gets the benefit of the doubt.
    """
    seen = set[int]()
    try:
        async with asyncio.timeout(within_s):
            while True:
                before = held()
                stats = await process.stats()
                excess = stats.running + stats.waiting - max(before, held())
                if excess <= 0:
                    return True
                seen.add(excess)
                await asyncio.sleep(POLL_S)
    except EngineGone:
        return True  # dead engines generate nothing
    except TimeoutError:
        return others > 0 or len(seen) > 1
