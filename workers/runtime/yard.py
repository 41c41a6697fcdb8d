"""The yard of engines: everything that engines of one worker share, put together."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from services.placement import ahead
from shared.contracts.jobs import Pool
from shared.errors import DatabaseUnavailable
from shared.settings import Settings
from shared.storage import Store
from workers.runtime.database import Transactions
from workers.runtime.devices import Devices
from workers.runtime.engines import Engines
from workers.runtime.folders import Folders
from workers.runtime.keeping import Keeper
from workers.runtime.measures import Measures
from workers.runtime.presence import Presence
from workers.runtime.reconciling import Reconciler
from workers.runtime.records import Records
from workers.runtime.served import served
from workers.runtime.sizing import Sizes
from workers.runtime.slots import Slots
from workers.runtime.spares import Spares
from workers.runtime.starting import Starter


class Yard:
    """A worker's engines and what they run on. Used on the runner's loop."""

    def __init__(
        self,
        settings: Settings,
        folders: Folders,
        *,
        slots: Slots,
        transactions: Transactions,
        store: Store,
        presence: Presence,
        freed: Callable[[], None],
    ) -> None:
        sizes = Sizes(settings)
        measures = Measures(transactions, gpu_class=settings.gpu_class)
        self._slots = slots
        self._records = Records(tell=presence.tell, worker_id=presence.id)
        self._spares = Spares(settings, folders, slots)
        self.devices = Devices(slots, budget=sizes.budget, patience_s=settings.engine_yield_s, changed=freed)

        async def rank(digest: str) -> int:
            with suppress(DatabaseUnavailable):  # an engine starts all the same
                return await transactions.run(lambda session: ahead.largest_rank(session, digest))
            return 0

        starter = Starter(settings, folders, self.devices, sizes=sizes, spares=self._spares, rank=rank)
        self._keeper = Keeper(
            settings, self.devices, starter=starter, sizes=sizes, records=self._records, measures=measures
        )
        self.engines = Engines(
            settings,
            folders,
            self.devices,
            keeper=self._keeper,
            sizes=sizes,
            records=self._records,
            measures=measures,
        )
        self.adapters = Reconciler(
            settings,
            self.engines,
            transactions=transactions,
            sizes=sizes,
            served=lambda model: served(model, store=store, models=folders.models),
            told=self._records.serving,
        )
        self._keeper.risen = self.adapters.risen

    async def run(self) -> None:
        """Unload what idles, keep spares and adapters ready; until cancelled."""
        spares = self._spares.run(
            names=lambda: self._slots.usable(Pool.SERVE),
            starting=lambda: self._keeper.starting > 0,
            answering=lambda: any(not engine.idle for engine in self.engines),
        )
        async with asyncio.TaskGroup() as group:  # one that fails ends the other: both start again together
            group.create_task(self.engines.tidy())
            group.create_task(spares)
            group.create_task(self.adapters.run())

    def rename(self, worker_id: UUID) -> None:
        """The worker has a new row: its engines' rows belong to that."""
        self._records.worker_id = worker_id
        self.engines.report()

    def close(self) -> None:
        """Start and load nothing ahead any more."""
        self.adapters.close()
        self._spares.close()
